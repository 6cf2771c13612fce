"""The official lists of UCF101, and validation lists made from them.

Clips of a group show the same scene and people. So a validation list takes whole groups out of the
training list: 8-10 of fold 1, 1-3 of fold 2, 22-24 of fold 3, as the validation lists in public use
do. The official lists then have 7,912 / 1,625 / 3,783 clips for training, validation and test in
fold 1, 7,995 / 1,591 / 3,734 in fold 2, and 8,056 / 1,568 / 3,696 in fold 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from p3d.data.dataset import Split
from p3d.data.listing import read_text
from p3d.data.ucf101 import LISTS, Key, parse_classes, parse_list
from p3d.errors import UserError
from p3d.prepare.archive import open_archive, text_folder
from p3d.prepare.options import Validation
from p3d.system.files import replacing, writing
from p3d.system.spelling import ask_meant

OFFICIAL_CLIPS = 13_320
VALIDATION_GROUPS: Mapping[int, range] = {1: range(8, 11), 2: range(1, 4), 3: range(22, 25)}

_LIST = re.compile(r"classind\.txt|(train|validation|test)list\d\d\.txt")
_GROUP = re.compile(r"_g(\d+)_c\d+\.\w+$", re.IGNORECASE)

Fold = Mapping[Split, tuple[str, ...]]
"""The clips of one fold as `Class/v_Class_gGG_cCC.avi`."""


@dataclass(frozen=True)
class Ucf101Lists:
    """Class names and folds, with one spelling per clip.

    Attributes:
        class_names: In the order of the labels, which start at 0 here and at 1 in the files.
        folds: Folds by number. Only those with a training and a test list.
    """

    class_names: tuple[str, ...]
    folds: Mapping[int, Fold]

    def clips(self) -> tuple[str, ...]:
        """Return all listed clips, sorted."""
        lists = (clips for fold in self.folds.values() for clips in fold.values())
        return tuple(sorted(set(chain.from_iterable(lists))))


def clip_group(clip: str) -> int:
    """Return the group of a clip from its name: 7 for `v_Biking_g07_c02.avi`.

    Raises:
        UserError: The name has another form.
    """
    found = _GROUP.search(clip)
    if found is None:
        raise UserError(f"{clip}: the name of a clip must end in _gGG_cCC.avi, GG being its group")
    return int(found[1])


def read_lists(source: Path, validation: Validation) -> Ucf101Lists:
    """Read the official lists and make the validation lists.

    Existing validation lists are first merged into the training lists, so the result does not
    depend on earlier preparation.

    Args:
        source: A folder with `classInd.txt`, or an archive with it at any depth.
        validation: `"public"` takes groups 8-10, 1-3 and 22-24; `"none"` none.

    Raises:
        UserError: Lists are missing, contradict each other or name an unknown class.
    """
    texts = _read_texts(source)
    if "classind.txt" not in texts:
        raise UserError(f"{source}: holds no classInd.txt; give the official lists by --lists")
    class_names = parse_classes(texts["classind.txt"], f"{source}/classInd.txt")
    spelling: dict[Key, str] = {}
    folds: dict[int, Fold] = {}
    for number in VALIDATION_GROUPS:
        names = {kind: f"{kind}list{number:02d}.txt" for kind in ("train", "validation", "test")}
        if names["train"] in texts and names["test"] in texts:
            parts = {
                kind: tuple(
                    # The lists differ in case; each clip is spelled as at its first occurrence.
                    dict.fromkeys(
                        spelling.setdefault(
                            entry.key, f"{class_names[entry.label]}/{entry.name.partition('/')[2]}"
                        )
                        for entry in parse_list(
                            texts.get(name, ""), f"{source}/{name}", class_names
                        )
                    )
                )
                for kind, name in names.items()
            }
            folds[number] = _make_fold(number, parts, validation)
    if not folds:
        raise UserError(f"{source}: holds no trainlist01.txt with a testlist01.txt; see --lists")
    return Ucf101Lists(class_names, folds)


def write_lists(lists: Ucf101Lists, folder: Path) -> None:
    """Write `classInd.txt` and the lists of every fold; training and validation have labels.

    A clip that moves is written to its new list before it is removed from the old one, so that no
    clip is lost if this is killed.
    """
    labels = {name: label for label, name in enumerate(lists.class_names, start=1)}
    folder.mkdir(parents=True, exist_ok=True)
    for number, fold in lists.folds.items():
        for split in ("validation", "train", "test"):
            if fold[split] or split != "validation":
                lines = (
                    clip if split == "test" else f"{clip} {labels[clip.partition('/')[0]]}"
                    for clip in fold[split]
                )
                write_lines(folder / f"{split}list{number:02d}.txt", lines)
        if not fold["validation"]:
            (folder / f"validationlist{number:02d}.txt").unlink(missing_ok=True)
    # The last, since a set without it is none: until then, a list may be missing.
    write_lines(folder / "classInd.txt", (f"{label} {name}" for name, label in labels.items()))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as UTF-8 text, unless the file has them already.

    Raises:
        UserError: The file cannot be written.
    """
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    if path.is_file() and path.read_bytes() == text:
        return
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(text)


def _make_fold(number: int, parts: Mapping[str, tuple[str, ...]], validation: Validation) -> Fold:
    training = tuple(dict.fromkeys((*parts["train"], *parts["validation"])))
    if both := sorted(set(training) & set(parts["test"])):
        raise UserError(f"{both[0]}: is in both the training and the test list of fold {number}")
    if validation == "none":
        return {"train": training, "validation": (), "test": parts["test"]}
    groups = VALIDATION_GROUPS[number]
    return {
        "train": tuple(clip for clip in training if clip_group(clip) not in groups),
        "validation": tuple(clip for clip in training if clip_group(clip) in groups),
        "test": parts["test"],
    }


def _read_texts(source: Path) -> dict[str, str]:
    """Return the texts of a folder or an archive by file name in lower case."""
    if not source.exists():
        raise UserError(
            f"{source}: no such folder or zip; "
            + ask_meant(source, "give the official lists by --lists")
        )
    with text_folder(source) as folder:
        files = {path.name.lower(): path for path in sorted(folder.glob("*.txt"))}
        return {n: read_text(path) for n, path in files.items() if _LIST.fullmatch(n)}


def find_lists(source: Path) -> Path:
    """Search for the lists in a source folder and next to the source.

    Args:
        source: A folder or an archive of videos.

    Returns:
        A folder with `classInd.txt`, or a zip with it.

    Raises:
        UserError: There is none.
    """
    unreadable: list[str] = []
    parents = [source, source.parent] if source.is_dir() else [source.parent]
    for parent in parents:
        for folder in (parent, parent / LISTS):
            if (folder / "classInd.txt").is_file():
                return folder
        for path in sorted(parent.glob("*.zip")):
            try:
                if "classind.txt" in open_archive(path, ".txt").clips:
                    return path
            except UserError as error:
                unreadable.append(str(error))
    searched = " or ".join(str(parent) for parent in parents)
    skipped = f" (skipped {'; '.join(unreadable)})" if unreadable else ""
    raise UserError(
        f"{searched}: no classInd.txt, {LISTS}/ or zip of lists found{skipped}; give the official "
        "lists (UCF101TrainTestSplits-RecognitionTask.zip) by --lists"
    )
