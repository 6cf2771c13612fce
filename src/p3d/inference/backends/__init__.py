"""Ways to compute one network: PyTorch, compiled PyTorch, and files of other runtimes."""
