"""Data sets made ready and checked: what `p3d prepare` does.

`options` tells what can be asked for, without loading what does it. The ways themselves: `ucf101`,
`manifest` (any other data set with lists of its own), `check`, `frames` and `flow`.
"""
