"""The command `p3d score`: what a network says of an archive of videos, each scored once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from p3d.archive.engine import SETTINGS_FILE, Outcome, keep_settings, work_through
from p3d.archive.parts import Column, Format, Parts, Record, usual_format
from p3d.archive.pool import Pool, Work
from p3d.data.rates import check_rate
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.arguments import VideoFinder, local_path
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.inference.exported import file_backend
from p3d.inference.networks import chosen_backend
from p3d.inference.prediction import Prediction
from p3d.inference.predictor import Predictor
from p3d.system.accelerators import count_devices, only_device
from p3d.system.compiler import find_compiler
from p3d.system.device import resolve_device, set_up_cpu
from p3d.system.files import file_sha256, lock_folder, make_folder
from p3d.system.markers import First, Positional
from p3d.system.messages import print_note
from p3d.system.options import DeviceOptions
from p3d.system.signals import StopRequest
from p3d.weights.loading import find_weights, load_model

What = Literal["top", "scores", "features"]

_COLUMNS: dict[What, dict[str, Column]] = {
    "top": {"frames": "integer", "clips": "integer", "classes": "texts", "scores": "numbers"},
    "scores": {"frames": "integer", "clips": "integer", "scores": "numbers"},
    "features": {"features": "numbers"},
}
_MANY_VIDEOS = 200
"""So many videos pay for compiling."""


@dataclass(frozen=True)
class ScoreOptions:
    """Score an archive of videos, each once, in parts that survive any interruption.

    The same command goes on after one, and does only what is new. Exit code 2: some videos could
    not be read; they are in bad.csv, and not tried again.
    """

    videos: Positional[tuple[str, ...]]
    """Video files, folders of videos or of one video's frames, lists (.txt, one path a line; .csv
    with a column path; - for stdin), or patterns in quotes ('films/**/*.mp4')."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    out: Path
    """Folder for parts/part-000001.parquet and so on, settings.json and bad.csv."""
    what: First[What] = "top"
    """What to keep of a video."""
    top: First[int] = 5
    """Classes to keep, by --what top."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    format: Format | None = None
    """Format of the parts; by default parquet if pyarrow is installed, else jsonl."""
    retry_bad: bool = False
    """Try videos again that could not be read."""
    processes: int | None = None
    """Processes that score; by default one for each accelerator, or one on a CPU."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it, such as 1 clip of 16x160x160 on a
    CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles on a CPU for 200 videos
    or more."""
    workers: int | None = None
    """Threads of each process that decode while the network computes; by default what suits the
    machine."""
    frame_rate: float | None = None
    """Frames per second of folders of frames, for weights that take frames at a rate; 25 are
    assumed by default."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)


def run(options: ScoreOptions) -> int:
    """Run `p3d score` and return the exit code.

    Raises:
        UserError: An option is out of range, the weights cannot be read, the folder holds results
            of other weights or options, or a result cannot be written.
    """
    _check(options)
    weights = find_weights(local_path(options.weights, "weights"))
    found = VideoFinder(options.videos)
    paths = [str(item) for item in found.items if isinstance(item, Path)]
    make_folder(options.out / "parts")
    with lock_folder(options.out), StopRequest() as stop:
        settings = keep_settings(options.out, _settings(options, weights, len(paths)))
        options = replace(options, backend=settings["backend"], weights=weights)
        parts = Parts(options.out / "parts", settings["format"], _COLUMNS[options.what])
        if options.retry_bad and (forgotten := parts.forget_bad()):
            print_note(f"videos to try again: {forgotten:,}")
        pool = Pool(partial(open_work, options, settings["weights"]), _places(options))
        outcome = work_through(paths, parts, pool.results, "scoring", stop)
    return _report(found, outcome, options.out, stop)


def _check(options: ScoreOptions) -> None:
    if not options.videos:
        raise UserError("no videos were given; give files, folders or lists after the options")
    counts = {
        "--top": options.top,
        "--clips": options.clips,
        "--processes": options.processes,
        "--batch-size": options.batch_size,
    }
    for flag, count in counts.items():
        if isinstance(count, int) and count < 1:
            raise UserError(f"{flag} is {count}; give 1 or more")
    check_rate("--frame-rate", options.frame_rate)


