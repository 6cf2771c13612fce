"""Data sets: reading, sampling, transforming and loading of clips."""
