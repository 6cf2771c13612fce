"""Hostile videos for tests: broken, cut off, unusual, or with wrong headers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
from PIL import Image

from helpers.videos import (
    rewrite_packets,
    write_audio,
    write_broken_jpeg,
    write_frames,
    write_header_only,
    write_undecodable,
    write_video,
)

FRAMES = 20
X264 = {"codec": "libx264", "b_frames": 3, "gop": 10}
FASTSTART = {"container_options": {"movflags": "faststart"}}
Maker = Callable[[Path], Any]


def whole(name: str = "a.avi", **arguments: Any) -> bytes:
    """Return the bytes of a sound video of 20 frames with key frames 0 and 10."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        return write_video(path, FRAMES, **{"gop": 10} | arguments).read_bytes()


def packets_of(data: bytes) -> list[tuple[int, int]]:
    """Return the position and size of each packet of an AVI or MP4 file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
            return sorted((p.pos or 0, p.size) for p in packets)


def cut(part: str, data: bytes) -> bytes:
    """Return a video cut off in the middle of its header, index or "packetN", or near its end."""
    packets = packets_of(data)
    if part.startswith("packet"):
        start, size = packets[int(part.removeprefix("packet"))]
        return data[: start + size // 2]
    end = sum(packets[-1])
    lengths = {"header": packets[0][0] // 2, "index": (end + len(data)) // 2, "end": len(data) - 3}
    return data[: lengths[part]]


def cutter(part: str, name: str = "a.avi", **arguments: Any) -> Maker:
    """Return a function that writes a video that is cut off."""
    return lambda path: path.write_bytes(cut(part, whole(name, **arguments)))


def video(num_frames: int = FRAMES, **arguments: Any) -> Maker:
    """Return a function that writes a sound video."""
    return lambda path: write_video(path, num_frames, **arguments)


def titled(path: Path) -> None:
    """Write a video whose title is not UTF-8."""
    write_video(path, FRAMES)
    with av.open(str(path)) as old, av.open(str(path.with_suffix(".new.avi")), "w") as new:
        new.metadata["title"] = "TITLE"
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    data = path.with_suffix(".new.avi").read_bytes()
    path.with_suffix(".new.avi").unlink()
    path.write_bytes(data.replace(b"TITLE", b"\xff\xfe\x80\xc3\xff"))


def declaring_frames(count: int) -> Maker:
    """Return a function that writes an AVI whose header declares `count` frames."""

    def make(path: Path) -> None:
        data = bytearray(whole())
        main, stream = data.index(b"avih"), data.index(b"strh")
        struct.pack_into("<I", data, main + 8 + 16, count)
        struct.pack_into("<I", data, stream + 8 + 32, count)
        path.write_bytes(data)

    return make


def declaring_size(width: int, height: int) -> Maker:
    """Return a function that writes an AVI whose headers declare a wrong frame size."""

    def make(path: Path) -> None:
        data = bytearray(whole())
        struct.pack_into("<II", data, data.index(b"avih") + 8 + 32, width, height)
        struct.pack_into("<II", data, data.index(b"strf") + 8 + 4, width, height)
        path.write_bytes(data)

    return make


def huge_frames(path: Path) -> None:
    """Write a small MJPEG video whose frames declare to be 60000 x 60000."""
    source = write_video(path.with_name("small.avi"), 3, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(source.read_bytes())
    source.unlink()
    start = data.find(b"\xff\xc0")
    while start >= 0:
        struct.pack_into(">HH", data, start + 5, 60000, 60000)
        start = data.find(b"\xff\xc0", start + 2)
    path.write_bytes(data)


def large_frames(path: Path) -> None:
    """Write a video of a few kilobytes whose frames really are 5900 x 5900."""
    still = BytesIO()
    Image.new("L", (5900, 5900)).save(still, "PNG")
    source = write_video(path.with_name("small.avi"), 3, codec="png", pix_fmt="gray")
    rewrite_packets(source, path, lambda packets: [still.getvalue()] * len(packets))
    source.unlink()


def large_jpeg(path: Path) -> None:
    """Write a folder of small files that are frames of 5900 x 5900."""
    write_frames(path, 2)
    for number in (1, 2):
        Image.new("L", (5900, 5900)).save(path / f"walk-{number:04d}.jpg")


def pipe_frame(path: Path) -> None:
    """Write a folder of frames, one of which is a pipe without a writer."""
    frame = write_frames(path, 3) / "walk-0001.jpg"
    frame.unlink()
    os.mkfifo(frame)


def image(path: Path) -> None:
    """Write a JPEG with a video's suffix."""
    frames = write_frames(path.with_name("frames"), 1)
    (frames / "walk-0001.jpg").rename(path)
    frames.rmdir()


