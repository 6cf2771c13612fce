"""What an evaluation prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.data.dataset import Split, VideoDataset
from p3d.data.rates import assumed_rates
from p3d.data.sampling import clips_to_see_all, seen_fraction, spaced_windows
from p3d.errors import UserError, printable
from p3d.evaluation.clips_curve import ClipReport
from p3d.evaluation.leaks import Overlap
from p3d.evaluation.motion import OrderResult, write_motion
from p3d.evaluation.protocols import Protocol
from p3d.inference.scoring import VideoScores, write_scores
from p3d.report.page import write_report
from p3d.run_folder import LOGITS_FILE, METRICS_FILE, MOTION_FILE, SCORES_FILE
from p3d.scores.accuracy import Accuracy, shows_top5
from p3d.scores.figures import describe_top1
from p3d.scores.output import write_accuracy
from p3d.scores.score_file import collect_scores, write_score_file
from p3d.system.device import Precision
from p3d.system.files import replacing_together, write_json
from p3d.system.folders import results_folder
from p3d.system.machine import describe_call
from p3d.system.text import counted, first_lines, format_percent, format_table


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Attributes:
        dataset: The videos.
        protocol: How their clips were made.
        split: The split that the videos are.
        precision: Arithmetic of the network.
        scored: The network's scores.
        accuracy: Metrics over the videos.
        clips: What there is to say about numbers of clips.
        overlap: Videos that the network was trained on; None if that is not known.
        seconds: Time that it took.
        device: The devices, in words.
    """

    dataset: VideoDataset
    protocol: Protocol
    split: Split
    precision: Precision
    scored: VideoScores
    accuracy: Accuracy
    clips: ClipReport
    overlap: Overlap | None
    seconds: float
    device: str

    @property
    def seen(self) -> dict[int, float]:
        """The part that the clips span of each video, by index.

        It is empty for a number of clips that differs between videos.
        """
        prep, views, clips = self.protocol.prep, self.protocol.views, self.protocol.clips
        if clips == "auto":
            return {}
        size = (prep.num_frames, prep.frame_stride, clips, views.spacing)
        return {
            index: seen_fraction(spaced_windows(length, *size), length)
            for index, length in self.lengths.items()
        }

    @property
    def lengths(self) -> dict[int, int]:
        """Number of steps that the clips of each video were chosen from, by index."""
        scored = self.scored
        return dict(zip(scored.indices.tolist(), scored.lengths.tolist(), strict=False))


def summarize(result: Result) -> str:
    """Return the figures of an evaluation and what limits them, for people."""
    accuracy, dataset, scored = result.accuracy, result.dataset, result.scored
    columns = {
        "videos": str(accuracy.videos),
        "top-1": format_percent(accuracy.top1),
        "top-5": format_percent(accuracy.top5),
        "mean class": format_percent(accuracy.mean_class),
        "loss": f"{accuracy.loss:.4f}",
        "seconds": f"{result.seconds:.1f}",
    }
    if not shows_top5(len(dataset.class_names)):
        del columns["top-5"]
    lines = [] if result.protocol.is_default else [result.protocol.describe()]
    lines.append(format_table([*columns], [[*columns.values()]]))
    is_right = (scored.probabilities.argmax(1) == scored.labels).numpy()
    groups = [dataset.records[index].group for index in scored.indices.tolist()]
    lines.append(describe_top1(is_right, groups))
    if dataset.missing:
        lines.append(f"NOT MEASURED: {counted(dataset.missing, 'listed video')} not found")
    lines += [*dataset.remarks(), *assumed_rates(dataset, result.protocol.prep)]
    if bad := result.scored.bad:
        lines.append(f"NOT MEASURED: {counted(len(bad), 'video')} that cannot be read:")
        lines += first_lines(bad)
    lines += [*result.clips.lines, *_describe_seen(result)]
    if result.overlap is not None and (message := result.overlap.message(result.split)):
        lines.append(printable(message))
    return "\n".join(lines)


def _describe_seen(result: Result) -> list[str]:
    """Say how much of the videos the clips saw, unless they saw all of them."""
    seen = result.seen
    partly = [index for index, part in seen.items() if part < 1]
    if not partly:
        return []
    protocol = result.protocol
    prep, clips = protocol.prep, protocol.clips
    least, mean = min(seen.values()), sum(seen.values()) / len(seen)
    lines = [
        f"seen: {format_percent(mean)} of the frames of a video on average, at least "
        f"{format_percent(least)}, by {clips} clip{'s' * (clips != 1)}"
    ]
    if protocol.name == "weights":  # the others have a fixed number of clips
        longest = max(result.lengths[index] for index in partly)
        needed = clips_to_see_all(longest, prep.num_frames, prep.frame_stride)
        lines.append(f"--clips {needed} spans all frames")
    return lines


def write_result(
    folder: Path,
    result: Result,
    options: Mapping[str, Any],
    weights_sha256: str,
    calibration: Mapping[str, float],
    orders: Sequence[OrderResult] = (),
) -> None:
    """Write the files of an evaluation, all of them or none.

    Args:
        folder: Folder for the files; it is made if it is not there.
        result: The result.
        options: Options of the command as plain values.
        weights_sha256: SHA-256 of the weight file.
        calibration: Values stored with the weights, see `P3D.calibration`.
        orders: The comparison with other orders of the frames, for a table of its own.

    Raises:
        UserError: A file cannot be written.
    """
    metrics = _metrics(result, options, weights_sha256, calibration)
    protocol = {
        "split": result.split,
        "precision": result.precision,
        **result.protocol.record(),
        "preprocessing": result.protocol.prep.to_dict(),
    }
    scores = collect_scores(result.dataset, result.scored, protocol, weights_sha256)
    with results_folder(folder), replacing_together(folder, last=METRICS_FILE) as drafts:
        write_json(drafts / METRICS_FILE, metrics)
        write_accuracy(drafts, result.accuracy, result.dataset.class_names)
        write_scores(drafts / SCORES_FILE, result.dataset, result.scored)
        write_score_file(drafts / LOGITS_FILE, scores)
        if orders:
            write_motion(drafts / MOTION_FILE, orders)


def _metrics(
    result: Result,
    options: Mapping[str, Any],
    weights_sha256: str,
    calibration: Mapping[str, float],
) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    accuracy, overlap, seen = result.accuracy, result.overlap, result.seen
    return {
        "videos": accuracy.videos,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "mean_class": accuracy.mean_class,
        "loss": accuracy.loss,
        "missing": result.dataset.missing,
        "bad": list(result.scored.bad),
        "trained_on": None if overlap is None else len(overlap.names),
        "seen": sum(seen.values()) / len(seen) if seen else None,
        **result.clips.record,
        "protocol": result.protocol.record(),
        "weights_sha256": weights_sha256,
        "calibration": calibration,
        "seconds": result.seconds,
        "clips_scored": int(result.scored.clips_used.sum()),
        "device": result.device,
        "precision": result.precision,
        **describe_call(),
        "options": options,
    }


def renew_report(folder: Path) -> None:
    """Write the report of a run or of an evaluation again, and say so."""
    try:
        page = write_report(folder)
    except UserError as error:
        print(f"no report: {printable(error)}")
    else:
        if page is not None:
            print(f"page: {printable(page)}")
