"""What is minimized: the loss of the task, and terms that hold a model to what it knew."""
