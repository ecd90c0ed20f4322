"""What a training leaves for others: the SavedModel, its warm-up requests, and the answers it must give."""
