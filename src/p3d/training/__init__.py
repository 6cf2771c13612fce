"""Training: recipes, options, the loop, checkpoints and logs."""
