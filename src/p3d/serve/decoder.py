"""The process that decodes videos for the service.

It reads untrusted files, so it may die at any time, and what it sends is plain data: JSON and the
bytes of clips, nothing that the service would run.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3d.data.clips import check_source, eval_windows, read_eval_clips
from p3d.errors import BadVideoError, UserError
from p3d.preprocessing import Preprocessing
from p3d.serve.options import Limits
from p3d.system.resources import limit_memory
from p3d.system.signals import follow_parent
from p3d.system.text import counted
from p3d.video.decode import open_video
from p3d.video.index_cache import INDICES
from p3d.video.sources import FrameSource


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

    A request is JSON with the path of a video and the name to call it by. The reply is JSON with
    one of the keys `error` (the video cannot be read), `limit`, `failed` (then the process ends) or
    `shape`, which the bytes of the clips follow.
    """
    follow_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the service stops first, and then ends this
    torch.set_num_threads(1)
    limit_memory(settings.limits.decoder_memory * 2**20)
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        reply, clips = _answer(Path(request["path"]), request["name"], settings)
        connection.send_bytes(json.dumps(reply).encode())
        if clips is not None:
            connection.send_bytes(clips.numpy().data.cast("B"))
        if "failed" in reply:
            return


def _answer(
    path: Path, name: str, settings: DecoderSettings
) -> tuple[dict[str, Any], Tensor | None]:
    try:
        return _read(path, settings)
    except BadVideoError as error:
        return {"error": f"{name}: {error.reason}"}, None
    except OverLimitError as error:
        return {"limit": f"{name}: {error}"}, None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return {"failed": "out of memory"}, None
        traceback.print_exc()
        return {"failed": type(error).__name__}, None
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return {"failed": type(error).__name__}, None
    finally:
        INDICES.clear()  # no upload is read twice


def _read(path: Path, settings: DecoderSettings) -> tuple[dict[str, Any], Tensor]:
    prep = settings.prep
    with open_video(path, prefer_flow=prep.channels == "flow") as video:
        _check_limits(video, settings.limits)
        check_source(path, video, prep)
        windows = eval_windows(video, prep, settings.num_clips)
        clips = read_eval_clips(video, prep, settings.num_clips)
        about = {
            "shape": list(clips.shape),
            "windows": windows.tolist(),
            "frames": video.num_frames,
            "fps": video.fps,
            "size": [video.height, video.width],
        }
    return about, clips


def _check_limits(video: FrameSource, limits: Limits) -> None:
    """Check a video before any of its frames is decoded.

    Raises:
        OverLimitError: It exceeds a limit.
    """
    frames, pixels = video.num_frames, video.height * video.width
    seconds = frames / video.fps if video.fps > 0 else 0.0
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
    if seconds > limits.max_seconds:
        raise OverLimitError(
            f"is {seconds:,.1f} s long; this service takes {limits.max_seconds:,g} s (see "
            "/v1/model); send a part of the video"
        )
