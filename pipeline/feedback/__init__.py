"""The way back from production: what was answered, joined with the labels that came later."""
