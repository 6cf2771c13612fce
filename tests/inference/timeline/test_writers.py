"""Files of segments, read by other readers, and pictures of timelines."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

import av
import numpy as np
import pytest
from PIL import Image

from helpers.fonts import HANZI, only_fonts_of, write_font
from helpers.videos import number_of, write_video
from p3d.errors import BadVideoError, UserError
from p3d.inference.timeline.annotate import write_annotated
from p3d.inference.timeline.segments import Segment
from p3d.inference.timeline.strip import write_strip
from p3d.inference.timeline.timeline import Timeline
from p3d.inference.timeline.writers import check_out, write_timelines

SEGMENTS = (
    Segment(0.5, 1.25, "walk", 0.9),
    Segment(1.0, 3700.5, "a <b> & \u8d70 --> c", 0.5),
    Segment(2.0, 3.0, "walk", 0.75),
)


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    times = np.arange(1, 40) / 10
    scores = np.stack([times / 4, 1 - times / 4], 1)
    names = ("walk", SEGMENTS[1].label)
    return Timeline(tmp_path / "my film.mp4", times, scores, names, 4.0, SEGMENTS)


def written(path: Path, *timelines: Timeline) -> str:
    write_timelines(path, timelines, {})
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["vtt", "srt"])
def test_subtitles_are_those_that_ffmpeg_reads(
    suffix: str, tmp_path: Path, timeline: Timeline
) -> None:
    path = tmp_path / f"a.{suffix}"
    text = written(path, timeline)
    assert text.startswith("WEBVTT\n\n" if suffix == "vtt" else "1\n")
    assert ("00:00:00.500 --> 00:00:01.250" if suffix == "vtt" else "01:01:40,500") in text
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux() if packet.size]
        found = [
            (packet.pts * packet.time_base, packet.duration * packet.time_base)
            for packet in packets
        ]
    assert [tuple(map(float, each)) for each in found] == [
        pytest.approx((s.start, s.end - s.start)) for s in SEGMENTS
    ]
    assert bytes(packets[0]).startswith(b"walk 90.0%")


def test_eaf_has_a_tier_for_each_class_and_ordered_times(
    tmp_path: Path, timeline: Timeline
) -> None:
    root = ET.fromstring(written(tmp_path / "a.eaf", timeline).partition("\n")[2])
    slots = {s.get("TIME_SLOT_ID"): int(s.get("TIME_VALUE", "")) for s in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    found = []
    for tier in root.iter("TIER"):
        for each in tier.iter("ALIGNABLE_ANNOTATION"):
            assert each.findtext("ANNOTATION_VALUE") == tier.get("TIER_ID")
            ends = [slots[each.get(f"TIME_SLOT_REF{n}")] / 1000 for n in (1, 2)]
            found.append((*ends, tier.get("TIER_ID")))
    assert sorted(found) == [segment[:3] for segment in SEGMENTS]
    types = {each.get("LINGUISTIC_TYPE_ID") for each in root.iter("LINGUISTIC_TYPE")}
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == types
    media = next(root.iter("MEDIA_DESCRIPTOR"))
    assert media.get("RELATIVE_MEDIA_URL") == "./my%20film.mp4"
    assert media.get("MIME_TYPE") == "video/mp4"
    assert [child.tag for child in root][:2] == ["HEADER", "TIME_ORDER"]


def test_tab_file_has_the_columns_of_a_manifest(tmp_path: Path, timeline: Timeline) -> None:
    lines = written(tmp_path / "a.tsv", timeline, timeline).splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) == 6
    assert rows[1] == {
        "path": str(timeline.path),
        "start": "1.000",
        "end": "3700.500",
        "class": SEGMENTS[1].label,
        "score": "0.5000",
    }


def test_formats_of_one_video_refuse_several() -> None:
    check_out(Path("a.csv"), 2)
    with pytest.raises(UserError, match="for one video, but there are 2; give one of"):
        check_out(Path("a.vtt"), 2)


def test_strip_draws_scores_and_segments(tmp_path: Path, timeline: Timeline) -> None:
    write_strip(tmp_path / "a.svg", timeline)
    root = ET.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))
    texts = [each.text for each in root if each.tag.endswith("text")]
    assert f"{timeline.path}: 3 segments in 0:00:04.000, 39 windows" in texts
    assert {"walk", "0:00:02.000"} <= {text for text in texts if text} | {"0:00:02.000"}
    bars = [each for each in root if each.get("fill") == "#2f6db5"]
    assert [float(bar.get("x", "")) for bar in bars] == [275.0, 650.0, 400.0]
    write_strip(tmp_path / "a.png", timeline)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert pixels.shape == (int(root.get("height", "")), int(root.get("width", "")), 3)
    strong = (pixels == (0x2F, 0x6D, 0xB5)).all(2)
    assert strong[:, 280].any()
    assert not strong[:, 600].all()
    # The area of a rising score grows from left to right.
    pale = (pixels == (0xA9, 0xC5, 0xE8)).all(2)[28:76].sum(0)
    assert pale[300] < pale[700] < pale[1100]


def test_pictures_show_names_in_an_installed_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fonts_of(tmp_path, monkeypatch)
    write_font(tmp_path / "fonts" / "a.ttf", HANZI + "walk 1234567890.%:,/")
    source, pictures = write_video(tmp_path / "a.mkv", 1, size=(96, 120)), []
    for name in HANZI[:2]:
        segments = (Segment(0.0, 1.0, name, 0.9),)
        timeline = Timeline(source, np.zeros(1), np.ones((1, 1)), (name,), 1.0, segments)
        write_strip(tmp_path / "strip.png", timeline)
        write_annotated(tmp_path / "b.mp4", timeline)
        with av.open(str(tmp_path / "b.mp4")) as file:
            frame = next(file.decode(video=0)).to_ndarray(format="rgb24")
        with Image.open(tmp_path / "strip.png") as image:
            pictures.append((np.asarray(image), frame))
    for first, second in zip(*pictures, strict=True):
        assert (first != second).any()


def test_annotated_video_keeps_frames_and_times(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mkv", 5, size=(97, 121), times=[0, 1, 3, 4, 9])
    segments = (Segment(0.04, 0.16, "walk", 0.9),)
    timeline = Timeline(source, np.zeros(1), np.ones((1, 1)), ("walk",), 0.4, segments)
    write_annotated(tmp_path / "b.mp4", timeline)
    with av.open(str(tmp_path / "b.mp4")) as file:
        frames = list(file.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.12, 0.16, 0.36], abs=1e-3)
    pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert pictures[0].shape == (98, 122, 3)
    is_dark = [picture[:12, :40].mean() < 100 for picture in pictures]
    assert [number_of(pictures[n]) for n in (0, 3, 4)] == [0, 3, 4]
    assert is_dark[1]
    assert (pictures[1][:12, :50] > 180).any(), "white text"
    with pytest.raises(UserError, match="cannot be written"):
        write_annotated(tmp_path / "absent" / "b.mp4", timeline)
    source.unlink()
    with pytest.raises(BadVideoError, match="no such file"):
        write_annotated(tmp_path / "b.mp4", timeline)
