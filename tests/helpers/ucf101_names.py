"""Clip names and lists like those of UCF101."""

from __future__ import annotations

from pathlib import Path

from p3d.prepare.lists import clip_group

CLASSES = ("Archery", "HandstandPushups", "YoYo")
SPLIT_1_TEST = range(1, 8)


def file_class(name: str) -> str:
    """Return a class name as in file names, where UCF101 spells one differently."""
    return "HandStandPushups" if name == "HandstandPushups" else name


def clips(classes: tuple[str, ...] = CLASSES, per_group: int = 1) -> list[str]:
    return [
        f"{name}/v_{file_class(name)}_g{group:02d}_c{clip:02d}.avi"
        for name in classes
        for group in range(1, 26)
        for clip in range(1, per_group + 1)
    ]


def make_lists(folder: Path, names: list[str], classes: tuple[str, ...] = CLASSES) -> Path:
    folder.mkdir(parents=True)
    lines = [f"{label} {name}" for label, name in enumerate(classes, start=1)]
    (folder / "classInd.txt").write_text("\r\n".join(lines) + "\r\n")
    for number, test in enumerate((SPLIT_1_TEST, range(8, 15), range(15, 22)), start=1):
        train_lines = [
            f"{clip} {classes.index(clip.partition('/')[0]) + 1}"
            for clip in names
            if clip_group(clip) not in test
        ]
        test_lines = [clip for clip in names if clip_group(clip) in test]
        (folder / f"trainlist{number:02d}.txt").write_text("\r\n".join(train_lines))
        (folder / f"testlist{number:02d}.txt").write_text("\r\n".join(test_lines))
    return folder
