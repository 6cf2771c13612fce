"""Segments of longer videos: manifests, splits, clips, names and background."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.videos import write_video
from p3d.data.background import gaps, pieces
from p3d.data.clips import EvalClips, Sample, TrainClips, Unread, read_eval_clips
from p3d.data.dataset import WHOLE, Segment, VideoDataset, VideoRecord, parse_name
from p3d.data.digests import video_digest
from p3d.data.layouts import DataOptions, read_dataset, read_parts
from p3d.data.manifest import read_manifest
from p3d.data.manifest_writer import write_manifest
from p3d.data.splits import SplitRule
from p3d.data.track import track_of
from p3d.data.workers import Videos
from p3d.errors import UserError
from p3d.inference.arrays import FramesInMemory
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video
from p3d.video.video_file import VideoFile

PREP = replace(IMAGENET, num_frames=4, resize=(48, 60), crop=40)


def write_rows(folder: Path, *rows: str, header: str = "path,class,split,start,end") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@given(
    st.lists(st.integers(1, 40), max_size=20),
    st.integers(0, 300),
    st.integers(1, 300),
    st.sampled_from([None, 5, 10, 20]),
)
def test_steps_lie_in_the_segment(
    gaps_: list[int], start: int, length: int, fps: int | None
) -> None:
    times = [Fraction(int(time), 100) for time in np.cumsum([0, *gaps_])]
    video: Any = SimpleNamespace(times=np.array(list(map(float, times))), num_frames=len(times))
    duration = times[-1] * len(times) / (len(times) - 1) if gaps_ else Fraction(1, 25)
    video.duration = float(duration)
    begin, end = Fraction(start, 100), Fraction(start + length, 100)
    if begin >= duration:
        return
    track = track_of(video, fps, Segment(float(begin), float(end)))
    frames = track.frames(np.arange(track.length)).tolist()
    shown = max(n for n, time in enumerate(times) if time <= begin)
    if fps is None:
        inside = [n for n, time in enumerate(times) if begin < time < min(end, duration)]
        assert frames == [shown, *(n for n in inside if n > shown)]
        return
    instants, stop = [], min(end, duration) - Fraction(1, 1000)
    while not instants or begin + Fraction(len(instants), fps) < stop:
        instants.append(begin + Fraction(len(instants), fps))
    expected = [max(n for n, time in enumerate(times) if time <= instant) for instant in instants]
    assert frames == expected
    assert np.allclose(track.seconds(np.arange(track.length)), list(map(float, instants)))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 100 frames in 4 seconds."""
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", 100, codec="libx264", gop=10)


def test_clips_of_a_segment_are_those_of_the_cut_video(long: Path) -> None:
    record = VideoRecord(long, 0, start=1.0, end=2.0)  # frames 25 to 49
    videos = Videos(VideoDataset(("a",), (record,)))
    with open_video(long) as video:
        part = FramesInMemory(video.read(range(25, 50)), PREP)
    expected = read_eval_clips(part, PREP, 3)
    for fps in (None, 25.0):
        found = EvalClips(videos, replace(PREP, fps=fps), 3)[0]
        assert isinstance(found, Sample)
        assert torch.equal(found.clips, expected)
        assert found.starts == (25, 36, 46)
        assert found.times == pytest.approx([start / 25 for start in found.starts])
        assert found.length == 25


@pytest.mark.parametrize("fps", [None, 12.5])
def test_training_windows_stay_in_the_segment(
    long: Path, monkeypatch: pytest.MonkeyPatch, fps: float | None
) -> None:
    read: set[int] = set()
    pieces_of = VideoFile.pieces

    def spying(video: VideoFile, frames: Any, box: Any = None) -> Any:
        read.update(frames)
        return pieces_of(video, frames, box)

    monkeypatch.setattr(VideoFile, "pieces", spying)
    record = VideoRecord(long, 0, start=3.0, end=3.5)  # frames 75 to 87
    videos = Videos(VideoDataset(("a",), (record,)))
    clips = TrainClips(videos, replace(PREP, fps=fps), 0, "random-crop", 0.0, 1)
    assert all(isinstance(clips[epoch, 0], Sample) for epoch in range(60))
    assert read == set(range(75, 88, 1 if fps is None else 2))


def test_a_segment_after_the_end_is_one_line(long: Path) -> None:
    videos = Videos(VideoDataset(("a",), (VideoRecord(long, 0, start=4.5),)))
    found = EvalClips(videos, PREP, 1)[0]
    assert isinstance(found, Unread)
    assert found.error.reason.startswith("its segment starts at 4.5 s, but the video ends at 4.000")


def test_manifests_keep_segments(tmp_path: Path) -> None:
    records = tuple(
        VideoRecord(tmp_path / "a.mp4", label, "a.mp4", start=start, end=end)
        for label, start, end in ((0, None, 2.5), (1, 2.5, 10.0), (0, 1234.0625, None))
    )
    (tmp_path / "a.mp4").touch()
    write_manifest(tmp_path / "manifest.csv", ["walk", "run"], {"train": records})
    found = read_dataset(tmp_path, "train")
    assert found.records == records
    [note] = found.notes
    assert note.startswith("SEGMENTS of manifest.csv: 3 of 1 file, by the columns start and end")
    names = [record.name for record in records]
    assert [Path(name).name for name in names] == [
        "a.mp4#t=,2.5", "a.mp4#t=2.5,10", "a.mp4#t=1234.0625"
    ]  # fmt: skip
    assert [parse_name(name) for name in names] == [(str(r.path), r.segment) for r in records]
    assert len({video_digest(record, ["walk", "run"]) for record in records}) == 3


