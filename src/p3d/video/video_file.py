"""Exact frames from a video file, with as little decoding as possible.

To reach a frame, the reader seeks to the last key frame from which it can be decoded; only the
frames asked for are converted to RGB. `video_index` describes how frames are identified.

FFmpeg's own messages stay off, PyAV's default; `BadVideoError` says what is wrong.
"""

from __future__ import annotations

import os
import stat
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

from p3d.errors import BadVideoError
from p3d.system.resources import raise_file_limit_error
from p3d.video.flow_file import PIXEL_FORMAT, read_flow_info
from p3d.video.frame_times import read_times_tag
from p3d.video.geometry import Box
from p3d.video.index_cache import INDICES
from p3d.video.packets import decode, demux, numbered_packets, open_stream
from p3d.video.remote import Source, name_of
from p3d.video.rgb import RgbConverter
from p3d.video.sources import FrameSource, Piece, frames_per_piece

# Decoders that can skip non-reference frames and still decode all others exactly. (Not HEVC: there
# a frame that its own layer does not reference may be referenced by another.)
_CAN_SKIP_UNUSED = frozenset({"h264", "mpeg4"})
# A packet number past the last one.
_END = 1 << 62
# If the next key frame is at most this many packets ahead, decoding on to it is cheaper than a
# seek, which also costs decoding one more frame to get the last one before it.
_NEAR = 3


def missing_file(path: Path) -> BadVideoError:
    """Return the error of a path that does not exist."""
    if path.is_symlink():
        return BadVideoError(path, f"is a link to {path.readlink()}, which does not exist")
    return BadVideoError(path, "no such file or folder")


def check_file(path: Path, status: os.stat_result) -> None:
    """Check that a file can be read, since FFmpeg's messages would be vaguer.

    Raises:
        BadVideoError: It is no regular file, empty, or cannot be opened.
    """
    if not stat.S_ISREG(status.st_mode):
        raise BadVideoError(path, "neither a file nor a folder")
    if status.st_size == 0:
        raise BadVideoError(path, "the file is empty (0 bytes)")
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise_file_limit_error(error)
        raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error


class VideoFile(FrameSource):
    """A video file; see `open_video`."""

    def __init__(self, source: Source, status: os.stat_result | None = None) -> None:
        if isinstance(source, Path) and status is not None:
            check_file(source, status)
        self._source, self.path = source, name_of(source)
        self._index = index = INDICES.get(source, status)
        self._container, self._stream = open_stream(source, index.container)
        self._is_new = True
        try:
            self.flow = read_flow_info(self._container.metadata)
            stated = read_times_tag(self._container.metadata, index.num_frames)
        except ValueError as error:
            self.close()
            raise BadVideoError(self.path, str(error)) from error
        self.num_frames = index.num_frames
        is_upright = index.matrix[0] != 0
        self.height = index.height if is_upright else index.width
        self.width = index.width if is_upright else index.height
        self.fps = index.fps
        self._times = index.times if stated is None else stated

    @property
    def times(self) -> NDArray[np.float64]:
        """See `FrameSource`."""
        return super().times if self._times is None else self._times

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        decoded = self._frames(frames)
        if self.flow:
            return self._flow_pieces(decoded, box)
        return RgbConverter(self.path, self._index, box).pieces(decoded, len(frames))

    def _flow_pieces(self, decoded: Iterator[tuple[int, VideoFrame]], box: Box) -> Iterator[Piece]:
        while piece := list(islice(decoded, frames_per_piece(box.height, box.width))):
            pixels = np.stack([box.crop(self._flow(frame)) for _, frame in piece])
            yield [number for number, _ in piece], torch.from_numpy(pixels)

    def _flow(self, frame: VideoFrame) -> NDArray[np.uint8]:
        size = (frame.height, frame.width)
        if frame.format.name != PIXEL_FORMAT or size != (self._index.height, self._index.width):
            raise BadVideoError(self.path, "its optical flow is damaged; prepare it again")
        rows = np.frombuffer(bytes(frame.planes[0]), np.uint8).reshape(frame.height, -1)
        return rows[:, : 2 * frame.width].reshape(frame.height, frame.width, 2)

    def _frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield pairs `(number, frame)` for increasing frame numbers."""
        for start, group in self._groups(numbers):
            remaining = set(group)
            # If the supposed key frame turns out not to be one, start again from the file's start.
            for attempt in dict.fromkeys((start, 0)):
                for number, frame in self._decode_from(attempt, frozenset(remaining)):
                    remaining.discard(number)
                    yield number, frame
                if not remaining:
                    break
            else:
                raise BadVideoError(self.path, f"frame {min(remaining)} cannot be decoded")

    def _groups(self, numbers: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Group frames into `(packet to start from, frame numbers)`, one seek for each group."""
        groups: list[tuple[int, list[int]]] = []
        starts, order = self._index.starts_for(numbers), self._index.order
        packets = starts if order is None else order[numbers].tolist()
        reached = 0
        for number, start, packet in zip(numbers, starts, packets, strict=True):
            if groups and groups[-1][0] <= start <= max(groups[-1][0], reached + _NEAR):
                groups[-1][1].append(number)
                reached = max(reached, packet)
            else:
                groups.append((start, [number]))
                reached = packet
        return groups

    def _decode_from(self, start: int, wanted: frozenset[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from packet `start` and yield the `wanted` frames until all are found.

        Stops early if the first decoded frame turns out not to be a key frame.
        """
        remaining, count, started = set(wanted), 0, start == 0
        # This opens the file again, so the decoder must be taken afterwards.
        packets = self._packets_from(start)
        order, context = self._index.order, self._stream.codec_context
        number_of: dict[int | None, int] = {}
        if order is not None:
            number_of = {int(order[number]): number for number in wanted}
        can_skip = context.name in _CAN_SKIP_UNUSED and order is not None
        skipping = False
        first_needed = min((n for n in number_of if n is not None), default=0)
        for index, packet in chain(packets, [(_END, None)]):
            if can_skip and skipping != (index < first_needed):
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            if packet is not None:
                packet.pts = index
            for frame in decode(context, packet):
                tag = frame.pts
                started = started or (tag == start and frame.key_frame)
                number = count if order is None else number_of.get(tag)
                count += 1
                if number not in remaining:
                    continue
                if not started:
                    return
                remaining.discard(number)
                yield number, frame
            if not remaining:
                return

    def _packets_from(self, start: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Return pairs `(number, packet)` from packet `start` to the end of the file."""
        packets, first = self._seek(start)
        numbered = numbered_packets(
            packets, self._stream, unpack=self._index.is_packed, first=first
        )
        return dropwhile(lambda pair: pair[0] < start, numbered)

    def _seek(self, start: int) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Return packets from `start` or somewhere before it, and the number of the first.

        Each call gives a new decoder: a seek does not reset all of the state that frames of a
        damaged file depend on, and opening again takes about a millisecond.
        """
        if not self._is_new:
            self._open_again()
        self._is_new = False
        timestamp = self._index.timestamp_of(start)
        if timestamp is not None:
            try:
                self._container.seek(timestamp, stream=self._stream)
            except av.FFmpegError:
                pass
            else:
                packets = demux(self._container, self._stream)
                first = next(packets, None)
                number = None if first is None else self._index.packet_at(first.pos)
                if first is not None and number is not None and number <= start:
                    return chain([first], packets), number
            self._open_again()
        return demux(self._container, self._stream), 0

    def _open_again(self) -> None:
        self.close()
        self._container, self._stream = open_stream(self._source, self._index.container)
