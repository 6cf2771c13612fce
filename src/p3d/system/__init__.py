"""The machine: devices, processes, files, signals, text output."""
