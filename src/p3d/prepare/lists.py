"""The official lists of UCF101 and the validation lists made from them.

Clips of one group share scene and people, so a validation list holds out whole groups of the
training list: 8-10 of split 1, 1-3 of split 2, 22-24 of split 3. That is what the validation lists
in public use do; with the official lists it gives 7,912 / 1,625 / 3,783 clips for training,
validation and test of split 1, 7,995 / 1,591 / 3,734 of split 2 and 8,056 / 1,568 / 3,696 of
split 3.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from p3d.data.dataset import Split
from p3d.data.ucf101 import LISTS, Key, parse_classes, parse_list
from p3d.errors import UserError
from p3d.prepare.options import Validation
from p3d.prepare.placing import write_text

OFFICIAL_CLIPS = 13_320
VALIDATION_GROUPS: Mapping[int, range] = {1: range(8, 11), 2: range(1, 4), 3: range(22, 25)}
LARGEST_LIST_BYTES = 16 * 2**20

_GROUP = re.compile(r"_g(\d+)_c\d+\.\w+$", re.IGNORECASE)

Fold = Mapping[Split, tuple[str, ...]]
"""The clips of one fold, each as `Class/v_Class_gGG_cCC.avi`."""


@dataclass(frozen=True)
class Ucf101Lists:
    """Class names and folds, spelt alike everywhere.

    Attributes:
        class_names: In the order of their labels, which count from 0 here and from 1 in the files.
        folds: By number, those that have both a training and a test list.
    """

    class_names: tuple[str, ...]
    folds: Mapping[int, Fold]

    def clips(self) -> tuple[str, ...]:
        """Every clip that any list names, sorted."""
        parts = (clips for fold in self.folds.values() for clips in fold.values())
        return tuple(sorted({clip for part in parts for clip in part}))


def clip_group(clip: str) -> int:
    """The group of a clip, which its name tells: `v_Biking_g07_c02.avi` is of group 7.

    Raises:
        UserError: If the name is not of that form.
    """
    found = _GROUP.search(clip)
    if found is None:
        raise UserError(f"{clip}: a clip's name must end in _gGG_cCC.avi for its group to be known")
    return int(found[1])


def read_lists(place: Path, validation: Validation) -> Ucf101Lists:
    """Reads the official lists from a folder or a zip and makes the validation lists.

    Lists that were already divided are put together first, so the outcome depends on neither what
    was prepared before nor how.

    Args:
        place: A folder or a zip that holds `classInd.txt`, at any depth in the zip.
        validation: `"public"` holds out groups 8-10, 1-3 and 22-24; `"none"` nothing.

    Raises:
        UserError: If lists are missing, contradict each other or name an unknown class.
    """
    texts = _zip_texts(place) if place.is_file() else _folder_texts(place)
    if "classind.txt" not in texts:
        raise UserError(f"{place}: holds no classInd.txt; give the official lists by --lists")
    class_names = parse_classes(texts["classind.txt"], f"{place}/classInd.txt")
    spelling: dict[Key, str] = {}
    folds: dict[int, Fold] = {}
    for number in VALIDATION_GROUPS:
        names = {kind: f"{kind}list{number:02d}.txt" for kind in ("train", "validation", "test")}
        if names["train"] in texts and names["test"] in texts:
            parts = {
                kind: tuple(
                    # One spelling for each clip, whatever the case in each list.
                    dict.fromkeys(
                        spelling.setdefault(
                            entry.key, f"{class_names[entry.label]}/{entry.name.partition('/')[2]}"
                        )
                        for entry in parse_list(texts.get(name, ""), f"{place}/{name}", class_names)
                    )
                )
                for kind, name in names.items()
            }
            folds[number] = _fold(number, parts, validation)
    if not folds:
        raise UserError(f"{place}: holds no trainlist01.txt with a testlist01.txt; see --lists")
    return Ucf101Lists(class_names, folds)


def write_lists(lists: Ucf101Lists, folder: Path) -> None:
    """Writes `classInd.txt` and the lists of every fold, training and validation with labels.

    A list is written before another loses the same clips, so that a kill loses none.
    """
    label = {name: index for index, name in enumerate(lists.class_names, start=1)}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "classInd.txt", (f"{index} {name}" for name, index in label.items()))
    for number, fold in lists.folds.items():
        for split in ("validation", "train", "test"):
            if fold[split] or split != "validation":
                lines = (_line(clip, label, labelled=split != "test") for clip in fold[split])
                write_text(folder / f"{split}list{number:02d}.txt", lines)
        if not fold["validation"]:
            (folder / f"validationlist{number:02d}.txt").unlink(missing_ok=True)


def _line(clip: str, label: Mapping[str, int], *, labelled: bool) -> str:
    return f"{clip} {label[clip.partition('/')[0]]}" if labelled else clip


def _fold(number: int, parts: Mapping[str, tuple[str, ...]], validation: Validation) -> Fold:
    whole = tuple(dict.fromkeys((*parts["train"], *parts["validation"])))
    both = sorted(set(whole) & set(parts["test"]))
    if both:
        raise UserError(
            f"{both[0]}: named by both the training and the test list of split {number}"
        )
    if validation == "none":
        return {"train": whole, "validation": (), "test": parts["test"]}
    held = VALIDATION_GROUPS[number]
    return {
        "train": tuple(clip for clip in whole if clip_group(clip) not in held),
        "validation": tuple(clip for clip in whole if clip_group(clip) in held),
        "test": parts["test"],
    }


def _folder_texts(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or zip; give the official lists by --lists")
    files = (path for path in sorted(folder.glob("*.txt")) if path.is_file())
    return {path.name.lower(): path.read_text("utf-8-sig", "replace") for path in files}


def _zip_texts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = PurePosixPath(info.filename.replace("\\", "/"))
                if name.suffix.lower() != ".txt" or "__MACOSX" in name.parts:
                    continue
                if info.file_size > LARGEST_LIST_BYTES:
                    raise UserError(
                        f"{path}: {name} unpacks to {info.file_size:,} bytes; not a list"
                    )
                texts[name.name.lower()] = archive.read(info).decode("utf-8-sig", "replace")
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable zip ({error}); download it again") from error
    return texts


def find_lists(source: Path) -> Path:
    """Looks for the lists inside the source and beside it.

    Args:
        source: A folder or an archive of videos.

    Returns:
        The folder or zip that holds `classInd.txt`.

    Raises:
        UserError: If there is none.
    """
    tops = [source, source.parent] if source.is_dir() else [source.parent]
    for top in tops:
        for folder in (top, top / LISTS):
            if (folder / "classInd.txt").is_file():
                return folder
        for path in sorted(top.glob("*.zip")):
            if _holds_lists(path):
                return path
    places = " or ".join(str(top) for top in tops)
    raise UserError(
        f"{places}: no classInd.txt, {LISTS}/ or zip of lists there; give the official lists "
        "(UCF101TrainTestSplits-RecognitionTask.zip) by --lists"
    )


def _holds_lists(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(n).name == "classInd.txt" for n in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
