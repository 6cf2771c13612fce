"""A trained network at work: scores of clips and of videos."""
