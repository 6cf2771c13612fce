"""`p3d bench`: timings of the network and of training steps."""
