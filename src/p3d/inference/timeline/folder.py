"""`p3d timeline --out FOLDER`: a file of segments for each of many videos, each done once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from p3d.archive.engine import describe
from p3d.archive.machines import Machine, open_machine
from p3d.archive.notes import Notes, describe_bad, write_bad
from p3d.archive.results import SETTINGS_FILE, check_same
from p3d.archive.run import run_work
from p3d.archive.work import OneStage
from p3d.data.layouts import check_among
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.arguments import Item
from p3d.inference.pipe import num_threads
from p3d.inference.result_names import names_below
from p3d.inference.timeline.frames import open_frames
from p3d.inference.timeline.network import TimelineNetwork, find_networks, weights_sha256
from p3d.inference.timeline.options import TimelineOptions
from p3d.inference.timeline.scan import scan
from p3d.inference.timeline.timeline import make_timeline
from p3d.inference.timeline.writers import write_timelines
from p3d.system.device import count_devices, resolve_device, set_up_cpu
from p3d.system.files import write_json
from p3d.system.folders import lock_folder, results_folder
from p3d.system.messages import print_note
from p3d.system.text import counted
from p3d.weights.reading import check_readable


def run_folder(options: TimelineOptions, networks: Sequence[Path], items: Sequence[Item]) -> int:
    """Write a file for each video that has none, and return the exit code.

    Args:
        options: The options.
        networks: The weights of the network, or of two.
        items: The videos.

    Raises:
        UserError: The folder holds timelines of other options, or the run cannot go on.
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    assert options.out is not None
    check_among(map(Path, options.videos), options.out)
    files = find_networks(networks)
    for weights in files:
        check_readable(weights)
    compute, pool = options.compute, options.pool
    with (
        results_folder(options.out),
        open_machine(
            options.cluster.ray, pool.processes, compute.device, compute.threads
        ) as machine,
        lock_folder(options.out),
    ):
        compute = replace(compute, device=machine.device, threads=machine.threads)
        theirs = replace(options, compute=compute)
        work = _Work(theirs, [file.absolute() for file in files], weights_sha256(files))
        return _run(options, work, machine, options.out.absolute(), items)


def _run(
    options: TimelineOptions, work: _Work, machine: Machine, out: Path, items: Sequence[Item]
) -> int:
    videos = [Path(os.path.abspath(item)) for item in items if isinstance(item, Path)]  # noqa: PTH100
    root = _open(out, {"weights": work.sha256, **_settings(options)}, videos)
    files = names_below(videos, root, f".{options.format}")
    notes = Notes(out)
    notes.add_earlier(file for file in files if (out / file).exists())
    earlier = len(notes.done)
    print_note(f"videos found: {len(videos):,}; done: {earlier:,}")
    sources = dict(zip(files, videos, strict=True))
    tasks = {file: (path, out / file) for file, path in sources.items()}
    try:
        summary = run_work(tasks, work, machine, notes, "timelines")
    finally:
        if not any((out / file).exists() for file in files):
            # Else options that the workers have refused would bind the next run.
            (out / SETTINGS_FILE).unlink(missing_ok=True)
    if summary.done:
        print_note(describe(summary, earlier))
    bad = [(item.path, item.reason) for item in items if isinstance(item, BadVideoError)]
    bad += [(sources[file], reason) for file, reason in notes.bad.items()]
    assert options.out is not None
    return _report(options.out, len(notes.done), bad)


def _settings(options: TimelineOptions) -> dict[str, Any]:
    """Return what the files depend on, besides the weights, as JSON values."""
    settings = {
        "format": options.format,
        "window": options.window,
        "stride": options.stride,
        "cut": asdict(options.cut),
        "fps": options.fps,
        "fusion": options.fusion,
        "batch_size": options.batch_size,
        "backend": options.backend,
        "precision": options.compute.precision,
    }
    values: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return values


def _open(out: Path, settings: dict[str, Any], videos: Sequence[Path]) -> Path:
    """Return the folder below which videos are named; the first run in a folder decides on it.

    Raises:
        UserError: The folder holds timelines of other settings.
    """
    file = out / SETTINGS_FILE
    if not file.exists():
        root = os.path.commonpath([path.parent for path in videos] or [out.absolute()])
        write_json(file, {"root": root, **settings})
        return Path(root)
    try:
        there: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        root = str(there.pop("root"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read; choose another --out") from error
    check_same(out, there, settings)
    return Path(root)


def _report(out: Path, done: int, bad: list[tuple[Path, str]]) -> int:
    """Print what is in the folder, list bad videos, and return the exit code."""
    print(f"segments of {counted(done, 'video')}: {printable(out)}")
    write_bad(out, bad)
    if bad:
        print(describe_bad(out, bad))
    return 2 if bad else 0


@dataclass(frozen=True)
class _Work:
    """See `p3d.archive.work.Work`."""

    options: TimelineOptions
    networks: Sequence[Path]
    sha256: str

    def start(self, number: int) -> OneStage:
        options = self.options
        set_up_cpu(options.compute.threads)
        number %= count_devices(resolve_device(options.compute.device))
        network = TimelineNetwork(options, self.networks, None, options.batch_size, number)
        if network.settings["weights"] != self.sha256:
            raise UserError(
                f"{options.weights}: was replaced during the run; put the old file back, or "
                "choose another --out"
            )
        return OneStage(partial(_write, options, network))


def _write(options: TimelineOptions, network: TimelineNetwork, source: tuple[Path, Path]) -> None:
    """Write the file of a video."""
    path, target = source
    scorer = network.scorer
    threads = num_threads(options.workers, scorer.device)
    decoders = 1 if scorer.device.type == "cpu" else threads
    with (
        open_frames(path, scorer.preps, decoders, options.fps) as frames,
        closing(scan(scorer, scorer.windows(frames), threads)) as batches,
    ):
        windows = [window for batch in batches for window in batch]
        if faults := frames.describe_faults():
            print_note(f"{path}: {faults}")
        duration = frames.end
    timeline = make_timeline(path, windows, duration, network.names, scorer.temperature)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_timelines(target, [timeline.cut(network.cut)], network.all_settings)
