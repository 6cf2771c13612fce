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
from itertools import chain, dropwhile, islice
from pathlib import Path

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import BadVideoError
from p3d.video.flow_file import PIXEL_FORMAT, FlowNote, read_note
from p3d.video.packets import decode, demux, numbered_packets, open_stream
from p3d.video.rgb import RgbConverter
from p3d.video.sources import Box, Piece, gather, most_frames
from p3d.video.video_index import VideoIndex, build_index

# Decoders in which pictures that nothing leans on can be left out and every other stays exact.
# (In HEVC a picture that its own layer does not use may still serve another.)
_CAN_SKIP_UNUSED = frozenset({"h264", "mpeg4"})
# Stands for a packet number past the last.
_END = 1 << 62
# Up to here, packets are passed on the way to the next key picture rather than sought over: seeking
# costs more, and brings out the last picture before it only by decoding one more.
_NEAR = 3


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
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:  # FFmpeg would say less
            raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
        self.path = path
        self._key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
        index = INDICES.get(self._key)
        self._container, self._stream = open_stream(path, index.container if index else None)
        try:
            self.flow = self._find_note()
            self._index = index or self._build_index()
        except BaseException:
            self.close()
            raise

    def _build_index(self) -> VideoIndex:
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
        return gather(self, indices)

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        decoded = self._frames(frames)
        if self.flow:
            return self._flow_pieces(decoded, box)
        return RgbConverter(self.path, self._index, box).pieces(decoded, len(frames))

    def _flow_pieces(self, decoded: Iterator[tuple[int, VideoFrame]], box: Box) -> Iterator[Piece]:
        while run := list(islice(decoded, most_frames(box.height, box.width))):
            pixels = np.stack([box.of(self._flow(picture)) for _, picture in run])
            yield [frame for frame, _ in run], torch.from_numpy(pixels)

    def _flow(self, picture: VideoFrame) -> NDArray[np.uint8]:
        index = self._index
        size = (picture.height, picture.width)
        if picture.format.name != PIXEL_FORMAT or size != (index.height, index.width):
            raise BadVideoError(self.path, "its optical flow is damaged; prepare it again")
        rows = np.frombuffer(bytes(picture.planes[0]), np.uint8).reshape(picture.height, -1)
        return rows[:, : 2 * picture.width].reshape(picture.height, picture.width, 2)

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield `(number, frame)` for the numbers wanted, which rise."""
        for start, group in self._groups(wanted):
            left = set(group)
            # Should the key picture prove to be none, the start of the file is one.
            for attempt in dict.fromkeys((start, 0)):
                for frame, picture in self._decode_from(attempt, frozenset(left)):
                    left.discard(frame)
                    yield frame, picture
                if not left:
                    break
            else:
                raise BadVideoError(self.path, f"frame {min(left)} cannot be decoded")

    def _groups(self, wanted: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Part frames into `(packet to start from, frames)`, each group to be sought once."""
        groups: list[tuple[int, list[int]]] = []
        starts, order = self._index.starts_for(wanted), self._index.order
        packets = starts if order is None else order[wanted].tolist()
        reached = 0
        for frame, start, packet in zip(wanted, starts, packets, strict=True):
            if groups and groups[-1][0] <= start <= max(groups[-1][0], reached + _NEAR):
                groups[-1][1].append(frame)
                reached = max(reached, packet)
            else:
                groups.append((start, [frame]))
                reached = packet
        return groups

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
                tag = picture.pts
                started = started or (tag == start and picture.key_frame)
                frame = counted if order is None else frame_of.get(tag)
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
        """Return pairs `(number, packet)` from packet `start` to the end of the file."""
        packets, first = self._seek(start)
        numbered = numbered_packets(
            packets, self._stream, unpack=self._index.is_packed, first=first
        )
        return dropwhile(lambda pair: pair[0] < start, numbered)

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
        self._container, self._stream = open_stream(self.path, self._index.container)
        return demux(self._container, self._stream), 0
