"""Text lists that say which videos of a data set are for training, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from p3d.data.dataset import UNLABELED, Listing, Part, Split, VideoRecord
from p3d.data.listing import read_lines, spelling_key, split_label, stem_of
from p3d.data.patterns import name_of
from p3d.errors import UserError

Parts = dict[Part, tuple[VideoRecord, ...] | None]


def divide_by_lists(
    listing: Listing, lists: Mapping[Split, Path | None]
) -> tuple[Parts, dict[Path, str]]:
    """Divide the videos of a data set by lists of their names, `CLASS/VIDEO` in each line.

    Args:
        listing: All videos.
        lists: The list of each split, None if there is none.

    Returns:
        The videos of each split, and the names of those not found by their paths.

    Raises:
        UserError: A list cannot be read, or names a video twice.
    """
    find = _make_finder(listing.records, listing.folder)
    seen: dict[str, str] = {}
    missing = dict(listing.missing)
    parts: Parts = {}
    for split, path in lists.items():
        listed: list[VideoRecord] = []
        for number, line in read_lines(path) if path else ():
            location = f"{path}:{number}"
            name = line.replace("\\", "/").removeprefix("./")
            videos = find(name)
            if not videos and find(split_label(name)[0]):
                raise UserError(
                    f"{location}: {line!r} should be `CLASS/VIDEO` without a label; give "
                    "lists with labels to p3d prepare manifest"
                )
            key = str(videos[0].path) if videos else name
            if key in seen:
                raise UserError(f"{location}: {name} is already listed in {seen[key]}")
            seen[key] = location
            if not videos:
                videos = (VideoRecord(listing.folder / name, UNLABELED),)
                missing[videos[0].path] = name
            listed += videos
        # Every other split needs a list.
        parts[split] = tuple(listed) if path is not None or split == "validation" else None
    return parts, missing


def _make_finder(
    records: Sequence[VideoRecord], folder: Path
) -> Callable[[str], tuple[VideoRecord, ...]]:
    """Return a function that finds the records of a video by its name in a list.

    Names may lack the suffix and the folders above the class, and be spelled differently, if only
    one video fits.
    """
    names: dict[str, tuple[VideoRecord, ...]] = {}
    for record in records:
        name = name_of(record.path, folder)
        names[name] = (*names.get(name, ()), record)
    by_name = {stem_of(name): found for name, found in reversed([*names.items()])} | names
    by_spelling: dict[str, set[tuple[VideoRecord, ...]]] = {}
    for name, found in by_name.items():
        for key in {name, "/".join(name.split("/")[-2:])}:
            by_spelling.setdefault(spelling_key(key), set()).add(found)

    def find(name: str) -> tuple[VideoRecord, ...]:
        if exact := by_name.get(name) or by_name.get(stem_of(name)):
            return exact
        keys = (spelling_key(name), spelling_key(stem_of(name)))
        spelled = by_spelling.get(keys[0]) or by_spelling.get(keys[1]) or set()
        return next(iter(spelled)) if len(spelled) == 1 else ()

    return find