def zeroed(path: Path) -> None:
    """Write a video with a sound header whose first key packet is all zeros."""
    source = path.with_name("plain.avi")
    source.write_bytes(whole("a.avi"))
    rewrite_packets(source, path, lambda packets: [bytes(len(packets[0])), *packets[1:]])
    source.unlink()


MP4 = ("a.mp4",)
CASES: dict[str, Maker] = {
    "sound.avi": video(),
    "header.avi": cutter("header"),
    "first-key.avi": cutter("packet0"),
    "key.avi": cutter("packet10"),
    "p.avi": cutter("packet15"),
    "b.avi": cutter("packet15", b_frames=2),
    "index.avi": cutter("index"),
    "end.avi": cutter("end"),
    "end.mp4": cutter("end", *MP4, **X264),
    "index.mp4": cutter("index", *MP4, **X264),
    "front-header.mp4": cutter("header", *MP4, **X264, **FASTSTART),
    "front-first-key.mp4": cutter("packet0", *MP4, **X264, **FASTSTART),
    "front-key.mp4": cutter("packet10", *MP4, **X264, **FASTSTART),
    "front-p.mp4": cutter("packet15", *MP4, **X264, **FASTSTART),
    "front-end.mp4": cutter("end", *MP4, **X264, **FASTSTART),
    "cut.mkv": lambda path: path.write_bytes(whole("a.mkv", **X264)[:-1500]),
    "cut.ts": lambda path: path.write_bytes(whole("a.ts", **X264)[:-1500]),
    "zero.avi": write_header_only,
    "zero.mp4": write_header_only,
    "one.avi": video(1),
    "one.mp4": video(1, **X264),
    "audio.mp4": write_audio,
    "audio.avi": write_audio,
    "avi.mp4": lambda path: path.write_bytes(whole()),
    "mp4.avi": lambda path: path.write_bytes(whole("a.mp4", **X264)),
    "jpeg.avi": image,
    "text.avi": lambda path: path.write_text("no video\n" * 100),
    "zeros.avi": lambda path: path.write_bytes(bytes(50_000)),
    "empty.avi": Path.touch,
    "title.avi": titled,
    "declares-10x.avi": declaring_frames(200),
    "declares-half.avi": declaring_frames(10),
    "declares-none.avi": declaring_frames(0),
    "declares-max.avi": declaring_frames(0xFFFFFFFF),
    "b-frames.avi": video(b_frames=2),
    "open-gop.mp4": video(**X264, options={"x264-params": "open-gop=1"}),
    "uneven.mp4": video(**X264, times=[2 * i + i * i // 3 for i in range(FRAMES)]),
    "upright.mp4": video(rotation=90, **X264),
    "odd.mp4": video(size=(51, 67), pix_fmt="yuv444p", codec="libx264"),
    "odd.avi": video(size=(51, 67)),
    "422.mkv": video(codec="libx264", pix_fmt="yuv422p"),
    "gray.mkv": video(codec="ffv1", pix_fmt="gray"),
    "10-bit.mkv": video(codec="libx264", pix_fmt="yuv420p10le"),
    "declares-60000.avi": declaring_size(60000, 60000),
    "declares-0.avi": declaring_size(0, 0),
    "huge.avi": huge_frames,
    "large.avi": large_frames,
    "zeroed.avi": zeroed,
    "undecodable.avi": write_undecodable,
    "  two  spaces .avi": video(),
    'it\'s "quoted".avi': video(),
    "$(touch x);&|%s%n.avi": video(),
    "Übung-走る-🎥.avi": video(),
    "a:b.avi": video(),
    "new\nline.avi": video(),
    "bytes-\udcff.avi": video(),
    "pipe.avi": os.mkfifo,
    "loop.avi": lambda path: path.symlink_to(path),
    "dangling.avi": lambda path: path.symlink_to("nowhere.avi"),
    "folder.avi": Path.mkdir,
    "frames-broken": write_broken_jpeg,
    "frames-large": large_jpeg,
    "frames-pipe": pipe_frame,
    "frames-one": lambda path: write_frames(path, 1),
}
