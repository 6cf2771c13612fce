"""The videos that the arguments of `p3d predict` name.

An argument is a video file, a folder, a list of videos, `-` for a list on stdin, or a pattern. A
folder that directly holds pictures, and neither video files nor subfolders with videos, is the
frames of one video. Any other folder stands for all videos in it and in its subfolders.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from p3d.data.columns import find_columns, read_cells
from p3d.data.listing import numbered_lines, read_text, split_label, stem_of, visible_entries
from p3d.errors import BadVideoError, UserError
from p3d.system.csv_file import plain_cell
from p3d.system.spelling import ask_meant
from p3d.video.remote import is_address
from p3d.video.remote_folder import videos_at
from p3d.video.suffixes import FRAME_SUFFIXES

_LISTS = (".txt", ".csv")

Item: TypeAlias = "Path | BadVideoError"
"""A video, or why an argument or a line of a list stands for none."""


def local_path(name: Path | str | os.PathLike[str], what: str) -> Path:
    """Return the path of a file on this machine.

    Args:
        name: What the user gave.
        what: "video" or "weights", for the message.

    Raises:
        UserError: The name is empty, or an address on the web.
    """
    text = os.fspath(name)
    if not text.strip():
        raise UserError(f"the name of the {what} is empty; give a path, or check your variables")
    if is_address(text):
        raise UserError(f"{text}: is an address; download the {what} and give the file")
    return Path(text)


def path_of(item: Item) -> Path:
    """Return the path of a video, or of what stands for none."""
    return item if isinstance(item, Path) else item.path


class VideoFinder:
    """Finds the videos that arguments name, each once.

    Args:
        words: The arguments, in order.
        take_addresses: Whether videos may be at addresses.

    Attributes:
        items: The videos, in the order of the arguments; those of a folder sorted by name.
        addresses: Videos at addresses, in the same order.
        repeated: Videos that were named again.
        absent: Arguments that name no file or folder; they are among the items, too.
        ignored: Number of files in the folders that are not videos.
        expanded: Whether an argument stood for other videos than itself.

    Raises:
        UserError: An argument is empty, or an address that may not be one or cannot be listed, or
            a list cannot be read.
    """

    def __init__(self, words: Sequence[str], *, take_addresses: bool = False) -> None:
        self.items: list[Item] = []
        self.addresses: list[str] = []
        self._takes_addresses = take_addresses
        self.repeated: list[Path] = []
        self.absent: list[BadVideoError] = []
        self.ignored = 0
        self.expanded = False
        self._known: set[str] = set()
        for word in words:
            self._add(self._expand(word))

    def _add(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Path):
                key = os.path.abspath(item)  # noqa: PTH100 (links are videos of their own)
                if key in self._known:
                    self.repeated.append(item)
                    continue
                self._known.add(key)
            self.items.append(item)

    def _expand(self, word: str) -> Iterable[Item]:
        if word == "-":
            return self._listed(_stdin_lines(), Path())
        if self._takes_addresses and is_address(word):
            self._add_address(word)
            return []
        path = local_path(word, "video")
        # Not the methods of Path, which raise for long names.
        if os.path.isdir(path):  # noqa: PTH112
            return self._in_given_folder(path)
        if path.suffix.lower() in _LISTS and os.path.isfile(path):  # noqa: PTH113
            return self._listed(_list_lines(path), path.parent)
        if os.path.lexists(path):
            return [path]
        if glob.has_magic(word):
            return self._matching(word)
        self.absent.append(BadVideoError(path, f"no such file or folder; {ask_meant(path)}"))
        return self.absent[-1:]

    def check_found(self) -> None:
        """Check that every argument names something, and that there is a video.

        For commands that write a folder of results: a mistyped name is no bad video of an archive.

        Raises:
            UserError: An argument does not exist, or there is no video at all.
        """
        if self.absent:
            raise self.absent[0]
        wrong = [item for item in self.items if isinstance(item, BadVideoError)]
        if wrong and len(wrong) == len(self.items) and not self.addresses:
            raise wrong[0]

    def _listed(self, names: Sequence[str], folder: Path) -> Iterator[Item]:
        self.expanded = True
        for name in names:
            if is_address(name) and not os.path.exists(folder / name):  # noqa: PTH110 (long names)
                yield from self._listed_address(name)
                continue
            path = _find_listed(name, folder)
            if path.is_dir():
                yield from self._in_given_folder(path)
            else:
                yield path

    def _listed_address(self, name: str) -> list[Item]:
        if not self._takes_addresses:
            return [BadVideoError(name, "is an address; download the file first")]
        self._add_address(name)
        return []

    def _add_address(self, address: str) -> None:
        found = videos_at(address)
        self.expanded |= found != [address]
        self.addresses += found

    def _matching(self, pattern: str) -> list[Item]:
        self.expanded = True
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (may be absolute)
        found: list[Item] = []
        for path in map(Path, matches):
            if path.is_dir():
                found += self._in_folder(path)
            elif stem_of(path.name) != path.name:
                found.append(path)
        if found:
            # `**` matches folders and what is in them, and follows links in circles.
            once: dict[str, Item] = {}
            for item in found:
                once.setdefault(os.path.realpath(path_of(item)), item)
            return list(once.values())
        reason = f"only other files ({Path(matches[0]).name})" if matches else "nothing"
        return [BadVideoError(pattern, f"this pattern matches {reason}; check it, or quote it")]

    def _in_given_folder(self, folder: Path) -> list[Item]:
        found = self._in_folder(folder)
        self.expanded |= found != [folder]
        return found or [BadVideoError(folder, "holds neither videos nor frames of a video")]

    def _in_folder(self, folder: Path, above: tuple[str, ...] = ()) -> list[Item]:
        """Return the videos in a folder; the folder itself if it is the frames of a video."""
        above = (*above, os.path.realpath(folder))
        if above[-1] in above[:-1]:  # a link to a folder that holds it
            return []
        try:
            entries = sorted(visible_entries(folder), key=lambda entry: entry.name)
        except UserError:
            return [BadVideoError(folder, "this folder cannot be listed; check its permissions")]
        files = [entry.name for entry in entries if not entry.is_dir()]
        stems = {stem_of(name).lower() for name in files if stem_of(name) != name}
        found: list[Item] = []
        for entry in entries:
            if not entry.is_dir():
                found += [folder / entry.name] if stem_of(entry.name) != entry.name else []
            elif entry.name.lower() not in stems:  # else it is the frames of that file
                found += self._in_folder(folder / entry.name, above)
        if not found and any(name.lower().endswith(FRAME_SUFFIXES) for name in files):
            return [folder]
        self.ignored += sum(stem_of(name) == name for name in files)
        return found


def _find_listed(name: str, folder: Path) -> Path:
    """Return the path of a line: relative to its list, or else to the working folder."""
    for spelled in (name, split_label(name)[0], plain_cell(name)):
        for path in (folder / spelled, Path(spelled)):
            if path.exists():
                return path
    return folder / name


def _list_lines(path: Path) -> list[str]:
    names = _csv_paths(path) if path.suffix.lower() == ".csv" else _lines(read_text(path))
    if not names:
        raise UserError(f"{path}: lists no videos; write one path a line")
    return names


def _lines(text: str) -> list[str]:
    return [line for _, line in numbered_lines(text)]


def _csv_paths(path: Path) -> list[str]:
    rows = read_cells(path)
    columns = find_columns(path, next(rows, ("", []))[1], ("path",))
    names = [columns.read(location, cells)["path"] for location, cells in rows]
    return [name for name in names if name]


def _stdin_lines() -> list[str]:
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    # `find -print0` ends names by NUL, since they may hold line breaks.
    names = [name for name in text.split("\0") if name] if "\0" in text else _lines(text)
    if not names:
        raise UserError("-: stdin lists no videos; write one path a line to it")
    return names
