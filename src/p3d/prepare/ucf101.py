"""UCF101 made ready: a folder a split, a folder a class, and the lists of all three splits.

The source is never changed. The lists are written last, so that a folder with lists is complete;
a run that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from p3d.data.dataset import SPLITS, Split
from p3d.data.ucf101 import LISTS
from p3d.errors import UserError
from p3d.prepare.archive import Archive, open_archive
from p3d.prepare.download import fetch_ucf101
from p3d.prepare.folder import index_folder, is_clip
from p3d.prepare.lists import OFFICIAL_CLIPS, Ucf101Lists, find_lists, read_lists, write_lists
from p3d.prepare.options import LinkMode, Ucf101Options
from p3d.prepare.parallel import parallel_map
from p3d.prepare.placing import place, remove_partial, same_video


@dataclass(frozen=True)
class Ucf101Summary:
    """What was, or in a dry run would be, prepared.

    Attributes:
        out: The folder.
        fold: The official split it shows.
        named: How many clips the lists name, by split.
        present: How many of them are there at the end, by split.
        kept: How many had been there before.
        copied: How many were copied where a hard link had been asked for.
        frames: How many are folders of frames, there being no video.
        missing: Clips that are named and not there, as `Class/name.avi`.
        unlisted: Clips of the source that no list names.
        repeated: Files of the source that are there a second time.
        dry_run: Whether nothing was done.
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
        """The summary as lines for a reader."""
        verb = "would hold" if self.dry_run else "holds"
        counts = ", ".join(f"{self.present[split]:,} {split}" for split in SPLITS)
        lines = [f"{self.out} {verb} fold {self.fold}: {counts} clips ({self.kept:,} kept)"]
        if self.missing:
            shown = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
            total = sum(self.named.values())
            lines.append(f"WARNING: {len(self.missing):,} of {total:,} clips are missing: {shown}")
        if sum(self.named.values()) != OFFICIAL_CLIPS:
            total = sum(self.named.values())
            lines.append(f"note: the lists name {total:,} clips, the official {OFFICIAL_CLIPS:,}")
        if self.copied:
            lines.append(f"note: {self.copied:,} clips copied, hard links being impossible there")
        if self.frames:
            lines.append(f"note: {self.frames:,} clips are folders of frames")
        if self.unlisted:
            lines.append(f"note: {self.unlisted:,} clips of the source are named by no list")
        if self.repeated:
            lines.append(f"note: {self.repeated:,} files of the source are there twice")
        return lines


@dataclass(frozen=True)
class _Source:
    """Clips by file name in small letters, whether in a folder or in an archive.

    Those in `frames` are folders of frames, and laid out without the suffix.
    """

    keys: frozenset[str]
    repeated: int
    files: Mapping[str, Path]
    frames: frozenset[str]
    archive: Archive | None


@dataclass(frozen=True)
class _Plan:
    todo: Mapping[str, Path]
    kept: Mapping[str, Path]
    missing: tuple[str, ...]


def prepare_ucf101(options: Ucf101Options) -> Ucf101Summary:
    """Lays UCF101 out as `OUT/{train,validation,test}/<Class>/<clip>.avi` with its lists.

    Args:
        options: See `Ucf101Options`.

    Returns:
        What is there now, or would be.

    Raises:
        UserError: If the source or the lists are absent, damaged or at odds, if clips are missing
            and that is not allowed, or if `out` was laid out for something else.
    """
    if options.download:
        options = _download(options)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such file or folder; give UCF101.rar or its folder")
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
            copied = _place_all(options, plan, source)
            write_lists(lists, options.out / LISTS)
        except OSError as error:
            place = error.filename or options.out
            raise UserError(f"{place}: cannot be written ({error.strerror or error})") from error
    return _summary(options, lists, source, plan, copied)


def run(options: Ucf101Options) -> None:
    """Prepares UCF101 and prints the outcome."""
    print("\n".join(prepare_ucf101(options).lines()))


def _download(options: Ucf101Options) -> Ucf101Options:
    if options.dry_run:
        raise UserError("--download with --dry-run: a dry run downloads nothing; leave one out")
    archive, lists = fetch_ucf101(options.remote, options.source)
    return replace(options, source=archive, lists=options.lists or lists, download=False)


def _open_source(options: Ucf101Options) -> _Source:
    if options.source.is_dir():
        index = index_folder(options.source, but=options.out)
        return _Source(frozenset(index.files), index.repeated, index.files, index.frames, None)
    archive = open_archive(options.source)
    return _Source(frozenset(archive.clips), archive.repeated, {}, frozenset(), archive)


