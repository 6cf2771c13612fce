"""Lists, tables and manifests of any content: a data set or a `UserError`, never another exception.

P3D_FUZZ_EXAMPLES sets the number of examples of each test.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.data.dataset import SPLITS, VideoRecord
from p3d.data.layouts import DataOptions, read_parts, read_splits
from p3d.data.manifest import find_videos, read_manifest
from p3d.data.manifest_writer import write_manifest
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.prepare.lists import read_lists
from p3d.prepare.manifest import ManifestOptions, prepare_manifest

fuzz = settings(max_examples=int(os.environ.get("P3D_FUZZ_EXAMPLES", "50")), deadline=None)

WORDS = (
    *("path", "class", "split", "label", "group", "num_frames", "fps", "youtube_id", "time_start"),
    *("time_end", "train", "test", "val", "walk", "run", "a.avi", "walk/a.avi", "b c", "../x", "/"),
    *(" ", "  ", ",", ", ", "\t", "\n", "\r\n", "\r", '"', "0", "1", "-1", "12", "1e400", "nan"),
    *("\0", "\x1b", "\u2028", "\u202e", "\u00b2", "e\u0301", "\u00e9", "\udce9", "=", "9" * 5000),
)
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=30).map("".join)
contents = (
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)
).map(lambda data: data[:10_000])
headers = st.sampled_from(
    (
        b"",
        b"path,class,split\n",
        b"video;label\n",
        b"path,class,split,label,group,num_frames,fps\n",
        b"label,youtube_id,time_start,time_end,split\n",
        b"\xef\xbb\xbfpath,class,split\r\n",
    )
)


@contextmanager
def videos() -> Iterator[Path]:
    """A folder of two classes, in which lists can be put."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("walk/a.avi", "walk/b c.avi", "run/a.avi", "a.avi"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
        yield root


def message_of(read: Callable[[], object]) -> str:
    """Return the message of the `UserError` that a call raises, "" if it raises none."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


@fuzz
@given(headers, contents)
def test_any_manifest(header: bytes, content: bytes) -> None:
    with videos() as root:
        (root / "manifest.csv").write_bytes(header + content)
        assert message_of(lambda: read_parts(DataOptions(root, allow_missing=True))).isprintable()


@fuzz
@given(contents)
def test_any_list_of_a_folder(content: bytes) -> None:
    with videos() as root:
        path = root / "train.txt"
        path.write_bytes(content)
        options = DataOptions(root, allow_missing=True, splits=SplitRule(train_list=path))
        assert message_of(lambda: read_splits(options, ("train",))).isprintable()


@fuzz
@given(contents, contents)
def test_any_lists_of_ucf101(classes: bytes, content: bytes) -> None:
    with videos() as root:
        lists = root / "ucfTrainTestlist"
        lists.mkdir()
        for name in ("trainlist01.txt", "testlist01.txt"):
            (lists / name).write_bytes(content)
        for data in (b"1 walk\n2 run\n", classes):
            (lists / "classInd.txt").write_bytes(data)
            assert message_of(lambda: read_splits(root)).isprintable()
            assert message_of(lambda: read_lists(lists, "public")).isprintable()


@fuzz
@given(
    st.sampled_from(("hmdb51", "kinetics", "ucf101", "lists", "csv")),
    headers,
    contents,
    st.none() | contents,
    st.sampled_from((None, 0, 1)),
)
def test_any_table(kind, header, content, classes, first_label) -> None:
    with videos() as root:
        lists = root / "lists"
        lists.mkdir()
        table = lists / {"hmdb51": "walk_test_split1.txt", "ucf101": "trainlist01.txt"}.get(
            kind, "table.csv"
        )
        table.write_bytes((header if kind in ("csv", "kinetics") else b"") + content)
        (lists / "classInd.txt").write_bytes(classes or b"1 walk\n2 run\n")
        options = ManifestOptions(
            kind,
            root,
            root / "out" / "m.csv",
            (lists if kind in ("hmdb51", "ucf101") else table,),
            train_list=table,
            classes=lists / "classInd.txt" if classes is not None else None,
            first_label=first_label,
            split="train",
            allow_missing=True,
        )
        message = message_of(lambda: prepare_manifest(options))
        assert message.isprintable()
        assert message or read_manifest(options.out).class_names


names = (
    (st.binary(min_size=1, max_size=40) | st.text(min_size=1, max_size=12).map(os.fsencode))
    .filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))
    .map(os.fsdecode)
    if os.name == "posix"
    else st.text("abc ,'", min_size=1, max_size=12)
)
words = names.map(str.strip).filter(bool)


@fuzz
@given(
    st.lists(words, min_size=1, max_size=3, unique=True),
    st.lists(
        st.tuples(
            names,
            st.integers(0, 2),
            st.sampled_from(SPLITS),
            st.just("") | words,
            st.none() | st.integers(1, 10**6),
            st.none() | st.floats(0.01, 1000),
        ),
        max_size=5,
        unique_by=lambda row: row[0],
    ),
)
def test_a_written_manifest_reads_back_equal(class_names, rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        splits: dict = {split: [] for split in SPLITS}
        for name, label, split, group, num_frames, fps in rows:
            try:
                (root / name).touch()
            except OSError:  # the file system does not take this name
                continue
            label %= len(class_names)
            splits[split].append(VideoRecord(root / name, label, group, num_frames, fps))
        path = root / "a folder" / "m.csv"
        for written in (path, root / "..m.csv"):
            write_manifest(written, class_names, splits)
            listing = find_videos(read_manifest(written), SPLITS)
            assert listing.class_names == tuple(class_names)
            for split in SPLITS:
                assert listing.parts.get(split, ()) == tuple(splits[split])
            assert not listing.missing


def test_deep_paths_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "a.avi").touch()
    path = tmp_path / "m.csv"
    path.write_text(f"path,class,split\n{'a/' * 3000}b.avi,x,train\n")
    with pytest.raises(UserError, match="listed videos are not under"):
        read_splits(path)
