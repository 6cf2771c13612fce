"""A data set and its clips: listed, sampled, transformed and loaded."""
