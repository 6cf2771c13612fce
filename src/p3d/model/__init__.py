"""The network, a plain Conv3d version of it, and what training adds to it."""
