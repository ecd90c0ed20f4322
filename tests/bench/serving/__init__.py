"""Benchmarks of the last mile: real servers under a steady load."""
