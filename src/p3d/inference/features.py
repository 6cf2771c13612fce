"""`p3d features`: features of the videos of a data set, for another classifier or for search.

Each video is computed by itself, so that its features depend neither on the number of processes nor
on where a run was interrupted. They are kept in one file a video until all are there, so that the
same command goes on after a kill.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from p3d.archive.engine import describe
from p3d.archive.machines import Machine, open_machine
from p3d.archive.notes import write_bad
from p3d.archive.run import run_work
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.digests import video_digest
from p3d.data.layouts import check_apart, read_parts
from p3d.data.loader import check_dataset
from p3d.data.rates import assumed_rates
from p3d.errors import UserError, printable
from p3d.inference.extractor import FeatureWork
from p3d.inference.feature_file import read_features, read_index, write_features
from p3d.inference.feature_folder import INDEX_FILE, FeatureFolder
from p3d.inference.feature_index import FeatureIndex
from p3d.inference.feature_notes import FeatureNotes
from p3d.inference.feature_options import FeaturesOptions
from p3d.inference.result_names import names_below
from p3d.model.network import P3D
from p3d.system.device import set_up_cpu
from p3d.system.distributed import Group, Launch, join, read_launch
from p3d.system.files import file_sha256
from p3d.system.folders import lock_folder, results_folder
from p3d.system.messages import print_note
from p3d.system.text import counted, first_lines
from p3d.weights.loading import find_weights, load_model


def run(options: FeaturesOptions) -> None:
    """Run `p3d features`.

    Raises:
        UserError: The options, the data or the weights do not fit together, the output holds other
            features, or the run cannot go on.
        BadVideoError: A video cannot be read and `--on-bad-video` is "error".
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    options.check()
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    # The workers use the device; this process exchanges only what is missing and what is bad.
    with _machine(options, launch) as machine, join(torch.device("cpu"), launch) as group:
        _run(options, machine, launch, group)


def _machine(options: FeaturesOptions, launch: Launch) -> AbstractContextManager[Machine]:
    """Return where workers run: under torchrun, each process has one, on the device of its rank.

    Raises:
        UserError: Options and torchrun contradict each other.
    """
    ray, processes, compute = options.cluster.ray, options.machine.processes, options.compute
    if launch.launched:
        if ray is not None or processes is not None:
            raise UserError(
                "--ray, --processes: torchrun says how many processes there are; drop torchrun, "
                "or these options"
            )
        threads = compute.threads or torch.get_num_threads()  # which torchrun decides on
        return open_machine(None, 1, compute.device, threads)
    return open_machine(ray, processes, compute.device, compute.threads)


def _run(options: FeaturesOptions, machine: Machine, launch: Launch, group: Group) -> None:
    dataset, splits = _read(options)
    model = load_model(options.weights)
    index = _index(options, dataset, splits, model)
    if _is_complete(options, index, group):
        return
    root = options.data.data
    names = [Path(record.name) for record in dataset.records]
    files = names_below(names, root if root.is_dir() else root.parent)
    folder = FeatureFolder(_working_folder(options))
    check_dataset(dataset, model.preprocessing)
    if options.per_video:
        check_apart(root, options.out, (record.path for record in dataset.records))
    with _opened(folder) if group.is_main else nullcontext():
        missing = _prepare(options, folder, index, files) if group.is_main else []
        missing = group.gather(missing)[0]
        compute = replace(options.compute, device=machine.device, threads=machine.threads)
        weights = find_weights(options.weights).absolute()
        first = launch.local_rank if launch.launched else 0
        work = FeatureWork(replace(options, compute=compute), weights, index.weights_sha256, first)
        items = {files[row]: dataset.records[row] for row in missing}
        bad = _compute(options, folder, items, files, work, machine, group)
        if group.is_main:
            notes = assumed_rates(dataset, model.preprocessing)
            _finish(options, folder, dict(zip(index.paths, files, strict=True)), index, bad, notes)


@contextmanager
def _opened(folder: FeatureFolder) -> Iterator[None]:
    """Make and lock the folder; if an error ends the work before any features, leave nothing."""
    with results_folder(folder.path), lock_folder(folder.path):
        try:
            yield
        except BaseException:
            folder.forget_if_empty()
            raise


def _prepare(
    options: FeaturesOptions, folder: FeatureFolder, index: FeatureIndex, files: list[str]
) -> list[int]:
    """Start or continue the folder; return the positions of the videos without features.

    Raises:
        UserError: As `FeatureFolder.prepare`.
    """
    if not options.per_video and options.out.exists() and not (folder.path / INDEX_FILE).exists():
        names = dict(zip(index.paths, files, strict=True))
        there = read_features(options.out)
        for path, values in zip(there.index.paths, there.values, strict=True):
            folder.add(names[path], values)
        folder.write_index(there.index, [names[path] for path in there.index.paths])
    missing = folder.prepare(index, files)
    earlier = len(files) - len(missing)
    print_note(f"videos found: {len(files):,}; done: {earlier:,}")
    return missing


