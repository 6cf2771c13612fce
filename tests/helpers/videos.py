"""Small videos for tests. Each frame shows its number as a bar code that survives compression.

The upper half of a frame is ten black or white blocks: the bits of the number, the lowest bit on
the left. The lower half is a moving texture, in which wrong reference frames would show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 10


def picture(number: int, *, height: int = 64, width: int = 80) -> NDArray[np.uint8]:
    """Return frame `number` as RGB uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    texture = 128 + 90 * np.sin((columns + 3 * number) / 5) * np.cos((rows - 2 * number) / 4)
    image = np.stack([texture, texture * 0.7 + 20, 255 - texture], -1).astype(np.uint8)
    bits = [number >> bit & 1 for bit in range(BITS)]
    for index, bit in enumerate(bits):
        left, right = width * index // BITS, width * (index + 1) // BITS
        image[: height // 2, left:right] = 255 * bit
    return image


def number_of(image: Any) -> int:
    """Return the number that a frame (height, width, 3) shows."""
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    row = pixels[height // 8 : height * 3 // 8].mean((0, 2))
    centers = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(row[center] > 128) << bit for bit, center in enumerate(centers))


def write_video(
    path: Path,
    num_frames: int = 40,
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 80),
    gop: int = 12,
    b_frames: int = 0,
    fps: int = 25,
    times: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write pictures 0, 1, ... to a video file in the format of its suffix, and return its path.

    Args:
        path: The file.
        num_frames: Number of frames.
        codec: An FFmpeg encoder.
        pix_fmt: An FFmpeg pixel format that the encoder supports.
        size: Height and width in pixels.
        gop: Distance of key frames.
        b_frames: B-frames between two other frames.
        fps: Frames per second; also the unit of `times`.
        times: Presentation time of each frame; 0, 1, ... by default.
        numbers: Number of the picture of each frame; 0, 1, ... by default.
        rotation: Counterclockwise rotation for display, in degrees.
        options: More options of the encoder.
        container_options: Options of the container format.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options={"threads": "1", **(options or {})})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            shown = number if numbers is None else numbers[number]
            frame = av.VideoFrame.from_ndarray(picture(shown, height=size[0], width=size[1]))
            frame.time_base = Fraction(1, fps)
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rewrite_packets(
    source: Path, target: Path, change: Callable[[list[bytes]], Iterable[bytes]]
) -> Path:
    """Copy a video without decoding; `change` maps the bytes of its packets to new packets.

    Packets of the copy are one frame apart in decoding order, as in AVI.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        keys = {bytes(packet) for packet in packets if packet.is_keyframe}
        for number, data in enumerate(change([bytes(packet) for packet in packets])):
            packet = av.Packet(data)
            packet.stream = copy
            packet.time_base = stream.time_base
            packet.pts = packet.dts = number
            packet.is_keyframe = any(data.endswith(key[-64:]) for key in keys)
            new.mux(packet)
    return target


def cut_at_key_frame(source: Path, target: Path, *, key: int = 1, end: int | None = None) -> Path:
    """Copy a video from a key frame on without decoding, as `ffmpeg -ss TIME -c copy` does.

    Frames stored after the key frame but shown before it are copied too.

    Args:
        source: The video.
        target: The copy.
        key: Which key frame to start at.
        end: Number of packets to copy; all by default.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        first = [number for number, packet in enumerate(packets) if packet.is_keyframe][key]
        for number, packet in enumerate(packets[first:][:end]):
            if packets[first].pts is None or target.suffix == ".avi":
                packet.pts = packet.dts = number
            packet.stream = copy
            new.mux(packet)
    return target


VOP = b"\x00\x00\x01\xb6"
# A frame that repeats the last one: type P, no second, 5 bits of time, not coded.
EMPTY_VOP = VOP + bytes([0b01010000, 0b01011111])


def vop_type(packet: bytes) -> int:
    """Return the type of the frame in an MPEG-4 packet: 0 for I, 1 for P, 2 for B."""
    return packet[packet.index(VOP) + 4] >> 6


def pack(packets: Sequence[bytes]) -> Iterator[bytes]:
    """Pack an MPEG-4 stream with B-frames as XviD and DivX do.

    A reference frame shares a packet with the first B-frame after it, and an empty frame takes that
    frame's place.
    """
    marker = b"\x00\x00\x01\xb2DivX503b1393p"
    group: list[bytes] = []

    def flush() -> Iterator[bytes]:
        if len(group) > 1:
            yield group[0] + group[1][group[1].index(VOP) :]
            yield from group[2:]
            yield EMPTY_VOP
        else:
            yield from group

    for packet in packets:
        if vop_type(packet) != 2:
            yield from flush()
            group.clear()
        at = min(i for i in (packet.find(VOP), packet.find(b"\x00\x00\x01\xb3")) if i >= 0)
        group.append(packet[:at] + marker + packet[at:] if vop_type(packet) == 0 else packet)
    yield from flush()


def write_frames(folder: Path, count: int = 12, *, stem: str = "walk") -> Path:
    """Write JPEG frames to a new folder, the last one first."""
    folder.mkdir()
    for number in reversed(range(count)):
        image = Image.fromarray(picture(number))
        image.save(folder / f"{stem}-{number + 1:04d}.jpg", quality=95)
    return folder


def write_audio(path: Path) -> None:
    """Write a file with audio only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_header_only(path: Path) -> None:
    """Write a video without frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        container.start_encoding()


def write_undecodable(path: Path) -> None:
    """Write a video whose packets are all zeros."""
    source = write_video(path.with_name("whole.avi"), 4, codec="mjpeg", pix_fmt="yuvj420p")
    rewrite_packets(source, path, lambda packets: [bytes(len(packet)) for packet in packets])


def write_broken_jpeg(path: Path) -> None:
    """Write a folder of frames whose first frame is cut off."""
    first = write_frames(path, 3) / "walk-0001.jpg"
    first.write_bytes(first.read_bytes()[:200])


def write_unnumbered_frame(path: Path) -> None:
    """Write a folder of frames with one that has no number."""
    (write_frames(path, 3) / "walk-0002.jpg").rename(path / "cover.jpg")
