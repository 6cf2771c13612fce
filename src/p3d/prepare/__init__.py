"""Preparing and checking data sets, as `p3d prepare` does.

One module per command: `sample`, `ucf101`, `manifest`, `check`, `frames` and `flow`.
"""
