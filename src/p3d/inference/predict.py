"""The command `p3d predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from p3d.data.rates import check_rate
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.answers import AnswerFile, check_answer_path
from p3d.inference.arguments import Item, VideoFinder, local_path, path_of
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips
from p3d.inference.far_rates import describe_far_rates
from p3d.inference.prediction import UNKNOWN, Prediction
from p3d.inference.predictor import Predictor
from p3d.system.device import set_up_cpu
from p3d.system.files import file_sha256
from p3d.system.markers import First, Positional
from p3d.system.options import DeviceOptions
from p3d.system.text import counted, format_percent, format_table, json_line
from p3d.video.sources import ASSUMED_FPS
from p3d.weights.loading import find_weights

_MAX_WIDTH = 40
"""Longest path for which the lines of other videos leave room."""


@dataclass(frozen=True)
class PredictOptions:
    """Print the most likely classes of videos. Exit code 0: all were read; 2: some were not."""

    videos: Positional[tuple[str | Path, ...]]
    """Video files, folders of videos or of one video's frames, lists (.txt, one path a line; .csv
    with a column path; - for stdin), or patterns in quotes ('clips/**/*.mp4')."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    top: First[int | None] = None
    """Print a table of this many classes for each video. By default a table of 5 for a single
    video, and one line a video for several."""
    threshold: First[float] = 0.0
    """Answer "unknown" if the best class is less probable than this, from 0 to 1."""
    out: First[Path | None] = None
    """File for the answers, .csv or .jsonl. The same command goes on after an interruption."""
    json: First[bool] = False
    """Print one JSON object a line instead of text."""
    clips: First[NumClips] = 20
    """Clips of each video, uniformly spaced; auto takes as many of 20 as the answer needs."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it, such as 1 clip of
    16x160x160 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
    frame_rate: float | None = None
    """Frames per second of folders of frames, for weights that take frames at a rate; 25 are
    assumed by default."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)


def run(options: PredictOptions) -> int:
    """Run `p3d predict` and return the exit code.

    Raises:
        UserError: An option is out of range, or the weights cannot be read.
    """
    if not options.videos:
        raise UserError("no videos were given; give one or more files after the options")
    counts = {"--top": options.top, "--clips": options.clips, "--batch-size": options.batch_size}
    for flag, count in counts.items():
        if isinstance(count, int) and count < 1:
            raise UserError(f"{flag} is {count}; give 1 or more")
    if not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold}; give a probability from 0 to 1")
    check_rate("--frame-rate", options.frame_rate)
    if options.out is not None:
        check_answer_path(options.out)
    set_up_cpu(options.compute.threads)
    weights = local_path(options.weights, "weights")
    found = VideoFinder([str(video) for video in options.videos])
    predictor = Predictor(
        weights,
        device=options.compute.device,
        precision=options.compute.precision,
        clips=options.clips,
        batch_size=options.batch_size,
        compiled=options.compute.compile,
        backend=options.backend,
        videos=len(found.items),
        workers=options.workers,
    )
    if predictor.settled is not None:
        _note(f"--clips auto: {predictor.describe_clips}")
    file = AnswerFile(options.out, _settings(options, predictor)) if options.out else None
    _report_found(found)
    items = found.items
    if file is not None:
        items = [item for item in items if str(path_of(item)) not in file.answered]
        _report_answered(len(found.items) - len(items), file)
    with _kept(file, found.items):
        return _answer(predictor, items, file, options)


def _settings(options: PredictOptions, predictor: Predictor) -> str:
    """Return what the answers depend on, for the file of answers."""
    weights = find_weights(options.weights)
    parts = [
        f"{weights.name} ({file_sha256(weights)[:8]})",
        f"--clips {options.clips}" + (f" {predictor.settled:g}" if predictor.settled else ""),
        options.compute.precision,
    ]
    if options.threshold:
        parts.append(f"--threshold {options.threshold}")
    return ", ".join(parts)


def _note(text: str) -> None:
    print(f"p3d: {printable(text)}", file=sys.stderr)


