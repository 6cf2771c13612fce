"""`p3d fuse`: average the scores of two networks, such as those of pictures and optical flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p3d.errors import UserError, printable
from p3d.evaluation.metrics import describe_scores, read_named
from p3d.inference.fusion import Fusion, Mean, write_fusion
from p3d.run_folder import FUSION_FILE, LOGITS_FILE
from p3d.scores.alignment import Named, align, check_same_classes
from p3d.scores.figures import compute_figures, labeled_scores
from p3d.scores.fusion import WEIGHTS, Choice, best_choice, fuse, weigh
from p3d.scores.resampling import Bootstrap
from p3d.scores.score_file import write_score_file
from p3d.scores.tables import describe_intervals, format_interval
from p3d.system.files import replacing_together
from p3d.system.folders import results_folder
from p3d.system.markers import First, Positional
from p3d.system.text import counted, format_percent, format_table


@dataclass(frozen=True)
class FuseOptions:
    """Average the scores of two networks on the same videos."""

    scores: Positional[tuple[Path, ...]]
    """Two folders that p3d eval wrote to, or their scores.npz."""
    out: First[Path | None] = None
    """Folder for the fused scores.npz, which p3d metrics and p3d compare read, and for fusion.json,
    which --fusion of p3d predict and p3d timeline reads."""
    weight: First[float | None] = None
    """Weight of the second network, from 0 to 1; the first has the rest. By default 0.5."""
    validation: First[tuple[Path, Path] | None] = None
    """Scores of both networks on validation videos, in the same order: they choose the weight."""
    mean: First[Mean] = "probabilities"
    """Average the probabilities of the videos, or their logits."""


def run(options: FuseOptions) -> None:
    """Run `p3d fuse`.

    Raises:
        UserError: The scores do not belong together, or an option is out of range.
    """
    _check(options)
    first, second = read_named(options.scores)
    second = Named(second.name, align(first, second))
    weight, origin = 0.5, "the default"
    if options.weight is not None:
        weight, origin = options.weight, "as given"
    notes: dict[str, object] = {}
    if options.validation is not None:
        choice = _choose(options, (first, second))
        weight, origin = choice.weight, f"the best of {len(WEIGHTS)} in validation"
        notes = {"validation_top1": choice.top1, "validation_loss": choice.loss}
    fused = Named("fused", fuse(first.scores, second.scores, weight, options.mean, notes))
    for number, each in (("first", first), ("second", second)):
        print(f"{number}: {printable(each.name)}: {describe_scores(each.scores)}")
    print(f"mean of {options.mean}, weight of the second {weight:g} ({origin})")
    if (fused.scores.labels >= 0).any():
        print(_table([first, second, fused]))
    if options.out is not None:
        hashes = (first.scores.weights_sha256, second.scores.weights_sha256)
        with (
            results_folder(options.out),
            replacing_together(options.out, last=LOGITS_FILE) as drafts,
        ):
            write_score_file(drafts / LOGITS_FILE, fused.scores)
            write_fusion(drafts / FUSION_FILE, Fusion(weight, options.mean), hashes)
        print(printable(f"written to {options.out / LOGITS_FILE}"))


def _check(options: FuseOptions) -> None:
    if len(options.scores) != 2:
        raise UserError(
            f"{counted(len(options.scores), 'folder')} of scores given; p3d fuse takes two"
        )
    if options.weight is not None and options.validation is not None:
        raise UserError("--weight and --validation exclude each other; give one of them")
    if options.weight is not None and not 0 <= options.weight <= 1:
        raise UserError(f"--weight is {options.weight}; give a number from 0 to 1")
    folders = [path if path.is_dir() else path.parent for path in options.scores]
    if options.out and options.out.resolve() in [each.resolve() for each in folders]:
        raise UserError(f"--out {options.out}: holds one of the inputs; give another folder")


def _choose(options: FuseOptions, streams: tuple[Named, Named]) -> Choice:
    """Return the weight that is best on the validation videos, and print it.

    Raises:
        UserError: These are not validation scores of the two networks.
    """
    assert options.validation is not None
    first, second = (
        Named(each.name, labeled_scores(each.scores, each.name))
        for each in read_named(options.validation)
    )
    for validation, stream in ((first, streams[0]), (second, streams[1])):
        _check_validation(validation, stream)
    choices = weigh(first.scores, align(first, second), options.mean)
    chosen = best_choice(choices)
    ends = f"{format_percent(choices[0].top1)} and {format_percent(choices[-1].top1)} alone"
    print(f"validation: top-1 {format_percent(chosen.top1)} fused, {ends}")
    return chosen


def _check_validation(validation: Named, stream: Named) -> None:
    check_same_classes(stream, validation)
    if validation.scores.split == "test":
        raise UserError(
            f"--validation {validation.name}: holds test scores, which must not choose the weight; "
            "run p3d eval --split validation"
        )
    shared = set(validation.scores.paths).intersection(stream.scores.paths)
    if shared:
        raise UserError(
            f"--validation {validation.name}: has videos that are fused, such as {min(shared)}; "
            "give scores of other videos"
        )
    if validation.scores.weights_sha256 != stream.scores.weights_sha256:
        raise UserError(
            f"--validation {validation.name}: holds the scores of other weights than "
            f"{stream.name}; give both networks' own, in the same order"
        )


def _table(files: list[Named]) -> str:
    """Return the figures of both networks and of their mean."""
    bootstrap = Bootstrap()
    found = [compute_figures(each.scores, bootstrap, name=each.name) for each in files]
    rows = [
        (
            title,
            format_percent(figures.accuracy.top1),
            format_interval(figures.intervals["top1"]),
            format_percent(figures.accuracy.mean_class),
            f"{figures.loss:.4f}",
        )
        for title, figures in zip(("first", "second", "fused"), found, strict=True)
    ]
    header = ("scores", "top-1", "95% interval", "mean class", "log loss")
    return "\n".join([format_table(header, rows), describe_intervals(found[0].groups, bootstrap)])
