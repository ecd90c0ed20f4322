"""What a model is: its layers, its optimizer, and what rebuilds both from a checkpoint."""