@pytest.mark.parametrize("name", ["a#t=.mp4", "#t=1,2", "a.mp4#t=x", "a.mp4#t=1.5.2", "a/b#t=1/c"])
def test_other_names_are_whole_videos(name: str) -> None:
    assert parse_name(name) == (name, WHOLE)


WRONG = [
    (("a.mp4,walk,train,1,2", "a.mp4,run,train,1,2"), "a.mp4#t=1,2 is already listed in"),
    (("a.mp4,walk,train,1,2", "a.mp4,run,test,3,4"), "has split test here and train in"),
    (("a.mp4,walk,train,1,2", "a.mp4,run,train,,"), "as a whole and in segments"),
    (("a.mp4,walk,train,2,1",), "start 2 and end 1 are no segment; give seconds from 0"),
    (("a.mp4,walk,train,-1,1",), "start -1 and end 1 are no segment"),
    (("a.mp4,walk,train,nan,1",), "start nan and end 1 are no segment"),
    (("a.mp4,walk,train,1,inf",), "start 1 and end inf are no segment"),
    (("a.mp4,walk,train,0:30,1",), "start and end must be seconds"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
def test_wrong_segments_are_one_line(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_manifest(write_rows(tmp_path, *rows))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_segments_of_a_file_have_one_group(tmp_path: Path) -> None:
    header = "path,class,group,start,end"
    path = write_rows(tmp_path, "a.mp4,walk,ann,1,2", "a.mp4,run,bob,3,4", header=header)
    with pytest.raises(UserError, match=r"has group bob here and ann in .*:2; give all segments"):
        read_manifest(path)


def test_a_rule_never_divides_the_segments_of_a_file(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        (tmp_path / f"{number}.mp4").touch()
        rows += [f"{number}.mp4,{name},{at},{at + 1}" for at, name in enumerate(("a", "b", "a"))]
    path = write_rows(tmp_path, *rows, header="path,class,start,end")
    rule = SplitRule(test_fraction=0.3, validation_fraction=0.2)
    parts = read_parts(DataOptions(path, splits=rule))
    sides = [{record.path for record in dataset.records} for dataset in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12
    assert sum(len(dataset.records) for dataset in parts.values()) == 36
    listed = tmp_path / "test.txt"
    listed.write_text("3.mp4\n")
    others = tmp_path / "train.txt"
    others.write_text("".join(f"{number}.mp4\n" for number in range(12) if number != 3))
    rule = SplitRule(train_list=others, test_list=listed)
    assert len(read_dataset(DataOptions(path, splits=rule), "test").records) == 3


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda t: (t[0], t[0] + t[1])),
    min_size=1,
    max_size=6,
)


@given(SPANS, st.integers(1, 70))
def test_gaps_are_the_seconds_that_no_segment_covers(
    spans: list[tuple[int, int]], duration: int
) -> None:
    segments = [Segment(*map(float, span)) for span in spans]
    found = gaps(segments, duration)
    free = [s for s in range(duration) if not any(a <= s < b for a, b in spans)]
    assert [s for a, b in found for s in range(int(a), int(b))] == free
    assert all(one[1] < other[0] for one, other in pairwise(found))
    taken = pieces(segments, duration)
    assert len(taken) <= len(segments)
    assert all(
        any(a - 0.001 <= start and end <= b + 0.001 for a, b in found) for start, end in taken
    )
    assert all(one[1] <= other[0] + 0.001 for one, other in pairwise(taken))


def test_background_is_a_class_of_its_own(long: Path, tmp_path: Path) -> None:
    rows = [f"{long},walk,train,0.5,1.5", f"{long},run,train,1.5,2"]
    other = write_video(tmp_path / "other.mp4", 50)
    path = write_rows(tmp_path, *rows, f"{other},walk,test,0,2")
    dataset = read_dataset(DataOptions(path, background=True), "train")
    assert dataset.class_names == ("run", "walk", "background")
    added = [record for record in dataset.records if record.label == 2]
    # The median of a second and half a second; the part before the first segment is too short.
    assert [record.segment for record in added] == [(2.167, 2.917), (3.083, 3.833)]
    assert {record.group for record in added} == {str(long)}
    assert dataset.notes[-1] == "BACKGROUND: 2 pieces of the parts without a segment"
    again = read_dataset(DataOptions(path, background=True), "test")
    assert again.notes[-1].startswith("BACKGROUND: 0 pieces")
    assert [record.label for record in again.records] == [1]


def test_background_needs_segments(long: Path, tmp_path: Path) -> None:
    for rows, message in (
        ((f"{long},walk,train,,",), "--background needs segments; give a manifest with"),
        ((f"{long},background,train,0,1",), "has a class background already"),
    ):
        path = write_rows(tmp_path, *rows)
        with pytest.raises(UserError, match=message):
            read_dataset(DataOptions(path, background=True), "train")
