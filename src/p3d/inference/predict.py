"""The command `p3d predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from p3d.data.rates import check_rate
from p3d.errors import BadVideoError, UserError
from p3d.inference.answers import AnswerFile, check_answer_path
from p3d.inference.arguments import Item, VideoFinder, local_path, path_of
from p3d.inference.predict_options import PredictOptions
from p3d.inference.predict_output import Printer, make_file_record, make_record
from p3d.inference.prediction import Prediction
from p3d.inference.predictor import Predictor
from p3d.inference.two_streams import (
    Stream,
    TwoStreams,
    check_networks,
    chosen_fusion,
    split_weights,
)
from p3d.system.device import set_up_cpu
from p3d.system.files import file_sha256
from p3d.system.messages import print_note
from p3d.weights.loading import find_weights


class _Stream(Protocol):
    """`Predictor.stream` or `TwoStreams.stream`."""

    def __call__(
        self, videos: Iterable[Path], /, *, fps: float | None
    ) -> Iterator[Prediction | BadVideoError]: ...


def run(options: PredictOptions) -> int:
    """Run `p3d predict` and return the exit code.

    Raises:
        UserError: An option is out of range, or the weights cannot be read.
    """
    _check_options(options)
    set_up_cpu(options.compute.threads)
    networks, videos = split_weights(local_path(options.weights, "weights"), options.videos)
    _check_networks(options, networks)
    if not videos:
        raise UserError("no videos were given; give one or more files after the options")
    found = VideoFinder(videos)
    make_predictor = partial(
        Predictor,
        device=options.compute.device,
        precision=options.compute.precision,
        clips=options.clips,
        batch_size=options.batch_size,
        compiled=options.compute.compile,
        backend=options.backend,
        videos=len(found.items),
        workers=options.workers,
    )
    predictor = make_predictor(networks[0])
    stream: _Stream = predictor.stream
    if len(networks) == 2:
        stream = _two_streams(options, networks, (predictor, make_predictor(networks[1]))).stream
    if predictor.settled is not None:
        print_note(f"--clips auto: {predictor.describe_clips}")
    file = AnswerFile(options.out, _settings(options, predictor, networks)) if options.out else None
    _report_found(found)
    items = found.items
    if file is not None:
        items = [item for item in items if str(path_of(item)) not in file.answered]
        _report_answered(len(found.items) - len(items), file)
    with _kept(file, found.items):
        return _answer(predictor, stream, items, file, options)


def _check_options(options: PredictOptions) -> None:
    counts = {"--top": options.top, "--clips": options.clips, "--batch-size": options.batch_size}
    for flag, count in counts.items():
        if isinstance(count, int) and count < 1:
            raise UserError(f"{flag} is {count}; give 1 or more")
    if not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold}; give a probability from 0 to 1")
    check_rate("--frame-rate", options.frame_rate)
    if options.out is not None:
        check_answer_path(options.out)


def _check_networks(options: PredictOptions, networks: Sequence[Path]) -> None:
    check_networks(networks, options.fusion)
    if len(networks) == 2 and options.clips == "auto":
        raise UserError("--clips auto is for one network; give a number of clips for two")


def _two_streams(
    options: PredictOptions, networks: Sequence[Path], predictors: tuple[Predictor, Predictor]
) -> TwoStreams:
    """Return both networks as one."""
    first, second = (
        Stream(str(path), predictor.scorer, predictor.class_names)
        for path, predictor in zip(networks, predictors, strict=True)
    )
    fusion = chosen_fusion(options.fusion, networks)
    assert options.clips != "auto"
    both = TwoStreams(first, second, fusion, options.clips)
    print_note(f"mean of {fusion.of}, weight of {networks[1]} {fusion.weight:g}")
    return both


def _settings(options: PredictOptions, predictor: Predictor, networks: Sequence[Path]) -> str:
    """Return what the answers depend on, for the file of answers."""
    files = [find_weights(path) for path in networks]
    fusion = [chosen_fusion(options.fusion, networks)] if len(files) == 2 else []
    parts = [
        *(f"{file.name} ({file_sha256(file)[:8]})" for file in files),
        *(f"mean of {each.of}, {each.weight:g}" for each in fusion),
        f"--clips {options.clips}" + (f" {predictor.settled:g}" if predictor.settled else ""),
        options.compute.precision,
    ]
    if options.threshold:
        parts.append(f"--threshold {options.threshold}")
    return ", ".join(parts)


def _examples(names: list[Path]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _report_found(found: VideoFinder) -> None:
    """Say what the arguments stand for, unless they are just the videos."""
    videos = [item for item in found.items if isinstance(item, Path)]
    if found.expanded and videos:
        folders = sum(video.is_dir() for video in videos)
        frames = f", {folders:,} of them folders of frames" if folders else ""
        others = f"; files left out: {found.ignored:,}" if found.ignored else ""
        print_note(f"videos found: {len(videos):,}{frames}{others}")
    if found.repeated:
        print_note(f"named more than once, answered once: {_examples(found.repeated)}")


def _report_answered(count: int, file: AnswerFile) -> None:
    if count:
        print_note(f"videos already answered in {file.path}: {count:,}; delete it to start again")


@contextmanager
def _kept(file: AnswerFile | None, items: list[Item]) -> Iterator[None]:
    """Sort the file of answers at the end, and say what it has if the command is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if file is not None:
            print_note(f"the answers so far are in {file.path}; the same command goes on")
        raise
    if file is not None:
        file.sort([str(path_of(item)) for item in items])
        print_note(f"the answers are in {file.path}")


def _answer(
    predictor: Predictor,
    stream: _Stream,
    items: list[Item],
    file: AnswerFile | None,
    options: PredictOptions,
) -> int:
    """Print and write the answers, and return the exit code."""
    printer = Printer(predictor.class_names, items, options)
    unread = 0
    for item, result in zip(items, _results(stream, items, options.frame_rate), strict=True):
        record = make_record(str(path_of(item)), result, options)
        if file is not None:
            file.add(make_file_record(record, result))
        with tqdm.external_write_mode():
            printer.show(record, result)
        unread += isinstance(result, BadVideoError)
    printer.show_unseen()
    printer.show_rates(predictor)
    if unread and len(items) > 1:
        print_note(f"{unread} of {len(items)} videos were not read")
    return 2 if unread else 0


def _results(
    stream: _Stream, items: list[Item], fps: float | None
) -> Iterator[Prediction | BadVideoError]:
    """Yield the result of each item, with a progress bar if there are several."""
    paths = (item for item in items if isinstance(item, Path))
    predictions = stream(paths, fps=fps)
    hidden = None if len(items) > 1 else True
    for item in tqdm(items, "predicting", unit="video", leave=False, disable=hidden):
        yield item if isinstance(item, BadVideoError) else next(predictions)
