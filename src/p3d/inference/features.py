"""`p3d features`: features of the videos of a data set, for another classifier or for search.

Each video is computed by itself, so that its features depend neither on the number of processes nor
on where a run was interrupted. They are kept in one file a video until all are there, so that the
same command goes on after a kill.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import EvalClips, Sample, Unread
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.digests import video_digest
from p3d.data.layouts import DataOptions, read_parts
from p3d.data.loader import BadVideoPolicy
from p3d.data.transforms import horizontal_flip
from p3d.data.workers import Videos
from p3d.errors import UserError, printable
from p3d.inference.feature_file import (
    FeatureFolder,
    FeatureIndex,
    names_below,
    read_features,
    read_index,
    write_features,
)
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D, Layer
from p3d.system.device import resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import file_sha256, lock_folder, make_folder
from p3d.system.markers import First, Heading
from p3d.system.options import DeviceOptions
from p3d.system.progress import ProgressBar
from p3d.system.text import counted
from p3d.weights.loading import find_weights, load_model

LayerName = Literal["pool5", "prob", "res5", "res5c", "res4"]


@dataclass(frozen=True)
class FeaturesOptions:
    """Compute features of all videos of a data set: one .npz for the set, or one .npy a video.

    The same command goes on where it was interrupted.
    """

    data: DataOptions
    weights: Path
    """Weight file, in any format that p3d reads."""
    out: Path
    """File to write, which ends in .npz; with --per-video, a folder."""
    layer: Annotated[First[LayerName], Heading("features")] = "pool5"
    """pool5: 2048 values, the input of the classifier; prob: class probabilities; res5 (also
    res5c) and res4: the output of the stage's last block, channels x time x height x width."""
    split: First[Literal["all", "train", "validation", "test"]] = "all"
    """Split whose videos to take, or all videos."""
    clips: First[int] = 20
    """Clips of each video, uniformly spaced."""
    mirror: First[bool] = False
    """Average each clip's features with those of its mirror image."""
    per_clip: bool = False
    """Keep the features of each clip; by default they are averaged over a video's clips."""
    pool: bool = False
    """Average res4 or res5 over time, height and width: one value for each channel."""
    per_video: First[bool] = False
    """Write a folder with one .npy for each video, and features.json, which lists them."""
    batch_size: First[int | None] = None
    """Clips on the device at once, all of one video; by default what suits the device."""
    workers: int = 2
    """Threads that decode; 0 decodes between the computations."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    on_bad_video: BadVideoPolicy = "error"
    """What to do with a video that cannot be read: stop, or leave it out and report it."""

    @property
    def stage(self) -> Layer | None:
        """The network's layer to read; None for its logits."""
        if self.layer == "prob":
            return None
        return "res5" if self.layer == "res5c" else self.layer

    def check(self) -> None:
        """Check what can be checked before anything is read.

        Raises:
            UserError: Options contradict each other.
        """
        if (
            min(self.clips, 1 if self.batch_size is None else self.batch_size) < 1
            or self.workers < 0
        ):
            raise UserError("--clips and --batch-size must be 1 or more, --workers 0 or more")
        if self.pool and self.layer in ("pool5", "prob"):
            raise UserError(
                f"--pool: {self.layer} is pooled already; drop it, or give res4 or res5"
            )
        is_folder = self.out.is_dir() or self.out.suffix.lower() != ".npz"
        if is_folder and not self.per_video:
            raise UserError(f"--out {self.out}: give a file that ends in .npz, or --per-video")
        if self.per_video and self.out.is_file():
            raise UserError(f"--out {self.out}: is a file; --per-video writes a folder")


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
    files = names_below([r.path for r in dataset.records], root if root.is_dir() else root.parent)
    if group.is_main:
        make_folder(folder.path)
    with lock_folder(folder.path) if group.is_main else nullcontext():
        missing = folder.prepare(index, files) if group.is_main else []
        missing = group.gather(missing)[0]
        rest = replace(dataset, records=tuple(dataset.records[row] for row in missing))
        extractor = Extractor(options, model, device)
        bad = extractor.extract(rest, folder, [files[row] for row in missing], group)
        if group.is_main:
            _finish(options, folder, dict(zip(index.paths, files, strict=True)), index, bad)


