"""Frames and flow of files with segments: each file once, and the same clips as from the videos."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.videos import number_of, write_frames, write_video
from p3d.cli import main
from p3d.data.clips import EvalClips, Sample, TrainClips
from p3d.data.dataset import VideoRecord
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.rates import assumed_rates
from p3d.data.track import open_record, track_of
from p3d.data.workers import Videos
from p3d.errors import BadVideoError
from p3d.prepare import frames as frames_module
from p3d.prepare.options import FramesOptions
from p3d.preprocessing import IMAGENET, Preprocessing
from p3d.video import sources
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow
from p3d.video.frame_times import TIMES_FILE
from p3d.video.video_file import VideoFile

FRAMES = 40
UNEVEN = np.cumsum([0, *([1, 1, 3, 1, 2, 4, 1] * 7)])[:FRAMES].tolist()
"""Times of a variable rate, in ticks of 1/90 s."""
VIDEOS = {
    "even.mp4": {"fps": 25, "codec": "libx264"},
    "rounded.mkv": {"fps": 30, "codec": "libx264"},  # times in milliseconds
    "uneven.mp4": {"fps": 90, "codec": "libx264", "times": UNEVEN},
}
SEGMENTS = [(0, 0.3), (0.2, 0.61), (0.5, ""), (0.1234, 0.4321)]
PREP = replace(IMAGENET, num_frames=4, resize=(48, 60), crop=40)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest with several segments of each video, the files in turns."""
    root = tmp_path_factory.mktemp("videos")
    for name, options in VIDEOS.items():
        write_video(root / name, FRAMES, gop=6, **options)  # type: ignore[arg-type]
    rows = [
        (name, ("walk", "run")[number % 2], "train", *segment)
        for number, segment in enumerate(SEGMENTS)
        for name in VIDEOS
    ]
    return write_manifest(root / "segments.csv", rows)


def write_manifest(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "split", "start", "end"), *rows])
    return path


def prepare(kind: str, manifest: Path, out: Path, *words: str) -> int:
    command = ("prepare", kind, "--data", manifest, "--out", out, "--workers", "1", *words)
    return main([*map(str, command)])


