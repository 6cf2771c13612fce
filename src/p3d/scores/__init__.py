"""What is kept of an evaluation: scores, and the figures that are computed from them."""