def _settings(options: ScoreOptions, weights: Path, videos: int) -> dict[str, Any]:
    """Return what the results depend on; None where an earlier command has decided."""
    backend = chosen_backend(options.backend, compiled=options.compute.compile)
    is_first = not (options.out / SETTINGS_FILE).is_file()
    if backend == "auto" and is_first:
        backend = _usual_backend(options, weights, videos)
    kind = options.format or (usual_format() if is_first else None)
    return {
        "what": options.what,
        "weights": file_sha256(weights),
        "clips": options.clips,
        **({"top": options.top} if options.what == "top" else {}),
        "precision": options.compute.precision,
        "batch_size": options.batch_size,
        "frame_rate": options.frame_rate,
        "backend": None if backend == "auto" and not is_first else backend,
        "format": kind,
        "class_names": load_class_names(weights) if is_first else None,
    }


def load_class_names(weights: Path) -> list[str] | None:
    """Return the names of the classes; None for an exported file, which has them itself."""
    if file_backend(weights) is not None:
        return None
    names = load_model(weights).class_names
    return None if names is None else list(names)


def _usual_backend(options: ScoreOptions, weights: Path, videos: int) -> BackendChoice:
    on_cpu = resolve_device(options.compute.device).type == "cpu"
    if file_backend(weights) is not None:
        return "auto"
    pays = on_cpu and videos >= _MANY_VIDEOS and options.what != "features"
    return "compiled" if pays and find_compiler() is not None else "eager"


def _places(options: ScoreOptions) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Return where each process is started: with one device to see."""
    device = resolve_device(options.compute.device)
    devices = count_devices(device)
    return [
        partial(only_device, device.type, number % devices)
        for number in range(options.processes or devices)
    ]


def _report(found: VideoFinder, outcome: Outcome, out: Path, stop: StopRequest) -> int:
    missing = [item for item in found.items if isinstance(item, BadVideoError)]
    for item in missing:
        print(f"p3d: error: {printable(item)}", file=sys.stderr)
    print(printable(f"{outcome.describe()}; results in {out / 'parts'}"))
    if outcome.stopped:
        print_note("stopped; the same command goes on")
        return stop.exit_code
    return 2 if outcome.bad or missing else 0


def open_work(options: ScoreOptions, weights_sha256: str) -> Work:
    """Load the network in a worker process, and return what scores videos with it.

    Raises:
        UserError: The weights were replaced since the command began.
    """
    set_up_cpu(options.compute.threads)
    predictor = Predictor(
        options.weights,
        device=options.compute.device,
        precision=options.compute.precision,
        clips=options.clips,
        batch_size=options.batch_size,
        backend=options.backend,
        workers=options.workers,
        mixed_batches=False,
    )
    if file_sha256(options.weights) != weights_sha256:
        raise UserError(
            f"{options.weights}: was replaced since this command began; start it again with the "
            "weights of the results, or with another --out"
        )
    return partial(_score, predictor, options)


def _score(predictor: Predictor, options: ScoreOptions, paths: Iterator[str]) -> Iterator[Record]:
    if options.what == "features":
        yield from (_features(predictor, options, path) for path in paths)
        return
    taken: list[str] = []

    def videos() -> Iterator[str]:
        for path in paths:
            taken.append(path)
            yield path

    for result in predictor.stream(videos(), fps=options.frame_rate):
        yield _record(taken.pop(0), result, options)


def _record(path: str, result: Prediction | BadVideoError, options: ScoreOptions) -> Record:
    if isinstance(result, BadVideoError):
        return {"path": path, "error": result.reason}
    values: Mapping[str, Any] = {"scores": result.scores.tolist()}
    if options.what == "top":
        top = result.top(options.top)
        values = {"classes": [name for name, _ in top], "scores": [score for _, score in top]}
    return {
        "path": path,
        "error": None,
        "frames": result.num_frames,
        "clips": result.num_clips,
        **values,
    }


def _features(predictor: Predictor, options: ScoreOptions, path: str) -> Record:
    try:
        features = predictor.features(path, fps=options.frame_rate).mean(0)
    except BadVideoError as error:
        return {"path": path, "error": error.reason}
    return {"path": path, "error": None, "features": features.tolist()}
