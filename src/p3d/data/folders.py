"""Data sets whose classes are the names of folders, or are captured in the names of videos.

* `ROOT/[.../]CLASS/VIDEO`: a folder that holds videos is a class, named by its path below ROOT.
* `ROOT/{train,validation,test}/[.../]CLASS/VIDEO` is divided already.
* With a class pattern, videos may be anywhere below ROOT or these split folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from p3d.data.dataset import SPLIT_NAMES, SPLITS, Listing, Part, VideoRecord, examples
from p3d.data.listing import find_clash, list_folder, spelling_key, stem_of
from p3d.data.patterns import compile_pattern
from p3d.data.trees import Tree, any_tree, class_tree
from p3d.errors import UserError
from p3d.system.text import counted


def list_folders(root: Path, class_pattern: str | None = None) -> Listing:
    """List the videos below a folder. Classes are sorted by name.

    Args:
        root: The folder.
        class_pattern: Regular expression that captures the class in a video's path below the
            folder, or below its split folder, without suffix. By default the class is the folder
            that holds the video.

    Raises:
        UserError: There are no class folders, one has no videos, or the pattern does not fit.
    """
    top = list_folder(root)
    bases = _split_folders(root, top.folders)
    search = class_tree if class_pattern is None else any_tree
    trees = {b: search(root, b, list_folder(root / b) if b else top) for b in bases.values()}
    names = {name: name.removeprefix(b) for b, tree in trees.items() for name in tree.videos}
    if class_pattern is None:
        beside = [name for tree in trees.values() for name in tree.beside]
        classes, notes = _folder_classes(root, names, beside)
    else:
        classes, notes = _captured_classes(root, names, class_pattern)
    if None not in bases and top.videos:
        videos = counted(len(top.videos), "video")
        notes += (f"IGNORED: {videos} beside the split folders: {examples(top.videos)}",)
    class_names = tuple(sorted(set(classes.values())))
    _check_spelling(root, class_names)
    labels = {name: label for label, name in enumerate(class_names)}

    def records(tree: Tree) -> tuple[VideoRecord, ...]:
        known = (name for name in tree.videos if name in classes)
        return tuple(VideoRecord(root / name, labels[classes[name]]) for name in known)

    order: tuple[Part, ...] = (None,) if None in bases else SPLITS
    parts = {p: records(trees[bases[p]]) if p in bases else () for p in order}
    others = [] if None in bases else [f"{n}/" for n in top.folders if f"{n}/" not in trees]
    ignored = (*others, *(name for tree in trees.values() for name in tree.ignored))
    return Listing(root, class_names, parts, ignored=ignored, notes=notes)


def would_search(root: Path, folder: Path) -> bool:
    """Return whether `list_folders` without a pattern would take a new folder for a class."""
    target = folder.resolve()
    bases = _split_folders(root, list_folder(root).folders)
    around = [(root / base).resolve() for base in bases.values()]
    return any(
        target.is_relative_to(base)
        and not any(name.startswith(".") for name in target.relative_to(base).parts)
        for base in around
    )


def _split_folders(root: Path, folders: Sequence[str]) -> dict[Part, str]:
    """Return the folder of each split, with a slash; only `None: ""` if there are none."""
    names = {name.lower() for name in folders}
    others = names & SPLIT_NAMES.keys() - {"train"}
    if not names or not (names <= SPLIT_NAMES.keys() or ("train" in names and others)):
        return {None: ""}
    bases: dict[Part, str] = {}
    for name in folders:
        split = SPLIT_NAMES.get(name.lower())
        if split in bases:
            raise UserError(f"{root}: has two folders for {split}; keep one")
        if split:
            bases[split] = f"{name}/"
    return bases


def _folder_classes(
    root: Path, names: Mapping[str, str], beside: Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class of each video by its folder, and notes for the user.

    Args:
        root: The data set's folder.
        names: Names of the videos below the root, with those below their split folder.
        beside: Names of video files next to the class folders.

    Raises:
        UserError: There are no classes, or it is not clear which folders are the classes.
    """
    pattern = ", or give --class-pattern, which captures the class in their names" if beside else ""
    classes = {name: below.rpartition("/")[0] for name, below in names.items()}
    if not classes:
        raise UserError(f"{root}: has no class folders; videos must be in {root}/CLASS/{pattern}")
    nested = sorted(name for name in set(classes.values()) if "/" in name)
    tops = {name.partition("/")[0] for name in classes.values()}
    if nested and len(tops) == 1:
        folder = root / tops.pop()
        raise UserError(f"{root}: all class folders are in {folder}; give --data {folder}")
    last: dict[str, str] = {}
    for name in nested:
        key = spelling_key(name.rpartition("/")[2])
        if last.setdefault(key, name) != name:
            raise UserError(
                f"{root}: {last[key]} and {name} may be one class or two; give --class-pattern "
                "'([^/]+)/[^/]+$' for one, or '(.+)/' for two"
            )
    notes = [f"CLASSES are nested folders, such as {nested[0]}"] if nested else []
    if beside:
        videos = counted(len(beside), "video")
        notes.append(f"IGNORED: {videos} beside the class folders: {examples(beside)}")
    return classes, tuple(notes)


def _captured_classes(
    root: Path, names: Mapping[str, str], pattern: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class of each video by a pattern, and notes for the user; see `_folder_classes`.

    Raises:
        UserError: The pattern is invalid, matches nothing, or puts all videos into one class.
    """
    find = compile_pattern("--class-pattern", pattern, "the class")
    if not names:
        raise UserError(f"{root}: has no videos; add some, or fix --data")
    found = {name: find(stem_of(below)).strip() for name, below in names.items()}
    classes = {name: class_name for name, class_name in found.items() if class_name}
    first, *others = sorted(set(classes.values())) or [""]
    total = counted(len(names), "video")
    if not first:
        example = next(map(stem_of, names.values()))
        raise UserError(
            f"--class-pattern {pattern!r} finds no class in any of the {total} below {root}, such "
            f"as {example}; fix the pattern"
        )
    if not others:
        raise UserError(
            f"--class-pattern {pattern!r} puts all of the {total} below {root} into the class "
            f"{first}; it must capture what differs"
        )
    notes = [f"CLASSES by --class-pattern: {1 + len(others)}, {examples([first, *others])}"]
    if unmatched := [name for name in names if name not in classes]:
        videos = counted(len(unmatched), "video")
        notes.append(f"IGNORED: {videos} without a class by --class-pattern: {examples(unmatched)}")
    return classes, tuple(notes)


def _check_spelling(root: Path, class_names: Sequence[str]) -> None:
    clash = find_clash(class_names)
    if clash:
        raise UserError(
            f"{root}: the classes {clash[0]!a} and {clash[1]!a} differ only in case or "
            "Unicode form; rename one folder, or give a manifest with the column label"
        )
