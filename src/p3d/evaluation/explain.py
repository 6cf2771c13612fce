"""`p3d explain`: where and when a network looks for a class, as a video or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from torch import Tensor

from p3d.data.clips import check_source
from p3d.data.dataset import examples
from p3d.data.sampling import Indices, uniform_windows
from p3d.data.track import track_of
from p3d.data.transforms import eval_transform
from p3d.errors import UserError, printable
from p3d.evaluation.gradcam import CamLayer, grad_cam, stretch
from p3d.evaluation.overlays import write_mp4, write_strip
from p3d.preprocessing import Preprocessing, normalize
from p3d.system.device import DeviceName, resolve_device
from p3d.system.files import check_no_input, check_place, writing
from p3d.system.markers import Positional
from p3d.system.text import format_percent
from p3d.video.decode import open_video
from p3d.video.sources import FrameSource, gather
from p3d.video.thumbnails import as_rgb
from p3d.weights.loading import load_model


@dataclass(frozen=True)
class ExplainOptions:
    """Show which parts of a clip speak for a class, by Grad-CAM over space and time."""

    video: Positional[Path]
    """A video file, or a folder of its frames."""
    weights: Path
    """Weight file, in any format that p3d reads."""
    out: Path
    """File to write: .mp4 (the clip, at 5 frames per second) or .png (up to 8 of its frames)."""
    class_: str | None = None
    """Class to explain; by default the most likely one."""
    layer: CamLayer = "res4"
    """Stage whose last block the map shows. For a clip of 16x160x160, res4 has 2 steps in time and
    10x10 positions, res5 a single step and 5x5."""
    start: int | None = None
    """First frame of the clip, from 0; by default that of the clip in the middle."""
    device: DeviceName = "auto"
    """Device to run on; auto takes CUDA, then MLU, then the CPU."""


def run(options: ExplainOptions) -> None:
    """Run `p3d explain`: compute the maps of one clip, and draw them.

    Raises:
        UserError: An option does not fit, a file cannot be read or written, or outputs of the
            network are not finite.
        BadVideoError: The video cannot be read.
    """
    suffix = options.out.suffix.lower()
    if suffix not in (".mp4", ".png"):
        raise UserError(f"--out {options.out}: give a file that ends in .mp4 or .png")
    check_place(options.out, "--out")
    check_no_input(options.out, "--out", (options.video, options.weights))
    device = resolve_device(options.device)
    model = load_model(options.weights).eval().requires_grad_(False).to(device)
    names = model.class_names or tuple(map(str, range(model.config.num_classes)))
    target = None if options.class_ is None else _find_class(options.class_, names)
    prep = model.preprocessing
    with open_video(options.video, prefer_flow=prep.channels == "flow") as video:
        check_source(options.video, video, prep)
        window = _window(video, prep, options.start)
        clip = gather(video, window, None, eval_transform(video.height, video.width, prep))[:, 0]
        length = video.num_frames
    logits, maps = grad_cam(model, normalize(clip[None].to(device), prep), target, options.layer)
    if not (logits.isfinite().all() and maps.isfinite().all()):
        raise UserError("the network's outputs are not finite; check the weights")
    scores = logits[0].float().softmax(0)
    best = int(scores.argmax())
    shown = best if target is None else target
    title = f"{names[shown]}: {format_percent(float(scores[shown]))}"
    print(printable(f"{options.video}, frames {window[0]} to {window[-1]} of {length}"))
    if shown != best:
        print(printable(f"most likely: {names[best]}: {format_percent(float(scores[best]))}"))
    print(printable(f"shown: {title}, {_describe(maps, clip, options.layer)}"))
    if not maps.any():
        print(f"NOTHING TO SHOW: no place in {options.layer} speaks for this class")
    _draw(options.out, clip, maps, f"{title}, {options.layer}", window)
    print(printable(f"written to {options.out}"))


def _find_class(name: str, names: Sequence[str]) -> int:
    """Return the index of a class, by its name in any case.

    Raises:
        UserError: There is no such class.
    """
    folded = [each.casefold() for each in names]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    close = get_close_matches(name.casefold(), folded, 1)
    hint = (
        f"did you mean {names[folded.index(close[0])]}?" if close else f"it has {examples(names)}"
    )
    raise UserError(f"--class {name}: the network has no such class; {hint}")


def _window(video: FrameSource, prep: Preprocessing, start: int | None) -> Indices:
    """Return the frames of the clip that starts at a frame, or of the one in the middle.

    Behind the end of the video, its last frame is repeated.

    Raises:
        UserError: The video has no such frame.
    """
    track = track_of(video, prep.fps)
    if start is None:
        return track.frames(uniform_windows(track.length, prep.num_frames, prep.frame_stride, 1)[0])
    if not 0 <= start < video.num_frames:
        raise UserError(f"--start is {start}; give a frame from 0 to {video.num_frames - 1}")
    track = track.from_frame(start)
    steps = np.arange(prep.num_frames, dtype=np.int64) * prep.frame_stride
    return track.frames(np.minimum(steps, track.length - 1))


def _describe(maps: Tensor, clip: Tensor, layer: CamLayer) -> str:
    steps, height, width = maps.shape[1:]
    what = "step" if steps == 1 else "steps"
    return f"{layer} ({steps} {what} in time for {len(clip)} frames, {height}x{width} places)"


def _draw(path: Path, clip: Tensor, maps: Tensor, caption: str, window: Indices) -> None:
    frames = as_rgb(clip)
    heat = stretch(maps.float(), *frames.shape[:3])[0].cpu().numpy()
    with writing(path):
        if path.suffix.lower() == ".mp4":
            write_mp4(path, frames, heat, [f"{caption}, frame {n}" for n in window])
        else:
            write_strip(path, frames, heat, f"{caption}, frames {window[0]} to {window[-1]}")