def _examples(names: list[Path]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _report_found(found: VideoFinder) -> None:
    """Say what the arguments stand for, unless they are just the videos."""
    videos = [item for item in found.items if isinstance(item, Path)]
    if found.expanded:
        folders = sum(video.is_dir() for video in videos)
        frames = f", {folders:,} of them folders of frames" if folders else ""
        others = f"; files left out: {found.ignored:,}" if found.ignored else ""
        _note(f"videos found: {len(videos):,}{frames}{others}")
    if found.repeated:
        _note(f"named more than once, answered once: {_examples(found.repeated)}")


def _report_answered(count: int, file: AnswerFile) -> None:
    if count:
        _note(f"videos already answered in {file.path}: {count:,}; delete it to start again")


@contextmanager
def _kept(file: AnswerFile | None, items: list[Item]) -> Iterator[None]:
    """Sort the file of answers at the end, and say what it has if the command is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if file is not None:
            _note(f"the answers so far are in {file.path}; the same command goes on")
        raise
    if file is not None:
        file.sort([str(path_of(item)) for item in items])
        _note(f"the answers are in {file.path}")


def _answer(
    predictor: Predictor, items: list[Item], file: AnswerFile | None, options: PredictOptions
) -> int:
    """Print and write the answers, and return the exit code."""
    printer = _Printer(predictor.class_names, items, options)
    unread = 0
    for item, result in zip(items, _results(predictor, items, options.frame_rate), strict=True):
        record = _record(str(path_of(item)), result, options)
        if file is not None:
            file.add(_file_record(record, result))
        with tqdm.external_write_mode():
            printer.show(record, result)
        unread += isinstance(result, BadVideoError)
    printer.show_unseen()
    printer.show_rates(predictor)
    if unread and len(items) > 1:
        _note(f"{unread} of {len(items)} videos were not read")
    return 2 if unread else 0


def _results(
    predictor: Predictor, items: list[Item], fps: float | None
) -> Iterator[Prediction | BadVideoError]:
    """Yield the result of each item, with a progress bar if there are several."""
    paths = (item for item in items if isinstance(item, Path))
    predictions = predictor.stream(paths, fps=fps)
    hidden = None if len(items) > 1 else True
    for item in tqdm(items, "predicting", unit="video", leave=False, disable=hidden):
        yield item if isinstance(item, BadVideoError) else next(predictions)


def _record(
    name: str, result: Prediction | BadVideoError, options: PredictOptions
) -> dict[str, Any]:
    """Return a result as JSON-serializable values."""
    if isinstance(result, BadVideoError):
        return {"video": name, "error": result.reason}
    top = result.top(options.top or 5)
    return {
        "video": name,
        "top": [{"class": label, "score": round(score, 6)} for label, score in top],
        "answer": result.answer(options.threshold),
        "frames": result.num_frames,
        "seen": round(result.seen, 4),
        **({"clips": result.num_clips} if options.clips == "auto" else {}),
    }


def _file_record(record: dict[str, Any], result: Prediction | BadVideoError) -> dict[str, Any]:
    """Return a record for the file of answers."""
    row = {"path": record["video"], **record}
    if isinstance(result, Prediction):
        ((best, probability),) = result.top(1)
        row |= {"best": best, "probability": round(probability, 6)}
    del row["video"]
    return row


class _Printer:
    """Prints results as JSON, as tables, or as lines in columns."""

    def __init__(
        self, class_names: tuple[str, ...], items: list[Item], options: PredictOptions
    ) -> None:
        self._options = options
        self._as_tables = options.top is not None or len(items) == 1
        names = [*class_names, UNKNOWN] if options.threshold else class_names
        paths = (str(path_of(item)) for item in items)
        self._widths = [
            max(
                (len(printable(text)) for text in texts if len(printable(text)) <= limit), default=0
            )
            for texts, limit in ((paths, _MAX_WIDTH), (names, _MAX_WIDTH // 2))
        ]
        self._unseen: list[Prediction] = []
        self._rates: list[float] = []

    def show(self, record: dict[str, Any], result: Prediction | BadVideoError) -> None:
        """Print a result at once."""
        if isinstance(result, BadVideoError):
            print(f"p3d: error: {printable(result)}", file=sys.stderr)
        else:
            self._rates.append(result.fps)
            if result.seen < 1:
                self._unseen.append(result)
        if self._options.json:
            print(json_line(record), flush=True)
        elif isinstance(result, Prediction):
            print(self._table(result) if self._as_tables else self._line(result), flush=True)

    def _line(self, prediction: Prediction) -> str:
        ((_, probability),) = prediction.top(1)
        cells = (str(prediction.path), prediction.answer(self._options.threshold))
        padded = [printable(c).ljust(w) for c, w in zip(cells, self._widths, strict=True)]
        share = format_percent(probability).rjust(6)
        return "  ".join([*padded, share, self._seen(prediction)]).rstrip()

    def _table(self, prediction: Prediction) -> str:
        top = prediction.top(self._options.top or 5)
        rows = [(name, format_percent(score)) for name, score in top]
        if prediction.answer(self._options.threshold) != top[0][0]:
            rows.insert(0, (UNKNOWN, f"below {format_percent(self._options.threshold)}"))
        lines = [format_table((str(prediction.path), "score"), rows)]
        lines += filter(None, [self._seen(prediction)])
        return "\n".join(lines) + "\n"

    def _seen(self, prediction: Prediction) -> str:
        """Return how many clips the answer takes, if that differs, and which part they span."""
        clips = [counted(prediction.num_clips, "clip")] if self._options.clips == "auto" else []
        return ", ".join(clips + [prediction.describe_seen()] * (prediction.seen < 1))

    def show_unseen(self) -> None:
        """Say which number of clips sees the videos whole; JSON has the numbers in its lines."""
        if not self._unseen or self._options.json or self._options.clips == "auto":
            return
        clips = max(prediction.whole_clips for prediction in self._unseen)
        which = "it" if len(self._unseen) == 1 else f"all {len(self._unseen):,} such videos"
        _note(f"--clips {clips:,} would see {which} whole")

    def show_rates(self, predictor: Predictor) -> None:
        """Say which videos have a rate far from those of the training videos, and what it does."""
        prep = predictor.preprocessing
        if note := describe_far_rates(self._rates, predictor.rates, prep.fps):
            _note(note)
        if prep.fps is not None and 0.0 in self._rates:
            count = counted(self._rates.count(0.0), "folder")
            _note(f"{count} of frames taken as {ASSUMED_FPS:g} a second; or give --frame-rate")
