"""`p3d score`: the classes, probabilities or features of an archive of videos."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from p3d.archive.engine import describe
from p3d.archive.machines import Machine, open_machine
from p3d.archive.notes import describe_bad
from p3d.archive.options import ClusterOptions, PoolOptions
from p3d.archive.parts import PartFormat, part_files, read_part
from p3d.archive.results import PARTS, Results
from p3d.archive.run import run_work
from p3d.data.layouts import check_among
from p3d.data.rates import check_rate
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.arguments import Item, VideoFinder, local_path
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.inference.exported import file_backend
from p3d.inference.networks import chosen_backend
from p3d.inference.pipe import num_threads
from p3d.inference.score_work import ScoreWork, What, class_names
from p3d.system.compiler import find_compiler
from p3d.system.device import set_up_cpu
from p3d.system.files import file_sha256
from p3d.system.folders import lock_folder, results_folder
from p3d.system.markers import First, Heading, Positional
from p3d.system.messages import print_note
from p3d.system.options import DeviceOptions, check_least
from p3d.system.text import counted
from p3d.video.remote import public_name
from p3d.weights.loading import find_weights
from p3d.weights.reading import check_readable

_MANY_VIDEOS = 200
"""Videos that pay for compiling on a CPU."""


@dataclass(frozen=True)
class ScoreOptions:
    """Score every video of an archive exactly once, in parts.

    The same command goes on after any interruption, and does what has been added. Exit code 0: all
    were read; 2: some were not, and are listed in bad.csv.
    """

    videos: Positional[tuple[str | Path, ...]]
    """Folders of videos, lists (.txt, one path a line; .csv with a column path, such as a manifest;
    - for stdin), patterns in quotes, or videos; also addresses such as s3://bucket/films."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`."""
    out: Path
    """Folder for parts/part-000001.parquet and so on, settings.json and bad.csv."""
    what: Annotated[First[What], Heading("results")] = "top"
    """top: the most likely classes; scores: the probabilities of all classes; features: 2048 values
    of pool5, averaged over the clips."""
    top: First[int] = 5
    """Classes that --what top keeps of each video."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    format: PartFormat | None = None
    """Format of new parts; by default that of the others, or parquet if pyarrow is installed, else
    jsonl."""
    retry_bad: First[bool] = False
    """Try the videos in bad.csv again."""
    part_videos: int = 1000
    """Videos of a part; a part is written after a minute in any case."""
    frame_rate: float | None = None
    """Frames per second of folders of frames, for weights that take frames at a rate; 25 are
    assumed by default."""
    workers: Annotated[int | None, Heading("machine")] = None
    """Threads of each process that decode while the network computes; 0 decodes in turn with it.
    By default what suits the machine."""
    batch_size: int | None = None
    """Clips on the device at once, all of one video; by default what suits the device."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles on a CPU for 200 videos
    or more, or what the parts there were computed with."""
    pool: PoolOptions = field(default_factory=PoolOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    compute: DeviceOptions = field(default_factory=DeviceOptions)

    def check(self) -> None:
        """Check what can be checked before anything is read.

        Raises:
            UserError: A number is out of range, or there is no video.
        """
        if not self.videos:
            raise UserError("no videos were given; give folders, lists or files after the options")
        check_least(
            1,
            top=self.top,
            clips=self.clips,
            part_videos=self.part_videos,
            batch_size=self.batch_size,
        )
        if self.what == "features" and self.clips == "auto":
            raise UserError("--clips auto: features have no answer that settles; give a number")
        check_rate("--frame-rate", self.frame_rate)


def run(options: ScoreOptions) -> int:
    """Run `p3d score` and return the exit code.

    Raises:
        UserError: The options, the weights or the folder of results do not fit together, or the
            run cannot go on.
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    options.check()
    compute = options.compute
    pool, cluster = options.pool, options.cluster
    with open_machine(cluster.ray, pool.processes, compute.device, compute.threads) as machine:
        return _score(options, machine)


def _score(options: ScoreOptions, machine: Machine) -> int:
    work = _work(options, machine)
    names = class_names(work.load())
    found = _find(options)
    found.check_found()
    check_among(map(Path, options.videos), options.out)
    items, unusable = _items(found)
    with (
        results_folder(options.out),
        lock_folder(options.out),
        results_folder(options.out / PARTS),
    ):
        work = replace(work, backend=_backend(options, work, machine, len(items)))
        results = Results(options.out, _settings(work, names), options.part_videos, options.format)
        if options.retry_bad:
            results.forget_bad()
        return _run(options, machine, work, items, unusable, results)


