"""Videos as folders of JPEG frames, for where decoding is the bottleneck.

A folder appears whole or not at all. It is kept by a later run if it has as many frames as the
video, of the size asked for; otherwise it is made anew.
"""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from PIL import Image

from p3d.data.dataset import VideoRecord
from p3d.errors import BadVideoError, UserError
from p3d.prepare.derive import Made, Summary, derive
from p3d.prepare.options import FramesOptions
from p3d.system.files import TEMPORARY, replacing
from p3d.video.decode import open_video
from p3d.video.geometry import limited_size, resize
from p3d.video.sources import FrameSource, chunks


def extract_frames(options: FramesOptions) -> Summary:
    """Writes every video of every split as a folder of JPEG frames.

    The lists of UCF101 are copied; another data set gets a manifest, which also keeps the rates.

    Args:
        options: See `FramesOptions`.

    Returns:
        What was done. Broken videos are in it and have no folder.

    Raises:
        UserError: If the data set cannot be read, two videos would share a folder, or something
            that is not frames is in the way.
    """

    def extract(target: Path, record: VideoRecord) -> Made:
        return _extract(options, target, record)

    return derive(options.data, options.out, extract, what="frames", workers=options.workers)


def run(options: FramesOptions) -> int:
    """Writes frames, prints the outcome, and returns the exit code: 0 if no video was broken."""
    summary = extract_frames(options)
    print("\n".join(summary.lines()))
    return summary.exit_code


def _extract(options: FramesOptions, target: Path, record: VideoRecord) -> Made:
    with open_video(record.path) as video:
        if video.flow is not None:
            raise BadVideoError(record.path, "holds optical flow, of which there are no pictures")
        size = (video.height, video.width)
        if options.short_side is not None:
            size = limited_size(*size, options.short_side)
        made = replace(record, path=target, num_frames=video.num_frames, fps=video.fps)
        if _finished(target, video.num_frames, size):
            return Made(made, written=False)
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, flush=False) as temporary:
            temporary.mkdir()
            _write_frames(video, temporary, target.name, size, options.quality)
            _set_aside(target)
        return Made(made, written=True)


def _write_frames(
    video: FrameSource, folder: Path, stem: str, size: tuple[int, int], quality: int
) -> None:
    for numbers in chunks(video):
        clip = video.read(numbers)
        if size != (video.height, video.width):
            clip = resize(clip, *size)
        for number, frame in enumerate(clip.numpy(), start=numbers.start + 1):
            Image.fromarray(frame).save(folder / f"{stem}-{number:04d}.jpg", quality=quality)


def _frame_pattern(stem: str) -> re.Pattern[str]:
    return re.compile(re.escape(stem) + r"-(\d{4,})\.jpg")


def _finished(folder: Path, num_frames: int, size: tuple[int, int]) -> bool:
    """Whether a folder holds frames 1 to `num_frames` of this size and nothing else."""
    if not folder.is_dir():
        return False
    expected = {f"{folder.name}-{number:04d}.jpg" for number in range(1, num_frames + 1)}
    if {path.name for path in folder.iterdir()} != expected:
        return False
    try:
        with Image.open(folder / f"{folder.name}-{num_frames:04d}.jpg") as last:
            return last.size == (size[1], size[0])
    except OSError:
        return False


def _check_replaceable(folder: Path) -> None:
    pattern = _frame_pattern(folder.name)
    if folder.is_symlink() or folder.is_file():
        raise UserError(f"{folder}: is in the way of a folder of frames; move it, or change --out")
    for path in folder.iterdir() if folder.is_dir() else ():
        if not pattern.fullmatch(path.name):
            raise UserError(f"{path}: is no frame of this video; move it, or choose another --out")


def _set_aside(folder: Path) -> None:
    """Removes an unfinished folder, so that at no time half of it is in place."""
    if folder.is_dir():
        old = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-old-{folder.name}")
        folder.rename(old)
        shutil.rmtree(old)
