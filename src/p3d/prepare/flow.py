"""Videos as files of optical flow, on which flow networks are trained.

A file is complete or absent. A later run keeps it if it has all frames at the requested scale, and
writes it again otherwise. A file of flow by another method is refused. A file of an earlier version
with other times than the video's gets the video's times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from p3d.archive.machines import open_machine
from p3d.archive.options import ClusterOptions
from p3d.archive.work import OneStage
from p3d.data.dataset import VideoRecord
from p3d.data.layouts import DataOptions
from p3d.data.sampling import TOLERANCE
from p3d.errors import BadVideoError, UserError
from p3d.prepare.derive import Derived, Summary, derive, describe, stages
from p3d.prepare.options import check_workers, most_workers
from p3d.preprocessing import FlowMethod
from p3d.system.device import DeviceName, count_devices, resolve_device, set_up_cpu
from p3d.system.files import replacing
from p3d.system.machine import num_cores
from p3d.system.markers import First
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow
from p3d.video.flow_file import PIXEL_FORMAT
from p3d.video.flow_methods import load_opencv, make_estimator
from p3d.video.frame_times import same_times, times_tags
from p3d.video.sources import FrameSource, chunks

# Files are one sixth larger with coder 0 than with coder 1, and decode twice as fast.
_FFV1 = {"level": "3", "coder": "0", "slicecrc": "1", "threads": "1"}
# No dates or random numbers: the same video always gives the same bytes.
_MATROSKA = {"fflags": "+bitexact"}


@dataclass(frozen=True)
class FlowOptions:
    """Compute the optical flow of videos, for flow networks."""

    data: DataOptions
    out: Path
    """Output folder, a data set of OUT/SPLIT/CLASS/VIDEO.mkv for `p3d train --modality flow`."""
    short_side: First[int] = 256
    """Shrink frames so that their shorter side has this many pixels before computing flow.
    Flow is stored at this size, and trained weights record it.
    Half the size takes about a third of the time."""
    method: First[FlowMethod] = "tvl1"
    """TV-L1 by PyTorch (tvl1), by OpenCV (tvl1-opencv, slower, for weights that learned from it)
    or by OpenCV on an OpenCL device (tvl1-opencl), or by OpenCV's dis, which is 40 times as fast as
    tvl1 but gives different flow. OpenCV's methods need pip install 'p3d[flow]'. Trained weights
    record the method."""
    device: DeviceName = "cpu"
    """Device of tvl1; auto takes CUDA, then MLU, then the CPU."""
    workers: First[int] = 0
    """Processes, or threads on a GPU; 0: one per core."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise UserError(f"--short-side {self.short_side}: must be at least 16")
        if self.device != "cpu" and self.method != "tvl1":
            where = "on the CPU only"
            if self.method == "tvl1-opencl":
                where = "on the device that OpenCV finds, or OPENCV_OPENCL_DEVICE names"
            raise UserError(f"--method {self.method}: computes {where}; leave out --device")
        check_workers(self.workers)


def compute_flow(options: FlowOptions) -> Summary:
    """Write the optical flow of every video of every split.

    Lists of UCF101 are copied; other data sets get a manifest. The flow of files with segments is
    computed once and as a whole.

    Raises:
        UserError: The method cannot work here, the data set cannot be read, the folder is a part of
            it, or a path is occupied by something other than flow.
    """
    if options.cluster.ray is None:
        make_estimator(options.method, torch.device("cpu"))  # raises if it cannot work
    # A worker for each core or device; on a device, its threads share memory and kernels.
    on_cpu = options.cluster.ray is not None or resolve_device(options.device).type == "cpu"
    most = most_workers(options.workers, options.cluster) if on_cpu else None
    with open_machine(options.cluster.ray, most, options.device, 1) as machine:
        work = _Work(options, machine.device)
        return derive(options.data, options.out, work, machine, what="flow frames", suffix=".mkv")


@dataclass(frozen=True)
class _Work:
    """See `p3d.archive.work.Work`."""

    options: FlowOptions
    device: DeviceName

    def start(self, number: int) -> OneStage:
        set_up_cpu(1)
        make_estimator(self.options.method, torch.device("cpu"))  # raises if it cannot work
        if self.options.method != "tvl1":
            load_opencv().setNumThreads(1)
        device = resolve_device(self.device)
        devices = count_devices(device)
        if device.type == "cpu":
            threads = 0
        else:
            device = resolve_device(self.device, number % devices)
            threads = math.ceil((self.options.workers or num_cores()) / devices)
        return stages(partial(_write_video, self.options, device), threads)