def _compute(
    options: FeaturesOptions,
    folder: FeatureFolder,
    items: Mapping[str, VideoRecord],
    files: list[str],
    work: FeatureWork,
    machine: Machine,
    group: Group,
) -> dict[str, str]:
    """Compute what is missing; under torchrun, each process does a part of it.

    Args:
        options: The options.
        folder: Where the features go.
        items: The videos without features, by their names in the folder.
        files: The names of all videos.
        work: What the workers do.
        machine: Where they run.
        group: The processes of torchrun.

    Returns:
        Why videos have no features, by name, on all ranks.
    """
    alone = group.world_size == 1
    notes = FeatureNotes(folder, items, options.on_bad_video == "error", keeps_attempts=alone)
    notes.add_earlier(file for file in files if file not in items)
    mine = list(items)[group.rank :: group.world_size]
    # The working folder of a worker may be another.
    tasks = {file: replace(items[file], path=items[file].path.absolute()) for file in mine}
    summary = run_work(tasks, work, machine, notes, "computing features")
    if alone and summary.done:
        print_note(describe(summary, len(files) - len(items)))
    return {file: reason for bad in group.gather(notes.bad) for file, reason in bad.items()}


def _read(options: FeaturesOptions) -> tuple[VideoDataset, tuple[str, ...]]:
    """Return the videos, and the split of each: "" if nothing divides them.

    Raises:
        UserError: There is no data set, or it has no such split.
    """
    parts = read_parts(options.data)
    found: dict[str, tuple[VideoRecord, str]] = {}
    for part, dataset in parts.items():
        if options.split in ("all", part):
            for record in dataset.records:
                found.setdefault(record.name, (record, part or ""))
    if not found:
        raise UserError(
            f"--split {options.split}: {options.data.data} has no {options.split} videos; give "
            "another --split, or say how the videos are divided"
        )
    whole = replace(next(iter(parts.values())), records=tuple(r for r, _ in found.values()))
    return whole, tuple(split for _, split in found.values())


def _index(
    options: FeaturesOptions, dataset: VideoDataset, splits: tuple[str, ...], model: P3D
) -> FeatureIndex:
    """Return what the files state about all videos."""
    records, names = dataset.records, dataset.class_names
    protocol = {
        "layer": options.stage or "prob",
        "clips": options.clips,
        "mirror": options.mirror,
        "per_clip": options.per_clip,
        "pool": options.pool,
        "precision": options.compute.precision,
        "preprocessing": model.preprocessing.to_dict(),
    }
    index = FeatureIndex(
        labels=tuple(record.label for record in records),
        class_names=names,
        paths=tuple(record.name for record in records),
        groups=tuple(record.group for record in records),
        splits=splits,
        seen=tuple(video_digest(record, names) in model.trained_on for record in records),
        bad=(),
        protocol=protocol,
        weights_sha256=file_sha256(find_weights(options.weights)),
    )
    return replace(index, protocol=index.header()["protocol"])


def _is_complete(options: FeaturesOptions, index: FeatureIndex, group: Group) -> bool:
    """Return whether the `.npz` is there already; renew its groups and splits if they changed.

    Raises:
        UserError: It has other features, or those of other videos.
    """
    if options.per_video or not options.out.exists():
        return False
    there = read_index(options.out)
    if difference := there.difference(index):
        raise UserError(
            f"{options.out}: holds other features ({difference}); delete it, or choose another "
            "--out"
        )
    known = {*there.paths, *there.bad}
    if not known <= set(index.paths):
        raise UserError(
            f"{options.out}: holds the features of other videos ({len(there.paths)}, not "
            f"{len(index.paths)}); delete it, or choose another --out"
        )
    if len(known) < len(index.paths):  # videos have been added
        return False
    wanted = index.without(there.bad)
    if group.is_main and wanted == there:
        print(f"{printable(options.out)}: is complete already, nothing to do")
    elif group.is_main:
        rows = {path: row for row, path in enumerate(there.paths)}
        values = read_features(options.out).values[[rows[path] for path in wanted.paths]]
        write_features(options.out, values, wanted)
        print(f"{printable(options.out)}: is complete; renewed classes, groups and splits")
    return True


def _working_folder(options: FeaturesOptions) -> Path:
    """Return the folder that the videos' files are written to."""
    if options.per_video:
        return options.out
    return options.out.with_name(f".{options.out.name}.partial")


def _finish(
    options: FeaturesOptions,
    folder: FeatureFolder,
    files: dict[str, str],
    index: FeatureIndex,
    bad: dict[str, str],
    notes: list[str],
) -> None:
    """Write the file for the set, and report it and the videos that could not be read.

    Raises:
        UserError: No video could be read, or features that another process computed are missing.
    """
    unread = [path for path in index.paths if not folder.has(files[path])]
    reasons = [(path, bad[files[path]]) for path in index.paths if files[path] in bad]
    if len(unread) > len(bad):
        raise UserError(
            f"{folder.path}: has no features of {unread[0]}, which another process computed; give "
            "an --out that all processes can write to"
        )
    if len(unread) == len(index.paths):
        example = ": ".join(reasons[0])
        raise UserError(f"none of the {len(unread)} videos could be read, for example {example}")
    index = index.without(unread)
    folder.write_index(index, [files[path] for path in index.paths])
    shape = " x ".join(map(str, folder.shape()))
    if options.per_video:
        write_bad(folder.path, reasons)
    else:
        # Collected on the disk, since volumes of a large set do not fit into memory.
        values = folder.read(into=folder.path / ".all.npy").values
        write_features(options.out, values, index)
        shutil.rmtree(folder.path, ignore_errors=True)
    print(f"{options.layer} of {counted(len(index.paths), 'video')}: {shape} values each")
    print("".join(f"{line}\n" for line in notes), end="")
    if reasons:
        print(f"LEFT OUT: {counted(len(reasons), 'video')} that cannot be read:")
        print("\n".join(first_lines([f"{path}: {reason}" for path, reason in reasons])))
    print(f"written to {printable(options.out)}")