def _plan(options: Ucf101Options, lists: Ucf101Lists, source: _Source) -> _Plan:
    """Decides what goes where.

    Raises:
        UserError: If `out` shows a clip in another split than it would now.
    """
    split_of = {
        _key(clip): (split, clip)
        for split, clips in lists.folds[options.fold].items()
        for clip in clips
    }
    present = _already_there(options, split_of)
    todo: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    missing = []
    for key, (split, clip) in split_of.items():
        target = options.out / split / (_stem(clip) if key in source.frames else clip)
        if key not in source.keys and key in present:
            kept[key] = present[key]
        elif key not in source.keys:
            missing.append(clip)
        elif present.get(key) == target and _unchanged(source, key, target):
            kept[key] = target
        else:
            todo[key] = target
    return _Plan(todo, kept, tuple(missing))


def _already_there(
    options: Ucf101Options, split_of: Mapping[str, tuple[Split, str]]
) -> dict[str, Path]:
    """The clips that are in place, videos before folders of frames."""
    present: dict[str, Path] = {}
    elsewhere = []
    for split in SPLITS:
        # Sorted so that a folder of frames comes before the video beside it, which takes its place.
        for path in sorted((options.out / split).glob("*/*")):
            is_video = path.suffix.lower() == ".avi"
            if not is_video and not (is_clip(path.name) and path.is_dir()):
                continue
            key = path.name.lower() if is_video else f"{path.name.lower()}.avi"
            planned, clip = split_of.get(key, (split, ""))
            right = options.out / split / (clip if is_video else _stem(clip))
            if planned != split:
                elsewhere.append(path)
            elif clip and path == right and path.exists():
                present[key] = path
    if elsewhere:
        raise UserError(
            f"{elsewhere[0]}: with fold {options.fold} and validation '{options.validation}' this "
            f"and {len(elsewhere) - 1:,} other clips belong to another split; give another --out"
        )
    return present


def _unchanged(source: _Source, key: str, target: Path) -> bool:
    if source.archive is not None:
        return target.stat().st_size == source.archive.clips[key].size
    return same_video(target, source.files[key])


def _refuse_missing(options: Ucf101Options, plan: _Plan) -> None:
    total = len(plan.todo) + len(plan.kept) + len(plan.missing)
    if not plan.missing or (options.allow_missing and len(plan.missing) < total):
        return
    remedy = "give the whole data set, or use what is there by --allow-missing"
    if len(plan.missing) == total:
        remedy = "give the archive, or the folder above the .avi files or frames"
    raise UserError(
        f"{options.source}: {len(plan.missing):,} of {total:,} clips that the lists name are not "
        f"there, {plan.missing[0]} for one; {remedy}"
    )


def _place_all(options: Ucf101Options, plan: _Plan, source: _Source) -> int:
    for folder in {target.parent for target in plan.todo.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    if source.archive is not None:
        source.archive.extract(plan.todo)
        return 0
    work = [(source.files[key], target) for key, target in plan.todo.items()]
    done = parallel_map(
        _placer(options.link),
        work,
        total=len(work),
        title="Laying out UCF101",
        workers=options.workers,
    )
    return sum(mode != options.link for mode in done)


def _placer(mode: LinkMode) -> Callable[[tuple[Path, Path]], LinkMode]:
    def put(pair: tuple[Path, Path]) -> LinkMode:
        try:
            return place(*pair, mode)
        except OSError as error:
            raise UserError(
                f"{pair[1]}: cannot be made from {pair[0]} ({error.strerror}); mend that and run "
                "the same command again"
            ) from error

    return put


def _summary(
    options: Ucf101Options, lists: Ucf101Lists, source: _Source, plan: _Plan, copied: int
) -> Ucf101Summary:
    fold = lists.folds[options.fold]
    there = {**plan.kept, **plan.todo}
    return Ucf101Summary(
        out=options.out,
        fold=options.fold,
        named={split: len(fold[split]) for split in SPLITS},
        present={split: sum(_key(clip) in there for clip in fold[split]) for split in SPLITS},
        kept=len(plan.kept),
        copied=copied,
        frames=sum(path.suffix.lower() != ".avi" for path in there.values()),
        missing=plan.missing,
        unlisted=len(source.keys - {_key(clip) for clip in lists.clips()}),
        repeated=source.repeated,
        dry_run=options.dry_run,
    )


def _stem(clip: str) -> str:
    return clip.removesuffix(".avi")


def _key(clip: str) -> str:
    return clip.rpartition("/")[2].lower()