def run(options: FlowOptions) -> int:
    """Write flow, print the summary, and return the exit code: 0 if no video is broken."""
    return compute_flow(options).print()


def _write_video(
    options: FlowOptions, device: torch.device, target: Path, records: Sequence[VideoRecord]
) -> Derived:
    first = records[0]
    with open_video(first.path, fps=first.fps) as video:
        if video.flow is not None:
            raise BadVideoError(first.path, "holds optical flow already")
        flow = ComputedFlow(video, options.short_side, options.method, device=device)
        is_finished = target.exists() and _is_finished(target, flow)
        if not is_finished:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _writing(target) as temporary:
                write_flow(temporary, flow)
        elif not _has_times(target, flow):
            with _writing(target) as temporary:
                copy_with_times(target, temporary, flow)
        return describe(records, target, flow, written=not is_finished)


@contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """Yield the path of a new file that replaces `target` at the end of the `with` block."""
    with replacing(target, flush=False) as temporary:
        try:
            yield temporary
        except av.FFmpegError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def _is_finished(target: Path, flow: ComputedFlow) -> bool:
    """Return whether a file holds this flow.

    Raises:
        UserError: It holds something other than flow, or flow by another method, which may have
            taken weeks.
    """
    try:
        with open_video(target) as old:
            found, size = old.flow, (old.num_frames, old.height, old.width)
    except BadVideoError:
        return False
    if found is None:
        raise UserError(f"{target}: holds no optical flow; move it, or choose another --out")
    if found.method != flow.flow.method:
        raise UserError(
            f"{target}: holds flow by {found.method}; give --method {found.method} to go on, or "
            "choose another --out"
        )
    return (
        size == (flow.num_frames, flow.height, flow.width)
        and found.source == flow.flow.source
        and found.fits(flow.flow.short_side)
    )


def _has_times(target: Path, flow: ComputedFlow) -> bool:
    """Return whether the times of a file of flow are those of its video, to a millisecond."""
    with open_video(target) as old:
        return bool((np.abs(old.times - flow.times) <= TOLERANCE).all())


def write_flow(path: Path, flow: FrameSource) -> None:
    """Write a file of optical flow in the format of `p3d.video.flow_file`.

    Args:
        path: The file, with any suffix.
        flow: A source of flow.
    """
    with av.open(str(path), "w", format="matroska", options=_MATROSKA) as container:
        # Matroska timestamps are milliseconds, and each frame needs its own.
        rate = Fraction(min(max(flow.fps, 0.01), 500.0)).limit_denominator(1001)
        container.metadata.update(_tags(flow, rate))
        stream = container.add_stream("ffv1", rate=rate, options=_FFV1)
        stream.height, stream.width, stream.pix_fmt = flow.height, flow.width, PIXEL_FORMAT
        stream.gop_size = 1
        for index, frame in enumerate(_read_frames(flow)):
            picture = _to_picture(frame)
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def copy_with_times(source: Path, path: Path, flow: FrameSource) -> None:
    """Copy a file of optical flow, with the times of another source of the same flow."""
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", format="matroska", options=_MATROSKA) as container,
    ):
        container.metadata.update({**old.metadata, **times_tags(flow.times)})
        stream = container.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def _tags(flow: FrameSource, rate: Fraction) -> dict[str, str]:
    """Return the metadata of a file whose frames have a rate."""
    tags = {} if flow.flow is None else flow.flow.tags()
    rounded = np.round(np.arange(flow.num_frames) / float(rate), 3)
    return tags if same_times(flow.times, rounded) else tags | times_tags(flow.times)


def _read_frames(flow: FrameSource) -> Iterable[NDArray[np.uint8]]:
    for indices in chunks(flow):
        yield from flow.read(indices).numpy()


def _to_picture(frame: NDArray[np.uint8]) -> av.VideoFrame:
    height, width = frame.shape[:2]
    picture = av.VideoFrame(width, height, PIXEL_FORMAT)
    (plane,) = picture.planes
    rows = np.zeros((height, plane.line_size), np.uint8)
    rows[:, : 2 * width] = frame.reshape(height, 2 * width)
    plane.update(rows.tobytes())
    return picture
