"""Videos as files of optical flow, for flow networks to be trained on.

A file appears whole or not at all. It is kept by a later run if it has all frames, of the scale
asked for; otherwise it is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event

import av
import numpy as np
from numpy.typing import NDArray

from p3d.data.dataset import VideoRecord
from p3d.errors import BadVideoError, UserError
from p3d.prepare.derive import Made, Summary, derive
from p3d.prepare.options import FlowOptions
from p3d.system.files import replacing
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow, load_opencv
from p3d.video.flow_file import PIXEL_FORMAT
from p3d.video.sources import FrameSource, chunks

# Coder 0 is one part in six larger than coder 1 and twice as fast to decode. No dates or random
# numbers in the file: the same video gives the same bytes.
_FFV1 = {"level": "3", "coder": "0", "slicecrc": "1", "threads": "1"}
_BYTES_ALONE = {"fflags": "+bitexact"}


class _GivenUpError(Exception):
    """The run was stopped while this video was under way."""


def compute_flow(options: FlowOptions) -> Summary:
    """Writes the optical flow of every video of every split.

    The lists of UCF101 are copied; another data set gets a manifest.

    Args:
        options: See `FlowOptions`.

    Returns:
        What was done. Broken videos are in it and have no file.

    Raises:
        UserError: If OpenCV or the data set is not there, or something else is in the way.
    """
    # Videos, not rows of a picture, are what the threads share out.
    load_opencv().setNumThreads(1)
    data = options.data.data
    if options.out.resolve() in (data.resolve(), data.resolve().parent):
        raise UserError(f"--out {options.out}: holds the videos themselves; choose another folder")
    stopping = Event()

    def watched(numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            if stopping.is_set():
                raise _GivenUpError
            yield number

    def compute(target: Path, record: VideoRecord) -> Made:
        with open_video(record.path) as video:
            if video.flow is not None:
                raise BadVideoError(record.path, "holds optical flow already")
            return _compute(target, record, ComputedFlow(video, options.short_side, each=watched))

    return derive(
        options.data,
        options.out,
        compute,
        what="flow frames",
        suffix=".mkv",
        workers=options.workers,
        stopping=stopping,
    )


def run(options: FlowOptions) -> int:
    """Writes flow, prints the outcome, and returns the exit code: 0 if no video was broken."""
    summary = compute_flow(options)
    print("\n".join(summary.lines()))
    return summary.exit_code


def _compute(target: Path, record: VideoRecord, flow: ComputedFlow) -> Made:
    made = replace(record, path=target, num_frames=flow.num_frames, fps=flow.fps)
    if target.exists() and _finished(target, flow):
        return Made(made, written=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, flush=False) as temporary:
        try:
            write_flow(temporary, flow)
        except av.FFmpegError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    return Made(made, written=True)


def _finished(target: Path, flow: ComputedFlow) -> bool:
    """Whether a file holds this flow.

    Raises:
        UserError: It holds something else than flow.
    """
    try:
        with open_video(target) as old:
            found, size = old.flow, (old.num_frames, old.height, old.width)
    except BadVideoError:
        return False
    if found is None:
        raise UserError(f"{target}: holds no optical flow; move it, or choose another --out")
    return (
        size == (flow.num_frames, flow.height, flow.width)
        and found.source == flow.flow.source
        and found.fits(flow.flow.short_side)
    )


def write_flow(path: Path, flow: FrameSource) -> None:
    """Writes a file of optical flow; see `p3d.video.flow_file`.

    Args:
        path: The file, whatever its name.
        flow: A source of flow.
    """
    with av.open(str(path), "w", format="matroska", options=_BYTES_ALONE) as container:
        if flow.flow is not None:
            container.metadata.update(flow.flow.tags())
        # Matroska counts milliseconds, and no two pictures may share one.
        rate = Fraction(min(max(flow.fps, 0.01), 500.0)).limit_denominator(1001)
        stream = container.add_stream("ffv1", rate=rate, options=_FFV1)
        stream.height, stream.width, stream.pix_fmt = flow.height, flow.width, PIXEL_FORMAT
        stream.gop_size = 1
        for number, frame in enumerate(_frames(flow)):
            picture = _picture(frame)
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _frames(flow: FrameSource) -> Iterable[NDArray[np.uint8]]:
    for numbers in chunks(flow):
        yield from flow.read(numbers).numpy()


def _picture(frame: NDArray[np.uint8]) -> av.VideoFrame:
    height, width = frame.shape[:2]
    picture = av.VideoFrame(width, height, PIXEL_FORMAT)
    (plane,) = picture.planes
    rows = np.zeros((height, plane.line_size), np.uint8)
    rows[:, : 2 * width] = frame.reshape(height, 2 * width)
    plane.update(rows.tobytes())
    return picture
