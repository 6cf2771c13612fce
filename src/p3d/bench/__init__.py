"""What `p3d bench` times."""
