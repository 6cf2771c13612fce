"""Speed of `p3d prepare ucf101`, and a test that kills lose no clips.

    python benchmarks/prepare.py [--clips 13320] [--kills 10] [--bytes 4000] [--sources folder rar]

Writes as many small files as UCF101 has clips, with their names and lists, so that the splits have
their real sizes. Prepares them in one run, and again with a SIGKILL whenever a random number of
clips exists. After each kill all existing clips must be complete. In the end no clip may be
missing and no temporary file left. Otherwise the exit code is 1. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Numbers of clips in the official lists, by ranges of groups that are never split.
CLIPS_OF_GROUPS = {
    range(1, 4): 1591,
    range(4, 8): 2192,
    range(8, 11): 1625,
    range(11, 15): 2109,
    range(15, 22): 3696,
    range(22, 25): 1568,
    range(25, 26): 539,
}
TEST_GROUPS = (range(1, 8), range(8, 15), range(15, 22))
VALIDATION_GROUPS = (range(8, 11), range(1, 4), range(22, 25))
CLASSES = 101


class Clip(NamedTuple):
    class_name: str
    group: int
    number: int

    @property
    def path(self) -> str:
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.number:02d}.avi"


class Run(NamedTuple):
    seconds: float
    peak_mib: float
    killed: bool


def make_clips(total: int) -> list[Clip]:
    clips = []
    for groups, count in CLIPS_OF_GROUPS.items():
        pairs = [(f"Class{c:03d}", group) for group in groups for c in range(CLASSES)]
        for index in range(round(count * total / sum(CLIPS_OF_GROUPS.values()))):
            clips.append(Clip(*pairs[index % len(pairs)], index // len(pairs) + 1))
    return clips


def write_lists(folder: Path, clips: Sequence[Clip]) -> None:
    folder.mkdir()
    classes = sorted({clip.class_name for clip in clips})
    labels = {name: label for label, name in enumerate(classes, start=1)}
    (folder / "classInd.txt").write_text("".join(f"{labels[name]} {name}\n" for name in classes))
    for fold, test in enumerate(TEST_GROUPS, start=1):
        train = [f"{c.path} {labels[c.class_name]}\n" for c in clips if c.group not in test]
        (folder / f"trainlist{fold:02d}.txt").write_text("".join(train))
        names = [f"{c.path}\n" for c in clips if c.group in test]
        (folder / f"testlist{fold:02d}.txt").write_text("".join(names))


def contents(path: str, size: int) -> bytes:
    line = f"{path}\n".encode()
    return (line * (size // len(line) + 1))[: size - zlib.crc32(line) % 100]


def write_folder(root: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    for name, data in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(root: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(root / "UCF101.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return root / "UCF101.zip"


def write_rar(root: Path, files: Iterator[tuple[str, bytes]]) -> Path:
    """Write an uncompressed RAR 4 by the public description of the format."""

    def block(kind: int, flags: int, fields: bytes) -> bytes:
        body = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body

    with (root / "UCF101.rar").open("wb") as archive:
        archive.write(b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6)))
        for name, data in files:
            fields = (len(data), len(data), 3, zlib.crc32(data), 0, 20, 0x30, len(name), 0o100644)
            archive.write(block(0x74, 0x8000, struct.pack("<IIBIIBBHI", *fields) + name.encode()))
            archive.write(data)
        archive.write(block(0x7B, 0x4000, b""))
    return root / "UCF101.rar"


WRITERS = {"folder": write_folder, "zip": write_zip, "rar": write_rar}


def prepare(source: Path, out: Path, *options: str, kill_at: int | None = None) -> Run:
    """Run the command, to the end or until `kill_at` clips exist."""
    command = [sys.executable, "-m", "p3d", "prepare", "ucf101"]
    command += ["--source", str(source), "--out", str(out), *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process_id = 0
    while kill_at is not None and not process_id:
        if count_clips(out) >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        process_id, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not process_id:
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.perf_counter() - start
    return Run(seconds, usage.ru_maxrss / 1024, process.returncode != 0)


def count_clips(out: Path) -> int:
    return sum(1 for _ in out.glob("*/*/*.avi"))


def split_of(clip: Clip, fold: int) -> str:
    if clip.group in TEST_GROUPS[fold - 1]:
        return "test"
    return "validation" if clip.group in VALIDATION_GROUPS[fold - 1] else "train"


def check_clips(out: Path, clips: Sequence[Clip], size: int) -> int:
    """Check that all existing clips are complete and in the right folder; return their number."""
    expected = {f"{split_of(clip, 1)}/{clip.path}": clip.path for clip in clips}
    found = [path for path in out.glob("*/*/*") if not path.name.startswith(".p3d-partial-")]
    for path in found:
        name = path.relative_to(out).as_posix()
        if name not in expected or path.read_bytes() != contents(expected[name], size):
            sys.exit(f"{path}: is incomplete or in the wrong folder")
    return len(found)


def check_finished(out: Path, clips: Sequence[Clip], size: int) -> None:
    found = check_clips(out, clips, size)
    if found != len(clips):
        sys.exit(f"{out}: holds {found:,} clips of {len(clips):,}")
    if leftovers := list(out.rglob(".p3d-*")):
        sys.exit(f"{leftovers[0]}: was left behind, and {len(leftovers) - 1} others")
    for fold in (1, 2, 3):
        for split in ("train", "validation", "test"):
            lines = (out / "ucfTrainTestlist" / f"{split}list{fold:02d}.txt").read_text()
            names = {line.split()[0] for line in lines.splitlines()}
            if names != {clip.path for clip in clips if split_of(clip, fold) == split}:
                sys.exit(f"{out}: the {split} list of split {fold} is wrong")
            print(f"{len(names):,}", end="\n" if split == "test" else " / ")


def measure(kind: str, link: str, root: Path, clips: Sequence[Clip], size: int, kills: int) -> str:
    files = ((f"UCF-101/{clip.path}", contents(clip.path, size)) for clip in clips)
    (root / "source").mkdir(parents=True)
    source = WRITERS[kind](root / "source", files)
    write_lists(root / "source" / "ucfTrainTestlist", clips)
    options = ("--link", link)
    dry = prepare(source, root / "whole", *options, "--dry-run")
    whole = prepare(source, root / "whole", *options)
    again = prepare(source, root / "whole", *options)
    check_finished(root / "whole", clips, size)
    runs, counts = [], []
    for kill_at in sorted(random.randint(1, len(clips)) for _ in range(kills)):
        runs.append(prepare(source, root / "out", *options, kill_at=kill_at))
        counts.append(check_clips(root / "out", clips, size))
    runs.append(prepare(source, root / "out", *options))
    check_finished(root / "out", clips, size)
    if kind == "folder":
        unchanged = sum(
            path.read_bytes() == contents(str(path.relative_to(source / "UCF-101")), size)
            for path in source.glob("UCF-101/*/*")
        )
        if unchanged != len(clips):
            sys.exit(f"{source}: {len(clips) - unchanged} files were changed")
    if counts != sorted(counts):
        sys.exit(f"clips were lost: {counts}")
    killed = sum(run.killed for run in runs)
    print(f"{kind}, {link}: clips after each kill: {', '.join(f'{n:,}' for n in counts)}")
    total = sum(run.seconds for run in runs)
    return (
        f"| {kind}, {link} | {dry.seconds:.1f} | {whole.seconds:.1f} | {again.seconds:.1f} "
        f"| {killed} | {total:.1f} | {max(run.peak_mib for run in (dry, whole, *runs)):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=sum(CLIPS_OF_GROUPS.values()))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--bytes", type=int, default=4000)
    parser.add_argument("--sources", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument(
        "--links", nargs="+", default=["hard", "copy"], help="link modes for the source 'folder'"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    clips = make_clips(options.clips)
    rows = []
    for kind in options.sources:
        for link in options.links if kind == "folder" else ["copy"]:
            with tempfile.TemporaryDirectory(prefix="p3d-prepare-") as folder:
                root = Path(folder)
                rows.append(measure(kind, link, root, clips, options.bytes, options.kills))
    print(f"{len(clips):,} files of about {options.bytes:,} bytes")
    print(
        "| source, link | dry run, s | complete run, s | repeated, s | kills | all runs, s | MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