def _read(options: FeaturesOptions) -> tuple[VideoDataset, tuple[str, ...]]:
    """Return the videos, and the split of each: "" if nothing divides them.

    Raises:
        UserError: There is no data set, or it has no such split.
    """
    parts = read_parts(options.data)
    found: dict[Path, tuple[VideoRecord, str]] = {}
    for part, dataset in parts.items():
        if options.split in ("all", part):
            for record in dataset.records:
                found.setdefault(record.path, (record, part or ""))
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
        "preprocessing": asdict(model.preprocessing),
    }
    index = FeatureIndex(
        labels=tuple(record.label for record in records),
        class_names=names,
        paths=tuple(str(record.path) for record in records),
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


class Extractor:
    """Computes the features of videos.

    Args:
        options: Layer, clips and device options.
        model: The network.
        device: Where to compute.
    """

    def __init__(self, options: FeaturesOptions, model: P3D, device: torch.device) -> None:
        self._options = options
        self._scorer = Scorer(
            model,
            device,
            options.compute.precision,
            layer=options.stage,
            compiled=options.compute.compile,
            batch_size=options.batch_size,
        )

    def extract(
        self, dataset: VideoDataset, folder: FeatureFolder, files: list[str], group: Group
    ) -> list[str]:
        """Compute and write the features of all videos; each rank computes its shard.

        Returns:
            One line for each video that could not be read, on all ranks.

        Raises:
            BadVideoError: A video cannot be read and the policy is "error".
        """
        read = EvalClips(Videos(dataset), self._scorer.preprocessing, self._options.clips)
        shard = range(len(dataset.records))[group.rank :: group.world_size]
        bad: list[str] = []
        title = "computing features"
        with ProgressBar(len(shard), title, leave=False, shown=group.is_main) as bar:
            for video in _read_ahead(read, shard, self._options.workers):
                if isinstance(video, Sample):
                    folder.add(files[video.video], self(video.clips))
                elif self._options.on_bad_video == "error":
                    raise video.error
                else:
                    bad.append(str(video.error))
                bar.advance()
        return [line for lines in group.gather(bad) for line in lines]

    def __call__(self, clips: Tensor) -> NDArray[np.float32]:
        """Return the features of a video.

        Args:
            clips: uint8 `(num_clips, T, H, W, C)`.

        Returns:
            float32 `(...)`, or `(num_clips, ...)` if the options say `per_clip`.
        """
        values = self._read(clips)
        if self._options.mirror:
            mirrored = self._read(horizontal_flip(clips.flatten(0, 1)).view_as(clips))
            # A volume is mirrored back, so that each value is averaged with that of its place.
            values = (values + (mirrored.flip(-1) if mirrored.dim() == 5 else mirrored)) / 2
        if self._options.pool:
            values = values.mean((2, 3, 4))
        if not self._options.per_clip:
            values = values.mean(0)
        return values.numpy()

    def _read(self, clips: Tensor) -> Tensor:
        outputs = self._scorer(clips)
        return outputs.softmax(-1) if self._options.stage is None else outputs


def _read_ahead(clips: EvalClips, rows: Sequence[int], threads: int) -> Iterator[Sample | Unread]:
    """Yield the clips of videos in order, while threads read the next ones."""
    if not threads:
        yield from map(clips.__getitem__, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Sample | Unread]] = deque()
        for row in rows:
            waiting.append(pool.submit(clips.__getitem__, row))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _finish(
    options: FeaturesOptions,
    folder: FeatureFolder,
    files: dict[str, str],
    index: FeatureIndex,
    bad: list[str],
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
    if bad:
        print(f"LEFT OUT: {counted(len(bad), 'video')} that cannot be read:")
        print("\n".join(f"  {printable(line)}" for line in bad))
    print(f"written to {printable(options.out)}")
