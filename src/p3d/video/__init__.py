"""From a video file to frames, exactly, and to optical flow."""
