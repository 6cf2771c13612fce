"""Opening a video file or a folder of frames.

A frame is the same as in a decode of the whole file, whichever frames are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from torch import Tensor

from p3d.errors import BadVideoError
from p3d.system.resources import raise_file_limit_error
from p3d.video.frame_folder import open_folder
from p3d.video.remote import RemoteVideo, Source, is_address, name_of
from p3d.video.sources import FrameSource
from p3d.video.suffixes import STILL_SUFFIXES
from p3d.video.video_file import VideoFile, missing_file


@contextmanager
def open_video(
    path: Path | str, *, prefer_flow: bool = False, fps: float | None = None
) -> Iterator[FrameSource]:
    """Open a video file, an address of one, or a folder of frames for a `with` block.

    The frames of a folder are its JPEG, PNG, BMP and WebP files, ordered by the numbers at the end
    of their names (`walk-0001.jpg`), which must not differ in anything else. A file
    `frame-times.txt` states their times; without it and without `fps`, their rate is assumed to be
    25. Pairs named `flow_x_00001.jpg` and `flow_y_00001.jpg` are optical
    flow. Where the frame size changes, a video file's frames are scaled to the first one's size; in
    a folder it is an error.

    Args:
        path: The file or folder, or as text an address such as `s3://bucket/walk.mp4`, of which
            fsspec reads what is needed.
        prefer_flow: Read the flow of a folder that holds both frames and flow.
        fps: Frame rate of a folder that states no times, in frames per second; a file has its own.

    >>> with open_video("v_Biking_g01_c04.avi") as video:
    ...     clip = video.read(range(16))

    Raises:
        BadVideoError: The file does not exist, or no frame can be read from it.
    """
    if isinstance(path, str) and is_address(path):
        with closing(_open_file(RemoteVideo(path), None)) as video:
            yield video
        return
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise_file_limit_error(error)
        raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
    if stat.S_ISDIR(status.st_mode):
        yield open_folder(path, prefer_flow=prefer_flow, fps=fps)
        return
    with closing(_open_file(path, status)) as video:
        yield video


def _open_file(source: Source, status: os.stat_result | None) -> VideoFile:
    """Open a file, and say what to give instead if it is a single picture.

    Some formats of pictures, such as PNG and AVIF, can hold a video too.
    """
    is_empty = status is not None and status.st_size == 0
    is_still = source.name.lower().endswith(STILL_SUFFIXES) and not is_empty
    try:
        video = VideoFile(source, status)
    except BadVideoError:
        if not is_still:
            raise
    else:
        if not is_still or video.num_frames > 1:
            return video
        video.close()
    path = name_of(source)
    raise BadVideoError(path, "is a picture; give a video, or the folder of its frames")


def read_clip(path: Path | str, indices: Sequence[int]) -> Tensor:
    """Open a video and return frames by number; see `open_video` and `FrameSource.read`."""
    with open_video(path) as video:
        return video.read(indices)
