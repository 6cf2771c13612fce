"""What `p3d audit` prints and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p3d.errors import printable
from p3d.evaluation.audit_classes import ClassPair
from p3d.evaluation.audit_duplicates import Duplicate
from p3d.evaluation.audit_labels import LabelAudit, Suspect
from p3d.run_folder import AUDIT_FILE, AUDIT_VERSION
from p3d.scores.arrays import Integers
from p3d.scores.score_file import ScoreFile
from p3d.scores.tables import format_interval
from p3d.system.csv_file import write_csv
from p3d.system.files import file_sha256, replacing_together, write_json
from p3d.system.text import counted, fill, format_percent, format_table, shorten, shorten_path

_WEAK = 0.9
"""Below this accuracy, many of the suspects are mistakes of the network."""
NO_FEATURES = (
    "near-duplicates, and copies in other splits: not looked for; give --features FILE of p3d "
    "features"
)
"""The remark where only the videos that have scores were compared, by their content."""
_COLUMNS = ("finding", "video", "class", "other_video", "other_class", "value", "across")


@dataclass(frozen=True)
class Audit:
    """What looks wrong with the videos of an evaluation.

    Attributes:
        scores: The scores of the videos with a label.
        min_videos: Fewest videos of a class that is checked.
        similarity: Smallest cosine similarity of near-duplicates.
        labels: What confident learning says about the labels.
        pairs: Classes that cannot be told apart.
        classes: The classes that were checked.
        accuracy: Top-1 accuracy of the network, in [0, 1].
        duplicates: Videos that occur twice.
        remarks: What limits the findings.
    """

    scores: ScoreFile
    min_videos: int
    similarity: float
    labels: LabelAudit
    pairs: tuple[ClassPair, ...]
    classes: Integers
    accuracy: float
    duplicates: tuple[Duplicate, ...] = ()
    remarks: tuple[str, ...] = ()

    def with_duplicates(self, duplicates: Sequence[Duplicate], remarks: Sequence[str]) -> Audit:
        """Return the audit with videos that occur twice, and more remarks."""
        remarks = (*self.remarks, *remarks)
        return replace(self, duplicates=tuple(duplicates), remarks=remarks)

    @property
    def suspects(self) -> list[Suspect]:
        """Videos whose labels look wrong, the largest margin first.

        Those that look like a class which the network cannot tell from theirs are left out: its
        answer is no evidence.
        """
        same = {(pair.first, pair.second) for pair in self.pairs}
        same |= {(second, first) for first, second in same}
        return [each for each in self.labels.suspects if (each.label, each.suggestion) not in same]

    @property
    def unchecked(self) -> list[str]:
        """Names of the classes with too few videos."""
        checked = set(self.classes.tolist())
        names = enumerate(self.scores.class_names)
        return [name for number, name in names if number not in checked]


def describe_audit(audit: Audit, shown: int) -> str:
    """Return the findings for people, the first of each kind."""
    sections = (_labels(audit, shown), _duplicates(audit, shown), _classes(audit, shown))
    return "\n\n".join(["\n".join(lines) for lines in sections] + list(_limits(audit)))


def _labels(audit: Audit, shown: int) -> Iterator[str]:
    found, names = audit.suspects, audit.scores.class_names
    count = f"{len(found):,} of {counted(audit.labels.checked, 'label')}"
    yield f"{count} {'looks' if len(found) == 1 else 'look'} wrong{':' if found else ''}"
    if found:
        rows = [
            (
                shorten_path(printable(audit.scores.paths[each.video])),
                shorten(printable(names[each.label]), 16),
                format_percent(each.probability),
                shorten(printable(names[each.suggestion]), 16),
                format_percent(each.suggested),
            )
            for each in found[:shown]
        ]
        yield format_table(("video", "class", "", "looks like", ""), rows)
        yield from _more(len(found) - shown)
    if found and audit.accuracy < _WEAK:
        yield (
            f"The network is right about {format_percent(audit.accuracy)} of the videos: many of "
            "these are\nits own mistakes. The first ones are worth a look."
        )
    if left_out := len(audit.labels.suspects) - len(found):
        yield f"({left_out:,} more look like a class that the network cannot tell from theirs)"


def _duplicates(audit: Audit, shown: int) -> Iterator[str]:
    found = audit.duplicates
    same = sum(each.kind == "same content" for each in found)
    looked = NO_FEATURES not in audit.remarks
    near = f"; {counted(len(found) - same, 'pair')} nearly so, by features" if looked else ""
    yield f"{counted(same, 'pair')} of videos with the same content{near}{':' if found else ''}"
    if found:
        rows = [
            (
                shorten_path(printable(each.first.path), 25),
                shorten_path(printable(each.second.path), 25),
                "same" if each.kind == "same content" else f"{each.cosine:.3f}",
                each.across.replace(" and ", ", "),
            )
            for each in found[:shown]
        ]
        yield format_table(("video", "other", "cosine", "across"), rows)
        yield from _more(len(found) - shown)


def _classes(audit: Audit, shown: int) -> Iterator[str]:
    found, names = audit.pairs, audit.scores.class_names
    pairs = len(audit.classes) * (len(audit.classes) - 1) // 2
    yield (
        f"{len(found):,} of {counted(pairs, 'pair')} of classes cannot be told apart"
        f"{':' if found else ''}"
    )
    if found:
        rows = [
            (
                shorten(printable(names[each.first]), 22),
                shorten(printable(names[each.second]), 22),
                format_percent(each.right),
                format_interval(each.interval),
            )
            for each in found[:shown]
        ]
        yield format_table(("class", "other", "right", "95% interval"), rows)
        yield from _more(len(found) - shown)
        yield "right: if only the two can be chosen; 50% is chance"


def _more(count: int) -> Iterator[str]:
    if count > 0:
        yield f"({count:,} more: --top, or audit.csv)"


def _limits(audit: Audit) -> Iterator[str]:
    remarks = list(audit.remarks)
    if few := audit.unchecked:
        shown = ", ".join(few[:3]) + (", ..." if len(few) > 3 else "")
        remarks.append(
            f"not checked: {counted(len(few), 'class')} with fewer than {audit.min_videos} videos "
            f"({shown})"
        )
    if remarks:
        yield "\n".join(fill(printable(remark)) for remark in remarks)


def write_audit(folder: Path, audit: Audit, source: Path) -> None:
    """Write `audit.csv` and `audit.json`.

    Args:
        folder: Existing folder.
        audit: The findings.
        source: The file of scores, whose digest says which scores the findings are of.

    Raises:
        UserError: A file cannot be written.
    """
    plain = _plain(audit)
    head = {"version": AUDIT_VERSION, "scores_sha256": file_sha256(source)}
    with replacing_together(folder, last=AUDIT_FILE) as drafts:
        write_json(drafts / AUDIT_FILE, head | plain)
        write_csv(drafts / "audit.csv", _COLUMNS, _rows(plain))


def _plain(audit: Audit) -> dict[str, Any]:
    """Return the findings as plain values."""
    names, paths = audit.scores.class_names, audit.scores.paths
    return {
        "videos": len(paths),
        "accuracy": audit.accuracy,
        "min_videos": audit.min_videos,
        "similarity": audit.similarity,
        "remarks": list(audit.remarks),
        "unchecked_classes": audit.unchecked,
        "thresholds": {names[k]: float(audit.labels.thresholds[k]) for k in audit.classes.tolist()},
        "checked_labels": audit.labels.checked,
        "labels": [
            {
                "video": paths[each.video],
                "class": names[each.label],
                "looks_like": names[each.suggestion],
                "probability": each.probability,
                "other_probability": each.suggested,
                "margin": each.margin,
            }
            for each in audit.suspects
        ],
        "labels_left_out": len(audit.labels.suspects) - len(audit.suspects),
        "duplicates": [
            {
                "kind": each.kind,
                "video": each.first.path,
                "class": each.first.label,
                "other_video": each.second.path,
                "other_class": each.second.label,
                "cosine": each.cosine,
                "across": each.across,
            }
            for each in audit.duplicates
        ],
        "classes": [
            {
                "class": names[each.first],
                "other_class": names[each.second],
                "right": each.right,
                "low": each.interval.low,
                "high": each.interval.high,
                "groups": each.groups,
            }
            for each in audit.pairs
        ],
    }


def _rows(plain: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield the findings as lines with `_COLUMNS`."""
    for each in plain["labels"]:
        margin = f"{each['margin']:.4f}"
        yield "label", each["video"], each["class"], "", each["looks_like"], margin, ""
    for each in plain["duplicates"]:
        cosine = f"{each['cosine']:.4f}"
        first = (each["kind"], each["video"], each["class"])
        yield (*first, each["other_video"], each["other_class"], cosine, each["across"])
    for each in plain["classes"]:
        yield "classes", "", each["class"], "", each["other_class"], f"{each['right']:.4f}", ""
