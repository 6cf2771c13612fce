"""The parts of a run's report below its headline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from p3d.errors import BadVideoError, UserError
from p3d.report.curves import draw_curves
from p3d.report.figures import draw_confusion_matrix
from p3d.report.html import (
    NOTHING,
    Html,
    chart,
    count,
    decimal,
    duration,
    escape,
    jpeg_image,
    rate,
    section,
    share,
    table,
)
from p3d.report.record import Answers, RunRecord, number
from p3d.video.thumbnails import encode_jpeg, video_strip

_CLIPS_SHOWN = 6
_MISTAKES_SHOWN = 8
_EVENTS_SHOWN = 20


def curves(record: RunRecord) -> str:
    """Every curve that the log has numbers for."""
    charts = draw_curves(record)
    if not charts:
        return section("Curves", "The log has no numbers to draw yet.")
    figures = "\n".join(chart(*drawn) for drawn in charts)
    return section("Curves", "", f'<div class="pair">{figures}</div>')


_EPOCH_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("train_loss", "training loss", decimal),
    ("train_top1", "training top-1", share),
    ("train_top5", "training top-5", share),
    ("validation_loss", "validation loss", decimal),
    ("validation_top1", "validation top-1", share),
    ("validation_top5", "validation top-5", share),
    ("seconds", "time", duration),
    ("clips_per_second", "clips a second", rate),
    ("data_wait", "data wait", share),
    ("bad_videos", "skipped", count),
    ("overflows", "overflows", count),
)


def epochs(record: RunRecord) -> str:
    """The log's figures of each epoch."""
    lines = record.epochs
    if not lines:
        return ""
    shown = [entry for entry in _EPOCH_COLUMNS if any(entry[0] in line for line in lines)]
    rows = [
        (line.get("epoch", NOTHING), *(form(number(line, name)) for name, _, form in shown))
        for line in lines
    ]
    best = next((place for place, line in enumerate(lines) if line is record.best), None)
    note = "The one with the best top-1 on the validation list is marked."
    return section(
        "Epochs",
        note if best is not None else "",
        table(("epoch", *(head for _, head, _ in shown)), rows, text=(), best=best),
    )


def classes(record: RunRecord) -> str:
    """What the best network makes of the classes: the matrix, the classes, the mistakes."""
    answers = record.answers
    if answers is None:
        return section("Classes", _why_no_answers(record)) if record.epochs else ""
    accuracy, best = answers.accuracy, record.best
    of = f"network of epoch {best.get('epoch', '?')}" if best else "best network"
    note = (
        f"The {accuracy.videos:,} videos of the validation list, by the {of}: top-1 "
        f"{share(accuracy.top1)}, top-5 {share(accuracy.top5)}, mean of the classes "
        f"{share(accuracy.mean_class)}."
    )
    matrix = chart(*draw_confusion_matrix(answers))
    listed = f"<h3>Classes, the hardest first</h3>{_class_table(answers)}{_mistakes(answers)}"
    return section("Classes", note, f'<div class="pair">{matrix}<div>{listed}</div></div>')


def _why_no_answers(record: RunRecord) -> str:
    if record.best is not None:
        return "validation.csv is not there, so the answers of the best network are not known."
    return "The run has no validation list: nothing was measured on videos it did not see."


def _class_table(answers: Answers) -> str:
    accuracy = answers.accuracy
    totals = accuracy.confusion.sum(1).tolist()
    rows = [
        (place + 1, name, total, top1)
        for place, (name, total, top1) in enumerate(
            zip(answers.class_names, totals, accuracy.per_class, strict=True)
        )
    ]
    rows.sort(key=lambda row: (row[3] is None, row[3]))
    return table(
        ("no.", "class", "videos", "top-1"),
        [(place, name, count(total), _bar(top1)) for place, name, total, top1 in rows],
        text=(1,),
    )


def _bar(part: float | None) -> Html:
    if part is None:
        return Html('<span class="muted">no video</span>')
    return Html(f'{share(part)}<meter value="{part:.4f}" aria-hidden="true"></meter>')


