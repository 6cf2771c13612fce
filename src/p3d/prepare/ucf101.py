"""UCF101 arranged for training: a folder per split and class, and the lists of all three folds.

The source is never changed. The lists are written last, so a folder with lists is complete, and a
killed run is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from p3d.data.dataset import SPLITS, Split, examples
from p3d.data.ucf101 import LISTS
from p3d.errors import UserError, printable
from p3d.prepare.archive import Archive, open_archive
from p3d.prepare.download import fetch_ucf101
from p3d.prepare.folder import FolderIndex, index_folder, is_clip
from p3d.prepare.linking import link_video, remove_partial
from p3d.prepare.lists import OFFICIAL_CLIPS, Ucf101Lists, find_lists, read_lists, write_lists
from p3d.prepare.options import LinkMode, Ucf101Options
from p3d.prepare.parallel import parallel_map
from p3d.system.spelling import ask_meant

Source = FolderIndex | Archive


@dataclass(frozen=True)
class Ucf101Summary:
    """What was prepared, or would be in a dry run.

    Attributes:
        out: The output folder.
        fold: The official split that its folders show.
        named: Number of listed clips by split.
        present: Number of these that exist at the end, by split.
        kept: Number of clips that existed before.
        copied: Number of clips that were copied because hard links are impossible.
        frames: Number of clips that are folders of frames.
        missing: Listed clips that do not exist, as `Class/name.avi`.
        unlisted: Number of clips in the source that no list names.
        repeated: Number of duplicate files in the source.
        dry_run: Whether nothing was written.
    """

    out: Path
    fold: int
    named: Mapping[Split, int]
    present: Mapping[Split, int]
    kept: int
    copied: int
    frames: int
    missing: tuple[str, ...]
    unlisted: int
    repeated: int
    dry_run: bool

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        verb = "would hold" if self.dry_run else "holds"
        counts = ", ".join(f"{self.present[split]:,} {split}" for split in SPLITS)
        lines = [f"{self.out} {verb} fold {self.fold}: {counts} clips ({self.kept:,} kept)"]
        total = sum(self.named.values())
        if self.missing:
            shown = examples(self.missing)
            lines.append(f"WARNING: {len(self.missing):,} of {total:,} clips are missing: {shown}")
        if total != OFFICIAL_CLIPS:
            lines.append(f"note: the lists name {total:,} clips, the official {OFFICIAL_CLIPS:,}")
        notes = {
            "clips copied, as hard links are impossible there": self.copied,
            "clips are folders of frames": self.frames,
            "clips of the source are in no list": self.unlisted,
            "files of the source are duplicates": self.repeated,
        }
        return [*lines, *(f"note: {count:,} {note}" for note, count in notes.items() if count)]


@dataclass(frozen=True)
class _Plan:
    todo: Mapping[str, Path]
    kept: Mapping[str, Path]
    missing: tuple[str, ...]


def prepare_ucf101(options: Ucf101Options) -> Ucf101Summary:
    """Arrange UCF101 as `OUT/{train,validation,test}/<Class>/<clip>.avi` with its lists.

    Raises:
        UserError: The source or the lists are missing, damaged or inconsistent, clips are missing
            and `allow_missing` is off, or `out` holds another fold or validation split.
    """
    if options.download:
        options = _download(options)
    if not options.source.exists():
        raise UserError(
            f"{options.source}: no such file or folder; "
            + ask_meant(options.source, "give UCF101.rar or its folder")
        )
    lists = read_lists(options.lists or find_lists(options.source), options.validation)
    if options.fold not in lists.folds:
        raise UserError(f"fold {options.fold}: the lists have only {sorted(lists.folds)}")
    source = _open_source(options)
    plan = _plan(options, lists, source)
    copied = 0
    if not options.dry_run:
        _refuse_missing(options, plan)
        try:
            for split in SPLITS:
                remove_partial(options.out / split)
            copied = _add_clips(options, plan, source)
            write_lists(lists, options.out / LISTS)
        except OSError as error:
            path = error.filename or options.out
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return _summarize(options, lists, source, plan, copied)


def run(options: Ucf101Options) -> None:
    """Prepare UCF101 and print the summary."""
    print("\n".join(map(printable, prepare_ucf101(options).lines())))


def _download(options: Ucf101Options) -> Ucf101Options:
    if options.dry_run:
        raise UserError("--download with --dry-run: a dry run downloads nothing; remove one")
    archive, lists = fetch_ucf101(options.remote, options.source)
    return replace(options, source=archive, lists=options.lists or lists, download=False)


def _open_source(options: Ucf101Options) -> Source:
    if options.source.is_dir():
        return index_folder(options.source, exclude=options.out)
    return open_archive(options.source)


def _plan(options: Ucf101Options, lists: Ucf101Lists, source: Source) -> _Plan:
    """Choose the path of each clip."""
    split_of = {
        _key(clip): (split, clip)
        for split, clips in lists.folds[options.fold].items()
        for clip in clips
    }
    frames = source.frames if isinstance(source, FolderIndex) else frozenset()
    present = _find_present(options, split_of)
    todo: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    missing = []
    for key, (split, clip) in split_of.items():
        target = options.out / split / (_stem(clip) if key in frames else clip)
        if key not in source.clips and key in present:
            kept[key] = present[key]
        elif key not in source.clips:
            missing.append(clip)
        elif present.get(key) == target and source.is_same(key, target):
            kept[key] = target
        else:
            todo[key] = target
    return _Plan(todo, kept, tuple(missing))


def _find_present(
    options: Ucf101Options, split_of: Mapping[str, tuple[Split, str]]
) -> dict[str, Path]:
    """Return the paths of the clips that are in place; a video replaces its folder of frames."""
    present: dict[str, Path] = {}
    elsewhere = []
    for split in SPLITS:
        # In sorted order, a folder of frames comes before the video next to it.
        for path in sorted((options.out / split).glob("*/*")):
            is_video = path.suffix.lower() == ".avi"
            if not is_video and not (is_clip(path.name) and path.is_dir()):
                continue
            key = path.name.lower() if is_video else f"{path.name.lower()}.avi"
            planned, clip = split_of.get(key, (split, ""))
            expected = options.out / split / (clip if is_video else _stem(clip))
            if planned != split:
                elsewhere.append(path)
            elif clip and path == expected and path.exists():
                present[key] = path
    if elsewhere:
        raise UserError(
            f"{elsewhere[0]}: with fold {options.fold} and validation '{options.validation}' this "
            f"and {len(elsewhere) - 1:,} other clips belong to another split; give another --out"
        )
    return present


def _refuse_missing(options: Ucf101Options, plan: _Plan) -> None:
    total = len(plan.todo) + len(plan.kept) + len(plan.missing)
    if not plan.missing or (options.allow_missing and len(plan.missing) < total):
        return
    remedy = "give the whole data set, or add --allow-missing to use the clips that exist"
    if len(plan.missing) == total:
        remedy = "give the archive, or the folder above the .avi files or frames"
    raise UserError(
        f"{options.source}: {len(plan.missing):,} of {total:,} listed clips are missing, such as "
        f"{plan.missing[0]}; {remedy}"
    )


def _add_clips(options: Ucf101Options, plan: _Plan, source: Source) -> int:
    """Add the planned clips; return the number of copies in place of hard links."""
    for folder in {target.parent for target in plan.todo.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Archive):
        source.extract(plan.todo)
        return 0
    work = [(source.clips[key], target) for key, target in plan.todo.items()]
    done = parallel_map(
        partial(_link, options.link),
        work,
        total=len(work),
        title="Arranging UCF101",
        workers=options.workers,
    )
    return sum(mode != options.link for mode in done)


def _link(mode: LinkMode, paths: tuple[Path, Path]) -> LinkMode:
    source, target = paths
    try:
        return link_video(source, target, mode)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be created from {source} ({error.strerror}); fix that and run the "
            "same command again"
        ) from error


def _summarize(
    options: Ucf101Options, lists: Ucf101Lists, source: Source, plan: _Plan, copied: int
) -> Ucf101Summary:
    fold = lists.folds[options.fold]
    present = {**plan.kept, **plan.todo}
    return Ucf101Summary(
        out=options.out,
        fold=options.fold,
        named={split: len(fold[split]) for split in SPLITS},
        present={split: sum(_key(clip) in present for clip in fold[split]) for split in SPLITS},
        kept=len(plan.kept),
        copied=copied,
        frames=sum(path.suffix.lower() != ".avi" for path in present.values()),
        missing=plan.missing,
        unlisted=len(source.clips.keys() - {_key(clip) for clip in lists.clips()}),
        repeated=source.repeated,
        dry_run=options.dry_run,
    )


def _stem(clip: str) -> str:
    return clip.removesuffix(".avi")


def _key(clip: str) -> str:
    return clip.rpartition("/")[2].lower()
