"""Exact frames from a video file, and no more decoding than they need.

To reach a frame the file is sought to the last key picture from which it can be decoded, and only
frames that are wanted are turned into RGB. `video_index` tells how frames are known apart.

FFmpeg's own messages stay silent, as is PyAV's default; what went wrong is in `BadVideoError`.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.flow_format import PIXEL_FORMAT, FlowNote, read_note
from p3d.data.packets import decode, demux, numbered_packets, open_stream
from p3d.data.video_index import VideoIndex, build_index
from p3d.errors import BadVideoError

# Decoders in which pictures that nothing leans on can be left out and every other stays exact.
# (In HEVC a picture that its own layer does not use may still serve another.)
_CAN_SKIP_UNUSED = frozenset({"h264", "mpeg4"})
# Stands for a packet number past the last.
_END = 1 << 62
# From 17 on PyAV converts colours with as many threads as there are cores unless told otherwise.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


class IndexCache:
    """The indices of the files read last in this process, so that later epochs need not look.

    A file is known by path, size and time of change. An index takes about 4 bytes a frame.
    """

    def __init__(self, max_files: int) -> None:
        self._max_files = max_files
        self._indices: OrderedDict[tuple[str, int, int], VideoIndex] = OrderedDict()

    def get(self, key: tuple[str, int, int]) -> VideoIndex | None:
        """Return the index of a file, if it is known."""
        if key in self._indices:
            self._indices.move_to_end(key)
        return self._indices.get(key)

    def put(self, key: tuple[str, int, int], index: VideoIndex) -> None:
        """Remember an index and forget the one unused for longest when there are too many."""
        self._indices[key] = index
        self._indices.move_to_end(key)
        while len(self._indices) > self._max_files:
            self._indices.popitem(last=False)

    def forget(self, path: Path) -> None:
        """Forget a file, whatever its size and time."""
        for key in [key for key in self._indices if key[0] == str(path.absolute())]:
            del self._indices[key]


INDICES = IndexCache(max_files=16384)


class VideoFile:
    """A `FrameSource` over a video file; see `open_video`."""

    def __init__(self, path: Path, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise BadVideoError(path, "neither a file nor a folder")
        if status.st_size == 0:
            raise BadVideoError(path, "the file is empty (0 bytes)")
        try:
            path.open("rb").close()
        except OSError as error:  # FFmpeg would say less
            raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
        self.path = path
        self._key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
        self._container, self._stream = open_stream(path)
        self._to_rgb = VideoReformatter()
        try:
            self.flow = self._find_note()
            self._index = self._find_index()
        except BaseException:
            self.close()
            raise

    def _find_index(self) -> VideoIndex:
        index = INDICES.get(self._key)
        if index is None:
            index = build_index(self.path, self._container, self._stream)
            INDICES.put(self._key, index)
        return index

    def _find_note(self) -> FlowNote | None:
        try:
            return read_note(self._container.metadata)
        except ValueError as error:
            raise BadVideoError(self.path, str(error)) from error

    @property
    def num_frames(self) -> int:
        """See `FrameSource`."""
        return self._index.num_frames

    @property
    def height(self) -> int:
        """See `FrameSource`."""
        return self._index.height if self._index.matrix[0] else self._index.width

    @property
    def width(self) -> int:
        """See `FrameSource`."""
        return self._index.width if self._index.matrix[0] else self._index.height

    @property
    def fps(self) -> float:
        """See `FrameSource`."""
        return self._index.fps

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, indices: Sequence[int]) -> Tensor:
        """See `FrameSource`."""
        numbers = checked_numbers(indices, self.num_frames)
        channels, convert = (2, self._flow) if self.flow else (3, self._rgb)
        clip = torch.empty((len(numbers), self.height, self.width, channels), dtype=torch.uint8)
        pixels = clip.numpy()
        for frame, picture in self._frames(np.unique(numbers).tolist()):
            converted = convert(picture)
            for place in np.flatnonzero(numbers == frame):
                pixels[place] = converted
        return clip

    def _flow(self, picture: VideoFrame) -> NDArray[np.uint8]:
        index = self._index
        size = (picture.height, picture.width)
        if picture.format.name != PIXEL_FORMAT or size != (index.height, index.width):
            raise BadVideoError(self.path, "its optical flow is damaged; prepare it again")
        rows = np.frombuffer(bytes(picture.planes[0]), np.uint8).reshape(picture.height, -1)
        return rows[:, : 2 * picture.width].reshape(picture.height, picture.width, 2)

    def _rgb(self, picture: VideoFrame) -> NDArray[np.uint8]:
        index = self._index
        try:
            frame = self._to_rgb.reformat(
                picture, index.width, index.height, "rgb24", **_ONE_THREAD
            )
        except (av.FFmpegError, ValueError) as error:
            reason = f"its {picture.format.name} pictures cannot be made RGB ({error})"
            raise BadVideoError(self.path, reason) from error
        # Not `to_ndarray`, which copies what is copied into the clip anyway.
        plane: Any = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: index.height]
        rgb = rows[:, : 3 * index.width].reshape(index.height, index.width, 3)
        return _turned(rgb, index.matrix)

    def _frames(self, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield `(number, frame)` for the numbers wanted, which ascend."""
        groups: dict[int, set[int]] = {}
        for frame, start in zip(wanted, self._index.starts_for(wanted), strict=True):
            groups.setdefault(start, set()).add(frame)
        for start, left in groups.items():
            # Should the key picture prove to be none, the start of the file is one.
            for attempt in dict.fromkeys((start, 0)):
                for frame, picture in self._decode_from(attempt, frozenset(left)):
                    left.discard(frame)
                    yield frame, picture
                if not left:
                    break
            else:
                raise BadVideoError(self.path, f"frame {min(left)} cannot be decoded")

    def _decode_from(self, start: int, wanted: frozenset[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from packet `start`; yield the frames of `wanted` that come out, then stop.

        Gives up early if the picture to start from turns out not to be a key picture.
        """
        left, counted, started = set(wanted), 0, start == 0
        order, context = self._index.order, self._stream.codec_context
        frame_of: dict[int | None, int] = {}
        if order is not None:
            frame_of = {int(order[frame]): frame for frame in wanted}
        can_skip = context.name in _CAN_SKIP_UNUSED and order is not None
        if can_skip:
            context.skip_frame = "DEFAULT"
        skipping = False
        first_needed = min((n for n in frame_of if n is not None), default=0)
        for number, packet in chain(self._packets_from(start), [(_END, None)]):
            if can_skip and skipping != (number < first_needed):
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            if packet is not None:
                packet.pts = number
            for picture in decode(context, packet):
                started = started or (picture.pts == start and picture.key_frame)
                frame = counted if order is None else frame_of.get(picture.pts)
                counted += 1
                if frame not in left:
                    continue
                if not started:
                    return
                left.discard(frame)
                yield frame, picture
            if not left:
                return

    def _packets_from(self, start: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield `(number, packet)` from packet `start` to the end of the file."""
        packets, first = self._seek(start)
        for number, packet in numbered_packets(
            packets, self._stream, unpack=self._index.is_packed, first=first
        ):
            if number >= start:
                yield number, packet

    def _seek(self, start: int) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Return packets from `start` or somewhere before it, and the number of the first."""
        stamp = self._index.timestamp_of(start)
        if stamp is not None:
            try:
                self._container.seek(stamp, stream=self._stream)
            except av.FFmpegError:
                pass
            else:
                packets = demux(self._container, self._stream)
                first = next(packets, None)
                landed = None if first is None else self._index.packet_at(first.pos)
                if first is not None and landed is not None and landed <= start:
                    return chain([first], packets), landed
        self.close()
        self._container, self._stream = open_stream(self.path)
        return demux(self._container, self._stream), 0


def checked_numbers(indices: Sequence[int], num_frames: int) -> NDArray[np.int64]:
    """Return frame numbers as an array, or raise IndexError if one is not in [0, num_frames)."""
    numbers = np.asarray(indices, np.int64).reshape(-1)
    outside = numbers[(numbers < 0) | (numbers >= num_frames)]
    if len(outside):
        raise IndexError(f"frame {outside[0]} is not in [0, {num_frames})")
    return numbers


def _turned(rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return a view of a picture turned and mirrored as its display matrix says."""
    a, b, c, d = matrix
    if a == 0:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
