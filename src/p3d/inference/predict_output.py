"""What `p3d predict` prints and writes about each video."""

from __future__ import annotations

import sys
from typing import Any

from p3d.errors import BadVideoError, printable
from p3d.inference.arguments import Item, path_of
from p3d.inference.far_rates import describe_far_rates
from p3d.inference.predict_options import PredictOptions
from p3d.inference.prediction import UNKNOWN, Prediction
from p3d.inference.predictor import Predictor
from p3d.system.messages import print_note
from p3d.system.text import columns, counted, format_percent, format_table, json_line, pad
from p3d.video.sources import ASSUMED_FPS

_MAX_WIDTH = 40
"""Longest path for which the lines of other videos leave room."""


def make_record(
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


def make_file_record(record: dict[str, Any], result: Prediction | BadVideoError) -> dict[str, Any]:
    """Return a record for the file of answers."""
    row = {"path": record["video"], **record}
    if isinstance(result, Prediction):
        ((best, probability),) = result.top(1)
        row |= {"best": best, "probability": round(probability, 6)}
    del row["video"]
    return row


class Printer:
    """Prints results as JSON, as tables, or as lines in columns."""

    def __init__(
        self, class_names: tuple[str, ...], items: list[Item], options: PredictOptions
    ) -> None:
        self._options = options
        self._as_tables = options.top is not None or len(items) == 1
        names = [*class_names, UNKNOWN] if options.threshold else class_names
        paths = (str(path_of(item)) for item in items)
        self._widths = [
            max((n for n in (columns(printable(text)) for text in texts) if n <= limit), default=0)
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
        padded = [pad(printable(c), w) for c, w in zip(cells, self._widths, strict=True)]
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
        print_note(f"--clips {clips:,} would see {which} whole")

    def show_rates(self, predictor: Predictor) -> None:
        """Say which videos have a rate far from those of the training videos, and what it does."""
        prep = predictor.preprocessing
        if note := describe_far_rates(self._rates, predictor.rates, prep.fps):
            print_note(note)
        if prep.fps is not None and 0.0 in self._rates:
            count = counted(self._rates.count(0.0), "folder")
            print_note(f"{count} of frames taken as {ASSUMED_FPS:g} a second; or give --frame-rate")
