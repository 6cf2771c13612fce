"""How a player rotates or mirrors the frames of a file."""

from __future__ import annotations

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

# The linear part of the display matrix for each counterclockwise rotation in degrees.
_ROTATIONS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the linear part of a display matrix that rotates or mirrors; else the identity."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know the type of some other side data, such as EXIF
        return _ROTATIONS.get(frame.rotation % 360, (1, 0, 0, 1))
    if isinstance(data, SideData):
        m = np.rint(np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536).astype(int).tolist()
        if sorted(map(abs, m)) == [0, 0, 1, 1] and abs(m[0] * m[3] - m[1] * m[2]) == 1:
            return m[0], m[1], m[2], m[3]
    return 1, 0, 0, 1
