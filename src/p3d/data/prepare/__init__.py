"""Data sets made ready and checked: what `p3d prepare` does.

`options` tells what can be asked for, without loading what does it: `ucf101`, `manifest`, `check` and `frames`.
"""