@pytest.fixture(scope="module")
def frames(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "frames"
    assert prepare("frames", manifest, out, "--quality", "100") == 0
    return out


@pytest.fixture(scope="module")
def flow(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "flow"
    assert prepare("flow", manifest, out, "--short-side", "16") == 0
    return out


def samples(data: Path, prep: Preprocessing) -> list[Sample]:
    """Return training clips of two epochs and evaluation clips of all segments."""
    videos = Videos(read_dataset(DataOptions(data), "train"))
    train = TrainClips(videos, prep, 0, "random-crop", 0.5, 1)
    wanted = [train[epoch, number] for epoch in range(2) for number in range(len(videos))]
    wanted += [EvalClips(videos, prep, 3)[number] for number in range(len(videos))]
    found = [sample for sample in wanted if isinstance(sample, Sample)]
    assert len(found) == len(wanted)
    return found


def test_each_file_is_written_once_and_the_segments_stay(manifest: Path, frames: Path) -> None:
    folders = sorted(path for path in (frames / "train" / "segmented").iterdir())
    assert [folder.name for folder in folders] == ["even", "rounded", "uneven"]
    assert all(len([*folder.glob("*.jpg")]) == FRAMES for folder in folders)
    assert [(folder / TIMES_FILE).exists() for folder in folders] == [False, True, True]
    old, new = (read_dataset(DataOptions(data), "train") for data in (manifest, frames))
    assert new.class_names == old.class_names
    for one, other in zip(old.records, new.records, strict=True):
        assert (one.path.stem, one.label, one.group) == (other.path.name, other.label, other.group)
        assert one.segment == other.segment


@pytest.mark.parametrize("fps", [None, 12.5, 25.0, 30.0])
def test_frames_give_the_clips_of_the_videos(manifest: Path, frames: Path, fps: float) -> None:
    prep = replace(PREP, fps=fps)
    for one, other in zip(samples(manifest, prep), samples(frames, prep), strict=True):
        assert (one.label, one.starts, one.length) == (other.label, other.starts, other.length)
        assert one.times == pytest.approx(other.times, abs=1e-9)
        # JPEG loses little at quality 100; another frame differs by more.
        assert (one.clips.float() - other.clips.float()).abs().mean() < 3


def test_folders_that_state_times_need_no_rate(frames: Path) -> None:
    dataset = read_dataset(DataOptions(frames), "train")
    unknown = replace(
        dataset, records=tuple(replace(record, fps=None) for record in dataset.records)
    )
    prep = replace(PREP, fps=25.0)
    assert assumed_rates(dataset, prep) == []
    [line] = assumed_rates(unknown, prep)
    assert line.startswith(f"NO RATE: {len(SEGMENTS)} folders of frames"), "those of even.mp4"


def test_times_of_frames_are_those_of_the_video(manifest: Path, frames: Path) -> None:
    for name in VIDEOS:
        folder = frames / "train" / "segmented" / Path(name).stem
        with open_video(manifest.parent / name) as video, open_video(folder) as copy:
            assert np.allclose(copy.times, video.times, rtol=0, atol=1e-12)
            assert copy.duration == pytest.approx(video.duration)
            assert number_of(copy.read([7])[0].numpy()) == 7


def test_flow_gives_the_clips_of_flow_that_is_computed(manifest: Path, flow: Path) -> None:
    videos, prepared = (read_dataset(DataOptions(data), "train") for data in (manifest, flow))
    compared = set()
    for one, other in zip(videos.records, prepared.records, strict=True):
        assert one.segment == other.segment
        with open_record(one) as video, open_record(other) as found:
            expected = ComputedFlow(video, 16, "tvl1")
            for fps in (None, 12.5, 25.0):
                tracks = [track_of(source, fps, one.segment) for source in (expected, found)]
                steps = np.arange(tracks[0].length)
                assert tracks[0].length == tracks[1].length
                assert np.array_equal(tracks[0].frames(steps), tracks[1].frames(steps))
            if one.path not in compared:
                everything = range(FRAMES - 1)
                assert torch.equal(found.read(everything), expected.read(everything))
            compared.add(one.path)


def test_each_file_is_decoded_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FramesOptions(DataOptions(manifest), tmp_path)
    decoded: list[int] = []
    pieces = VideoFile.pieces
    monkeypatch.setattr(
        VideoFile, "pieces", lambda v, n, box=None: decoded.extend(n) or pieces(v, n, box)
    )
    monkeypatch.setattr(sources, "CHUNK_BYTES", 10 * 64 * 80 * 3)
    records = tuple(
        VideoRecord(manifest.parent / "even.mp4", 0, start=start) for start in (0.1, 0.5, 1.0)
    )
    derived = frames_module._extract(options, tmp_path / "even", records)
    assert decoded == list(range(FRAMES))
    assert [record.num_frames for record in derived.records] == [38, 28, 15]  # type: ignore[union-attr]


def test_segments_behind_the_end_are_left_out(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = manifest.parent / "even.mp4"  # 1.6 s
    rows = [(video, "walk", "train", 0, 1), (video, "run", "train", 5, 6)]
    rows += [(video, "walk", "train", 1, 9), (tmp_path / "b.mp4", "run", "test", 0, 1)]
    (tmp_path / "b.mp4").write_bytes(b"no video")
    data, out = write_manifest(tmp_path / "m.csv", rows), tmp_path / "out"
    assert prepare("frames", data, out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"ERROR: {video}#t=5,6: its segment starts at 5 s, but the video")
    assert lines[1].startswith(f"ERROR: {tmp_path / 'b.mp4'}: ")
    assert lines[2] == f"{out} holds 40 frames of 1 video (0 kept, 2 broken)"
    with (out / "manifest.csv").open(newline="") as file:
        shown = [(row["start"], row["end"], row["num_frames"]) for row in csv.DictReader(file)]
    # The first row declares a class without a video in the training split.
    assert shown == [("", "", ""), ("0.0", "1.0", "25"), ("1.0", "9.0", "15")]
    assert (out / "bad.csv").read_text().count("\n") == 3


def test_what_earlier_versions_wrote_gets_its_times(
    manifest: Path, frames: Path, flow: Path, tmp_path: Path
) -> None:
    """Frames and flow are kept, which took long, and their times are added."""
    folder = frames / "train" / "segmented" / "uneven"
    file = flow / "train" / "segmented" / "uneven.mkv"
    (folder / TIMES_FILE).unlink()
    old = tmp_path / "old.mkv"
    with av.open(str(file)) as source, av.open(str(old), "w") as target:
        tags = {name: text for name, text in source.metadata.items() if name != "P3D_TIMES"}
        target.metadata.update(tags)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    pixels = old.read_bytes()
    file.write_bytes(pixels)
    with open_video(file) as video:
        assert not np.allclose(video.times, np.array(UNEVEN[:-1]) / 90)
        before = video.read(range(FRAMES - 1))
    assert prepare("frames", manifest, frames, "--quality", "100") == 0
    assert prepare("flow", manifest, flow, "--short-side", "16") == 0
    with open_video(folder) as copy, open_video(file) as video:
        assert np.allclose(copy.times, np.array(UNEVEN) / 90)
        assert np.allclose(video.times, np.array(UNEVEN[:-1]) / 90)
        assert torch.equal(video.read(range(FRAMES - 1)), before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n0.04\n", "2 times for 3 frames"),
        ("0\n0.04\n0.04\n", "each after the one before"),
        ("1\n2\n3\n", "seconds from 0"),
        ("0\n1\nnan\n", "each after the one before"),
        ("0\nx\n1\n", "could not convert string to float"),
        ("0\n1\n\u00e9\n", "ascii"),
    ],
)
def test_damaged_times_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    folder = write_frames(tmp_path / "walk", 3)
    (folder / TIMES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadVideoError, match=words) as caught, open_video(folder):
        pass
    assert "\n" not in str(caught.value)
    assert f"{TIMES_FILE} cannot be used" in str(caught.value)
