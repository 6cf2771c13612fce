"""The network, its plain Conv3d twin, and what training adds to it."""
