"""`p3d features`: features of the videos of a data set, for another classifier or for search.

Each video is computed by itself, so that its features depend neither on the number of processes nor
on where a run was interrupted. They are kept in one file a video until all are there, so that the
same command goes on after a kill.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.digests import video_digest
from p3d.data.layouts import read_parts
from p3d.data.rates import assumed_rates
from p3d.errors import UserError, printable
from p3d.inference.extractor import Extractor
from p3d.inference.feature_file import (
    FeatureFolder,
    FeatureIndex,
    names_below,
    read_features,
    read_index,
    write_features,
)
from p3d.inference.feature_options import FeaturesOptions
from p3d.model.network import P3D
from p3d.system.device import resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import file_sha256, lock_folder, make_folder
from p3d.system.text import counted
from p3d.weights.loading import find_weights, load_model


def run(options: FeaturesOptions) -> None:
    """Run `p3d features`.

    Raises:
        UserError: The options, the data or the weights do not fit together, or the output holds
            other features.
        BadVideoError: A video cannot be read and `--on-bad-video` is "error".
    """
    options.check()
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        _run(options, device, group)


def _run(options: FeaturesOptions, device: torch.device, group: Group) -> None:
    dataset, splits = _read(options)
    model = load_model(options.weights)
    index = _index(options, dataset, splits, model)
    if _is_complete(options, index, group):
        return
    folder = FeatureFolder(_working_folder(options))
    root = options.data.data
    names = [Path(record.name) for record in dataset.records]
    files = names_below(names, root if root.is_dir() else root.parent)
    if group.is_main:
        make_folder(folder.path)
    with lock_folder(folder.path) if group.is_main else nullcontext():
        missing = folder.prepare(index, files) if group.is_main else []
        missing = group.gather(missing)[0]
        rest = replace(dataset, records=tuple(dataset.records[row] for row in missing))
        extractor = Extractor(options, model, device)
        bad = extractor.extract(rest, folder, [files[row] for row in missing], group)
        if group.is_main:
            notes = assumed_rates(dataset, model.preprocessing)
            _finish(options, folder, dict(zip(index.paths, files, strict=True)), index, bad, notes)


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
    if {*there.paths, *there.bad} != set(index.paths):
        raise UserError(
            f"{options.out}: holds the features of other videos ({len(there.paths)}, not "
            f"{len(index.paths)}); delete it, or choose another --out"
        )
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
    bad: list[str],
    notes: list[str],
) -> None:
    """Write the file for the set, and report it and the videos that could not be read.

    Raises:
        UserError: No video could be read, or features that another process computed are missing.
    """
    unread = [path for path in index.paths if not folder.has(files[path])]
    if len(unread) > len(bad):
        raise UserError(
            f"{folder.path}: has no features of {unread[0]}, which another process computed; give "
            "an --out that all processes can write to"
        )
    if len(unread) == len(index.paths):
        raise UserError(f"none of the {len(unread)} videos could be read, for example {bad[0]}")
    index = index.without(unread)
    folder.write_index(index, [files[path] for path in index.paths])
    shape = " x ".join(map(str, folder.shape()))
    if not options.per_video:
        # Collected on the disk, since volumes of a large set do not fit into memory.
        values = folder.read(into=folder.path / ".all.npy").values
        write_features(options.out, values, index)
        shutil.rmtree(folder.path, ignore_errors=True)
    print(f"{options.layer} of {counted(len(index.paths), 'video')}: {shape} values each")
    print("".join(f"{line}\n" for line in notes), end="")
    if bad:
        print(f"LEFT OUT: {counted(len(bad), 'video')} that cannot be read:")
        print("\n".join(f"  {printable(line)}" for line in bad))
    print(f"written to {printable(options.out)}")
