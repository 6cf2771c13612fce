"""Suffixes of the files that are read as videos and as frames."""

VIDEO_SUFFIXES = frozenset(
    (
        *("3g2", "3gp", "amv", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265"),
        *("hevc", "ivf", "m1v", "m2t", "m2ts", "m2v", "m4v", "mjpeg", "mjpg", "mk3d", "mkv"),
        *("mod", "mov", "mp4", "mpe", "mpeg", "mpg", "mpv", "mts", "mxf", "nut", "ogm", "ogv"),
        *("qt", "rm", "rmvb", "tod", "ts", "vob", "webm", "wmv", "wtv", "xvid", "y4m"),
    )
)
"""Suffixes of video files, in lower case and without the dot."""

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Endings of the files of a frame folder, in lower case and with the dot."""

STILL_SUFFIXES = (*FRAME_SUFFIXES, ".jpe", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")
"""Endings of files that hold a single picture."""
