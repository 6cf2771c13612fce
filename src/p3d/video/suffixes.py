"""Suffixes of the files that are read as videos and as frames."""

VIDEO_SUFFIXES = frozenset(
    ("3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv")
)
"""Suffixes of video files, in lower case and without the dot."""

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Endings of the files of a frame folder, in lower case and with the dot."""
