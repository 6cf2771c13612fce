"""Sizes of the narrow P3D-63 of the tests."""

BLOCKS = (1, 1, 1, 1)
PLANES = (8, 16, 32, 64)
