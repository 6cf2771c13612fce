"""What `p3d audit` found, as plain data for a page; `templates/audit.html` has the markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p3d.report.lines import number
from p3d.report.render import count, decimal, percent
from p3d.report.strips import embed_strip
from p3d.system.text import counted

_MAX_ROWS = 50
_MAX_VIDEOS = 8
_MAX_PAIRS = 4


def audit_content(audit: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the variables of the template `audit.html`.

    Args:
        audit: The content of `audit.json`.
        base: Folder that relative paths of videos start from.
    """
    labels, pairs, classes = (audit[name] for name in ("labels", "duplicates", "classes"))
    return {
        "label_title": _label_title(audit),
        "pair_title": f"{counted(len(pairs), 'pair')} of videos with the same content or nearly so",
        "class_title": f"{counted(len(classes), 'pair')} of classes cannot be told apart",
        "accuracy": number(audit, "accuracy"),
        "remarks": _remarks(audit),
        "num_labels": len(labels),
        "labels": [_label_row(each) for each in labels[:_MAX_ROWS]],
        "label_videos": [_suspect(each, base) for each in labels[:_MAX_VIDEOS]],
        "num_pairs": len(pairs),
        "pairs": [_pair_row(each) for each in pairs[:_MAX_ROWS]],
        "pair_videos": [each for pair in pairs[:_MAX_PAIRS] for each in _both(pair, base)],
        "num_classes": len(classes),
        "classes": [_class_row(each) for each in classes[:_MAX_ROWS]],
    }


def _label_title(audit: Mapping[str, Any]) -> str:
    found, checked = len(audit["labels"]), int(number(audit, "checked_labels", 0))
    return f"{found:,} of {counted(checked, 'label')} {'looks' if found == 1 else 'look'} wrong"


def _remarks(audit: Mapping[str, Any]) -> list[str]:
    remarks = [str(each) for each in audit["remarks"]]
    if left_out := number(audit, "labels_left_out", 0):
        remarks.append(
            f"{count(left_out)} more labels look like a class that the network cannot tell from "
            "theirs; they are left out"
        )
    if few := audit["unchecked_classes"]:
        limit = count(number(audit, "min_videos"))
        remarks.append(f"not checked: {len(few):,} classes with fewer than {limit} videos")
    return [each[:1].upper() + each[1:] for each in remarks]


def _label_row(each: Mapping[str, Any]) -> Sequence[str]:
    return (
        Path(str(each["video"])).name,
        str(each["class"]),
        percent(number(each, "probability")),
        str(each["looks_like"]),
        percent(number(each, "other_probability")),
    )


def _suspect(each: Mapping[str, Any], base: Path) -> dict[str, Any]:
    path = Path(str(each["video"]))
    return {
        "name": path.name,
        "label": each["class"],
        "label_score": number(each, "probability"),
        "predicted": each["looks_like"],
        "verb": "looks like",
        "score": number(each, "other_probability"),
        **embed_strip(path, base),
    }


def _pair_row(each: Mapping[str, Any]) -> Sequence[str]:
    is_same = each["kind"] == "same content"
    return (
        Path(str(each["video"])).name,
        str(each["class"]),
        Path(str(each["other_video"])).name,
        str(each["other_class"]),
        "same content" if is_same else decimal(number(each, "cosine")),
        str(each["across"]),
    )


def _both(pair: Mapping[str, Any], base: Path) -> list[dict[str, Any]]:
    """Return both videos of a pair."""
    named = ((pair["video"], pair["class"]), (pair["other_video"], pair["other_class"]))
    return [
        {"name": Path(str(path)).name, "label": name, **embed_strip(Path(str(path)), base)}
        for path, name in named
    ]


def _class_row(each: Mapping[str, Any]) -> Sequence[str]:
    low, high = percent(number(each, "low")), percent(number(each, "high"))
    right = percent(number(each, "right"))
    return (str(each["class"]), str(each["other_class"]), right, f"{low} to {high}")
