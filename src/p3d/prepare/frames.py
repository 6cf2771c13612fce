"""Videos as folders of JPEG frames, for machines on which decoding is the bottleneck.

A folder is complete or absent. A later run keeps it if it has all frames at the requested size, and
writes it again otherwise. If the video does not have 25 frames per second, the rate that is assumed
for folders, the folder states the times of the frames, see `p3d.video.frame_times`.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from p3d.archive.machines import open_machine
from p3d.archive.work import OneStage
from p3d.data.dataset import VideoRecord
from p3d.errors import BadVideoError, UserError
from p3d.prepare.derive import Derived, Summary, derive, describe, stages
from p3d.prepare.options import FramesOptions, most_workers
from p3d.system.device import set_up_cpu
from p3d.system.files import TEMPORARY, replacing
from p3d.video.decode import open_video
from p3d.video.frame_times import TIMES_FILE, same_times, write_times
from p3d.video.geometry import limited_size, resize
from p3d.video.sources import ASSUMED_FPS, FrameSource, chunks


def extract_frames(options: FramesOptions) -> Summary:
    """Write every video of every split as a folder of JPEG frames.

    Lists of UCF101 are copied; other data sets get a manifest with the frame rates. Files with
    segments are written once and as a whole.

    Raises:
        UserError: The data set cannot be read, the folder is a part of it, two videos would get the
            same folder, or a folder holds something other than frames.
    """
    most = most_workers(options.workers, options.cluster)
    with open_machine(options.cluster.ray, most, "cpu", 1) as machine:
        return derive(
            options.data, options.out, _Work(options), machine, what="frames", in_place=True
        )


def run(options: FramesOptions) -> int:
    """Write frames, print the summary, and return the exit code: 0 if no video is broken."""
    return extract_frames(options).print()


@dataclass(frozen=True)
class _Work:
    """See `p3d.archive.work.Work`."""

    options: FramesOptions

    def start(self, number: int) -> OneStage:  # noqa: ARG002
        set_up_cpu(1)
        return stages(partial(_extract, self.options))


def _extract(options: FramesOptions, target: Path, records: Sequence[VideoRecord]) -> Derived:
    first = records[0]
    with open_video(first.path, fps=first.fps) as video:
        if video.flow is not None:
            raise BadVideoError(first.path, "holds optical flow, not pictures")
        size = (video.height, video.width)
        if options.short_side is not None:
            size = limited_size(*size, options.short_side)
        if _is_finished(target, video.num_frames, size):
            _write_times(target, video)  # earlier versions did not
            return describe(records, target, video, written=False)
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, flush=False) as temporary:
            temporary.mkdir()
            write_frames(video, temporary, target.name, size, options.quality)
            _write_times(temporary, video)
            _remove_unfinished(target)
        return describe(records, target, video, written=True)


def write_frames(
    video: FrameSource, folder: Path, stem: str, size: tuple[int, int], quality: int
) -> None:
    """Write all frames of a video.

    Args:
        video: The video.
        folder: The folder, which exists.
        stem: Beginning of the files' names.
        size: Height and width of the pictures.
        quality: JPEG quality, 1 to 100.
    """
    for indices in chunks(video):
        clip = video.read(indices)
        if size != (video.height, video.width):
            clip = resize(clip, *size)
        for number, frame in enumerate(clip.numpy(), start=indices.start + 1):
            Image.fromarray(frame).save(folder / f"{stem}-{number:04d}.jpg", quality=quality)


def _is_finished(folder: Path, num_frames: int, size: tuple[int, int]) -> bool:
    """Return whether a folder holds frames 1 to `num_frames` of this size and nothing else."""
    if not folder.is_dir():
        return False
    expected = {f"{folder.name}-{number:04d}.jpg" for number in range(1, num_frames + 1)}
    if {path.name for path in folder.iterdir()} - {TIMES_FILE} != expected:
        return False
    try:
        with Image.open(folder / f"{folder.name}-{num_frames:04d}.jpg") as last:
            return last.size == (size[1], size[0])
    except OSError:
        return False


def _write_times(folder: Path, video: FrameSource) -> None:
    """Write or remove the file of times of a folder with all frames of a video."""
    if same_times(video.times, np.arange(video.num_frames) / ASSUMED_FPS):
        (folder / TIMES_FILE).unlink(missing_ok=True)
    else:
        write_times(folder, video.times)


def _check_replaceable(folder: Path) -> None:
    frame = re.compile(re.escape(folder.name) + r"-(\d{4,})\.jpg")
    if folder.is_symlink() or folder.is_file():
        raise UserError(f"{folder}: is a file or a link, not a folder; move it, or change --out")
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != TIMES_FILE and not frame.fullmatch(path.name):
            raise UserError(f"{path}: is not a frame of this video; move it, or change --out")


def _remove_unfinished(folder: Path) -> None:
    """Remove a folder, which is renamed first, so that it is never half there."""
    if folder.is_dir():
        old = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-old-{folder.name}")
        folder.rename(old)
        shutil.rmtree(old)