def _work(options: ScoreOptions, machine: Machine) -> ScoreWork:
    """Return what the workers are to do.

    Raises:
        UserError: The weights cannot be read, or there is no such device.
    """
    compute = options.compute
    weights = find_weights(local_path(options.weights, "weights"))
    check_readable(weights)
    set_up_cpu(compute.threads)
    num_threads(options.workers, torch.device(machine.device))
    return ScoreWork(
        weights=weights.absolute(),
        sha256=file_sha256(weights),
        what=options.what,
        top=options.top,
        clips=options.clips,
        batch_size=options.batch_size,
        backend=chosen_backend(options.backend, compiled=compute.compile),
        device=machine.device,
        precision=compute.precision,
        threads=machine.threads,
        workers=options.workers,
        frame_rate=options.frame_rate,
    )


def _backend(
    options: ScoreOptions, work: ScoreWork, machine: Machine, videos: int
) -> BackendChoice:
    """Return what computes the network, the same for all parts.

    Whether the nodes of a cluster have a compiler is not known.
    """
    if work.backend != "auto" or file_backend(work.weights) is not None:
        return work.backend
    if files := part_files(options.out / PARTS):
        earlier: BackendChoice = read_part(files[0], only_paths=True).settings.get(
            "backend", "eager"
        )
        return earlier
    on_cpu = machine.device == "cpu" and not machine.is_cluster
    pays = on_cpu and videos >= _MANY_VIDEOS and work.what != "features"
    return "compiled" if pays and find_compiler() is not None else "eager"


def _settings(work: ScoreWork, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the rows depend on, apart from rounding, as plain values."""
    return {
        "weights": work.sha256,
        "what": work.what,
        **({"top": work.top} if work.what == "top" else {}),
        "clips": work.clips,
        "batch_size": work.batch_size,
        "backend": work.backend,
        "precision": work.precision,
        "frame_rate": work.frame_rate,
        "class_names": list(names),
    }


def _find(options: ScoreOptions) -> VideoFinder:
    return VideoFinder([str(video) for video in options.videos], take_addresses=True)


def _items(found: VideoFinder) -> tuple[dict[str, str], dict[str, str]]:
    """Return where to read each video from, by its name, and why other items are no videos.

    A name is the absolute path, so that the folder of the command does not matter, or the address
    without credentials.

    Raises:
        UserError: Two addresses have one name.
    """
    items: dict[str, str] = {}
    unusable: dict[str, str] = {}
    for item in found.items:
        source = _source(item)
        # Bytes that are not UTF-8 are escaped, since no format of results can hold them.
        name = source.encode("utf-8", "backslashreplace").decode()
        if isinstance(item, BadVideoError):
            unusable[name] = item.reason
        else:
            items[name] = source
    for address in found.addresses:
        name = public_name(address)
        if items.setdefault(name, address) != address:
            raise UserError(
                f"{name}: two addresses differ only in what may be credentials, and their rows "
                "would have one name; give one of them"
            )
    return items, unusable


def _source(item: Item) -> str:
    return str(item.path) if isinstance(item, BadVideoError) else os.path.abspath(item)  # noqa: PTH100


def _run(
    options: ScoreOptions,
    machine: Machine,
    work: ScoreWork,
    items: dict[str, str],
    unusable: dict[str, str],
    results: Results,
) -> int:
    for name, reason in unusable.items():
        results.add_bad(name, reason)
    earlier = _count(items, results.done) + _count(items, results.bad)
    print_note(f"videos found: {len(items):,}; done or known to be bad: {earlier:,}")
    summary = run_work(items, work, machine, results, "scoring")
    if summary.done or summary.bad:
        print_note(describe(summary, earlier))
    return _report(options.out, {*items, *unusable}, results)


def _count(items: dict[str, str], names: Iterable[str]) -> int:
    return sum(name in items for name in names)


def _report(out: Path, names: set[str], results: Results) -> int:
    """Print where the results are, and return the exit code."""
    bad = [(name, reason) for name, reason in results.bad.items() if name in names]
    scored = len(names & results.done)
    print(f"{counted(scored, 'video')} scored: {printable(out)}")
    if bad:
        print(describe_bad(out, bad, "; --retry-bad tries them again"))
    return 2 if bad else 0
