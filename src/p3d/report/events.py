"""The events of a run in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p3d.report.lines import Line, number
from p3d.report.render import minute


def describe_events(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return step and description of what happened in a run besides steps and epochs.

    Checkpoints are one entry, the last one, with their number.

    Args:
        lines: All lines of the log.
    """
    checkpoints = [line for line in lines if line["event"] == "checkpoint"]
    hidden = {id(line) for line in checkpoints[:-1]}
    starts = [line for line in lines if line["event"] == "start"]
    events: list[tuple[str, str]] = []
    for line in lines:
        if id(line) in hidden or line["event"] == "step":
            continue
        for text in _describe(line, len(checkpoints), is_first=not starts or line is starts[0]):
            events.append((f"{line['step']:,}", text))
    return events


def is_failure(line: Line) -> bool:
    """Return whether a log line says that a file of the run could not be saved."""
    return "fail" in line["event"]


def _describe(line: Line, checkpoints: int, *, is_first: bool) -> Iterator[str]:
    event = line["event"]
    if event == "epoch":
        yield from _describe_epoch(line)
    elif event == "start":
        yield _describe_start(line, is_first=is_first)
    elif event == "checkpoint":
        count = "A checkpoint was" if checkpoints == 1 else f"{checkpoints:,} checkpoints were"
        size, seconds = number(line, "bytes") / 1e6, number(line, "seconds")
        yield f"{count} saved, the last of {size:,.0f} MB in {seconds:.2g} s"
    elif is_failure(line):
        what = "A checkpoint" if event.startswith("checkpoint") else "A file"
        yield f"{what} could not be saved: {line.get('reason', 'the reason is not known')}"
    else:
        details = [f"{key} {value}" for key, value in line.items() if key not in ("event", "step")]
        name = event.replace("-", " ")
        yield f"{name}: {', '.join(details)}" if details else name


def _describe_epoch(line: Line) -> Iterator[str]:
    if skipped := number(line, "bad_videos", 0):
        videos = (
            "video that cannot be read was" if skipped == 1 else "videos that cannot be read were"
        )
        yield f"Epoch {line.get('epoch', '?')}: {skipped:,.0f} {videos} skipped"
    if overflows := number(line, "overflows", 0):
        steps = "step was" if overflows == 1 else "steps were"
        yield f"Epoch {line.get('epoch', '?')}: {overflows:,.0f} {steps} skipped (fp16 overflow)"


def _describe_start(line: Line, *, is_first: bool) -> str:
    text = "Started" if is_first else "Resumed"
    parts = [f"{text} {minute(line.get('date'))}".strip()]
    if "processes" in line:
        processes = number(line, "processes")
        parts.append(f"{processes:,.0f} {'process' if processes == 1 else 'processes'}")
    if "clips_per_step" in line:
        parts.append(f"{number(line, 'clips_per_step'):,.0f} clips a step")
    if "learning_rate" in line:
        parts.append(f"learning rate {number(line, 'learning_rate'):g}")
    return ", ".join(parts)
