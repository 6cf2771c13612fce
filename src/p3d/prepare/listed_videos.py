"""The videos that the lists of a data set name: unpacking them, and finding each by its name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from p3d.data.listing import NameFinder, list_names, stem_of
from p3d.prepare.archive import open_archive
from p3d.system.files import TEMPORARY
from p3d.system.folders import make_folder


def unpack_videos(source: Path, target: Path) -> Path:
    """Return the folder of the videos: the source, or the target if the source holds archives.

    Args:
        source: A folder of videos, or the archives of HMDB51: one RAR for each class, in a folder
            or in another RAR.
        target: Where archives are unpacked to.
    """
    if source.is_file():
        make_folder(target)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target) as folder:
            open_archive(source, ".rar").extract_all(Path(folder))
            _unpack_classes(sorted(Path(folder).glob("*.rar")), target)
        return target
    if archives := sorted(source.glob("*.rar")):
        _unpack_classes(archives, target)
        return target
    return source


def _unpack_classes(archives: Iterable[Path], target: Path) -> None:
    """Unpack a RAR per class, named like the class."""
    for path in archives:
        archive = open_archive(path)
        if archive.clips:
            archive.extract_all(target / path.stem)


class VideoIndex:
    """Videos below a folder by name. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, dict[str, str]] = {}
        self._finder = NameFinder(root, stems=True)

    def find(self, names: Sequence[str]) -> Path | None:
        """Return the first of the names that exists, as it is or with a video's suffix.

        If none does, other spellings are tried, see `NameFinder`.
        """
        for name in names:
            folder, _, last = name.rstrip("/").rpartition("/")
            found = self._listing(folder).get(last)
            if found is not None:
                return self.root / folder / found
        return next(filter(None, map(self._finder.find, names)), None)

    def _listing(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            names = sorted(list_names(self.root / folder))
            stems = {stem_of(name): name for name in reversed(names)}
            self._listings[folder] = stems | {name: name for name in names}
        return self._listings[folder]
