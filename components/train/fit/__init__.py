"""A training as it runs: its steps, what watches them, where they run, and how a killed one goes on."""