def _mistakes(answers: Answers) -> str:
    pairs = answers.mistakes(_MISTAKES_SHOWN)
    if not pairs:
        return '<p class="after">No video was taken for one of another class.</p>'
    rows = [
        (name, answer, f"{times:,} of {total:,}", share(times / total))
        for name, answer, times, total in pairs
    ]
    listed = table(("class", "taken for", "videos", "share"), rows, text=(0, 1))
    return f'<h3 class="after">Most frequent mistakes</h3>{listed}'


def clips(record: RunRecord) -> str:
    """The videos that the best network is surest of, rightly and wrongly."""
    answers = record.answers
    if answers is None:
        return ""
    right, wrong = answers.surest
    return section(
        "Videos",
        "Four frames of each, at even distances. The score is the probability of the answer.",
        f"<h3>Right, and surest of it</h3>{_cards(answers, right, 'No answer is right.')}",
        f"<h3>Wrong, and surest of it</h3>{_cards(answers, wrong, 'No answer is wrong.')}",
    )


def _cards(answers: Answers, places: list[int], none: str) -> str:
    if not places:
        return f'<p class="note">{none}</p>'
    cards = "\n".join(_card(answers, place) for place in places[:_CLIPS_SHOWN])
    return f'<div class="cards">\n{cards}\n</div>'


def _card(answers: Answers, place: int) -> str:
    path, scores = Path(answers.paths[place]), answers.scores[place].nan_to_num(0.0)
    label, answer = int(answers.labels[place]), int(scores.argmax())
    name, given = answers.class_names[label], answers.class_names[answer]
    score = share(float(scores[answer]))
    if label == answer:
        words = f'<b>{escape(name)}</b> <b class="right">{score}</b>'
    else:
        own = share(float(scores[label]))
        words = (
            f"<b>{escape(name)}</b> ({own}) taken for <b>{escape(given)}</b> "
            f'<b class="wrong">{score}</b>'
        )
    try:
        picture = jpeg_image(encode_jpeg(video_strip(path)), f"Frames of {path.name}")
    except (UserError, ValueError) as error:
        reason = error.reason if isinstance(error, BadVideoError) else str(error)
        picture = f'<p class="gone">No picture: {escape(reason)}</p>'
    return (
        f"<figure>{picture}<figcaption>{words}"
        f'<span title="{escape(path)}">{escape(path.name)}</span></figcaption></figure>'
    )


def events(record: RunRecord) -> str:
    """What else the log tells; nothing where it tells no more."""
    lines = record.others
    if not lines:
        return ""
    rows = [
        (
            f"{line['step']:,}",
            line["event"],
            ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("event", "step")),
        )
        for line in lines[-_EVENTS_SHOWN:]
    ]
    note = f"The last {len(rows)} of {len(lines):,}." if len(rows) < len(lines) else ""
    return section("Events", note, table(("step", "event", "details"), rows, text=(1, 2)))


def configuration(record: RunRecord) -> str:
    """The options of the run, and what it ran on."""
    if not record.config and not record.environment:
        return section("Configuration", "Neither config.json nor environment.json is there.")
    options = {name: value for name, value in record.config.items() if name != "recipe"}
    listed = [
        f'<div class="options"><h3>{title}</h3>{_value_table(_flatten(values))}</div>'
        for title, values in (
            ("Recipe", record.recipe),
            ("Options", options),
            ("Environment", record.environment),
        )
        if values
    ]
    left, right = listed[:1], listed[1:]
    return section(
        "Configuration",
        "",
        f'<div class="pair"><div>{"".join(left)}</div><div>{"".join(right)}</div></div>',
    )


def _flatten(values: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    """Names and values, those of options inside options as well."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        else:
            yield name.replace("_", " "), value


def _value_table(values: Iterable[tuple[str, object]]) -> str:
    rows = [(name, _show(value)) for name, value in values]
    return table((), rows, text=(0, 1))


def _show(value: object) -> object:
    if value is None or value == []:
        return Html('<span class="muted">none</span>')
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else value
