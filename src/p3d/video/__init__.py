"""Exact frames and optical flow from video files and frame folders."""
