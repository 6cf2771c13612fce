"""What differs between machines: devices, processes, files, signals, text."""
