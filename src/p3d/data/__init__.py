"""Videos: prepared, listed, decoded, sampled, transformed and loaded."""
