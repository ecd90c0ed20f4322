"""What of a champion its successor starts from: weights, slots and step, each where it belongs now."""
