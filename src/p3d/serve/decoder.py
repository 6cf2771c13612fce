"""The process that decodes videos for the service.

It reads untrusted files, so it may die at any time, and what it sends is plain data: JSON and the
bytes of clips, nothing that the service would run.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import check_source, eval_steps, read_eval_clips
from p3d.data.sampling import frames_at
from p3d.data.track import track_of
from p3d.data.transforms import eval_transform
from p3d.errors import BadVideoError, UserError
from p3d.inference.timeline.frames import open_frames
from p3d.inference.timeline.windows import Window, make_plan
from p3d.preprocessing import Preprocessing
from p3d.serve.options import Limits
from p3d.system.resources import limit_memory
from p3d.system.signals import follow_parent
from p3d.system.text import counted
from p3d.video.decode import open_video
from p3d.video.index_cache import INDICES
from p3d.video.sources import ASSUMED_FPS, FrameSource, gather

_NO_MEMORY = "out of memory"

Reply: TypeAlias = "tuple[dict[str, Any], Tensor | None]"
"""JSON values, and the clips whose shape they name."""


@dataclass(frozen=True)
class DecoderSettings:
    """What a decoder reads of each video, and its limits."""

    prep: Preprocessing
    num_clips: int
    limits: Limits


class OverLimitError(UserError):
    """A video exceeds a limit of the service."""


def decode_videos(connection: Connection, settings: DecoderSettings) -> None:
    """Answer requests until the connection is closed; the main function of the process.

    A request is JSON with the path of a video, the name to call it by, and what to read: `clips`
    (see `_read_clips`), `windows` or `clip`. Each reply is JSON. If it has a key `shape`, the bytes
    of clips follow. The last one has a key `end`, or says why there is none: `error` (the video
    cannot be read), `limit`, or `failed`, after which the process ends.
    """
    follow_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the service stops first, and then ends this
    torch.set_num_threads(1)
    limit_memory(settings.limits.decoder_memory * 2**20)
    # A connection that is closed before all was read is reset.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send_bytes(b"{}")
        _answer_all(connection, settings)


def _answer_all(connection: Connection, settings: DecoderSettings) -> None:
    while True:
        request = json.loads(connection.recv_bytes())
        for reply, clips in _answer(request, settings):
            connection.send_bytes(json.dumps(reply).encode())
            if clips is not None:
                connection.send_bytes(clips.numpy().data.cast("B"))
        if "failed" in reply:
            return


def _answer(request: Mapping[str, Any], settings: DecoderSettings) -> Iterator[Reply]:
    name = request["name"]
    read = {"clips": _read_clips, "windows": _read_windows, "clip": _read_clip}[request["read"]]
    try:
        yield from read(request, settings)
    except BadVideoError as error:
        is_short = isinstance(error.__cause__, MemoryError)
        yield {"failed": _NO_MEMORY} if is_short else {"error": f"{name}: {error.reason}"}, None
    except OverLimitError as error:
        yield {"limit": f"{name}: {error}"}, None
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            yield {"failed": _NO_MEMORY}, None
            return
        traceback.print_exc()
        yield {"failed": type(error).__name__}, None
    finally:
        INDICES.clear()  # no upload is read twice


def _read_clips(request: Mapping[str, Any], settings: DecoderSettings) -> Iterator[Reply]:
    """Yield the uniformly spaced clips of a video."""
    prep, path = settings.prep, Path(request["path"])
    with open_video(path, prefer_flow=prep.channels == "flow") as video:
        _check_limits(video, settings.limits)
        check_source(path, video, prep)
        track = track_of(video, prep.fps)
        steps = eval_steps(track, prep, settings.num_clips)
        clips = read_eval_clips(video, prep, settings.num_clips)
        about = {
            "shape": list(clips.shape),
            "windows": steps.tolist(),
            "length": track.length,
            "times": [_span(video, window) for window in track.frames(steps)],
            "frames": video.num_frames,
            "fps": video.fps if video.knows_fps else 0.0,
            "seconds": video.duration,
            "end": True,
        }
    yield about, clips


def _ends(video: FrameSource) -> NDArray[np.float64]:
    """Return when each frame ends, in seconds; the last one is shown as long as the one before."""
    times = video.times
    gap = 1 / (video.fps or ASSUMED_FPS) if len(times) == 1 else times[-1] - times[-2]
    return np.append(times[1:], times[-1] + gap)


def _span(video: FrameSource, window: NDArray[np.int64]) -> tuple[float, float]:
    """Return when the first frame of a window begins and the last one ends, in seconds."""
    return round(float(video.times[window[0]]), 3), round(float(_ends(video)[window[-1]]), 3)


def _read_windows(request: Mapping[str, Any], settings: DecoderSettings) -> Iterator[Reply]:
    """Yield the sliding windows of a video, a batch at a time, and its length first and last."""
    prep, path = settings.prep, Path(request["path"])
    with open_video(path, prefer_flow=prep.channels == "flow") as video:
        _check_limits(video, settings.limits)
        check_source(path, video, prep)
        seconds = video.duration
    yield {"seconds": seconds}, None
    plan = make_plan(prep, request["window"], request["stride"])
    with open_frames(path, prep, device=torch.device("cpu")) as frames:
        batch: list[Window] = []
        for number, window in enumerate(plan.windows(frames)):
            if number == settings.limits.max_frames:
                raise OverLimitError(
                    f"has more than {counted(number, 'window')}, the limit of this service; give a "
                    "longer stride"
                )
            batch.append(window)
            if len(batch) == request["batch"]:
                yield _window_reply(batch)
                batch = []
        if batch:
            yield _window_reply(batch)
        yield {"end": frames.end}, None


def _window_reply(batch: list[Window]) -> Reply:
    clips = torch.stack([window.clip for window in batch])
    return {"shape": list(clips.shape), "times": [window.time for window in batch]}, clips


def _read_clip(request: Mapping[str, Any], settings: DecoderSettings) -> Iterator[Reply]:
    """Yield the clip around a time of a video, and the part of the frame that it shows."""
    prep, path = settings.prep, Path(request["path"])
    with open_video(path, prefer_flow=prep.channels == "flow") as video:
        _check_limits(video, settings.limits)
        check_source(path, video, prep)
        transform = eval_transform(video.height, video.width, prep)
        window = _window_around(video, prep, request["time"])
        clip = gather(video, window, None, transform).transpose(0, 1).contiguous()
        (box,), (height, width) = transform.boxes, transform.scaled
        about = {
            "shape": list(clip.shape),
            "span": _span(video, window),
            "box": [box.left / width, box.top / height, box.width / width, box.height / height],
            "end": True,
        }
    yield about, clip


def _window_around(
    video: FrameSource, prep: Preprocessing, seconds: float | None
) -> NDArray[np.int64]:
    """Return the frames of the clip around a time, or in the middle of the video."""
    times = video.times
    seconds = float(times[-1]) / 2 if seconds is None else seconds
    if prep.fps is not None:
        rate = prep.fps / prep.frame_stride
        start = min(max(0.0, seconds - prep.num_frames / rate / 2), float(times[-1]))
        return frames_at(times, start, prep.num_frames, rate)
    middle = int(np.searchsorted(times, seconds, "right")) - 1
    reach = (prep.num_frames - 1) * prep.frame_stride
    first = min(max(0, middle - reach // 2), max(0, video.num_frames - 1 - reach))
    steps = first + np.arange(prep.num_frames) * prep.frame_stride
    return np.minimum(steps, video.num_frames - 1)


def _check_limits(video: FrameSource, limits: Limits) -> None:
    """Check a video before any of its frames is decoded.

    Raises:
        OverLimitError: It exceeds a limit.
    """
    frames, pixels = video.num_frames, video.height * video.width
    if pixels > limits.max_pixels:
        raise OverLimitError(
            f"its frames are {video.width}x{video.height}, {pixels:,} pixels; this service takes "
            f"{limits.max_pixels:,} (see /v1/model); scale the video down"
        )
    if frames > limits.max_frames:
        raise OverLimitError(
            f"has {counted(frames, 'frame')}; this service takes {limits.max_frames:,} (see "
            "/v1/model); send a part of the video"
        )
    seconds = video.duration
    if seconds > limits.max_seconds:
        raise OverLimitError(
            f"is {seconds:,.1f} s long; this service takes {limits.max_seconds:,g} s (see "
            "/v1/model); send a part of the video"
        )
