"""What a model is trained and measured on: batches, and what the transform graph makes of them."""
