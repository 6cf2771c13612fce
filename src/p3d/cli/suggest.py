"""Suggestions for mistyped names, and for the names that other toolkits use."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_OPTIONS = {
    "--arch": "--network",
    "--backbone": "--network",
    "--depth": "--network",
    "--model": "--network",
    "--amp": "--precision",
    "--bf16": "--precision",
    "--fp16": "--precision",
    "--half": "--precision",
    "--bs": "--batch-size",
    "--ckpt": "--weights",
    "--checkpoint": "--weights",
    "--init": "--weights",
    "--load-from": "--weights",
    "--pretrain": "--weights",
    "--pretrained": "--weights",
    "--clip-len": "--num-frames",
    "--clip-length": "--num-frames",
    "--frames-per-clip": "--num-frames",
    "--input-size": "--crop",
    "--img-size": "--crop",
    "--image-size": "--crop",
    "--size": "--crop",
    "--cuda": "--device",
    "--gpu": "--device",
    "--gpus": "--device",
    "--data-path": "--data",
    "--dataset": "--data",
    "--input": "--data",
    "--root": "--data",
    "--cfg": "--config",
    "--dry-run": "--plan",
    "--early-stopping": "--patience",
    "--iterations": "--max-steps",
    "--steps": "--max-steps",
    "--learning-rate": "--lr",
    "--grad-clip": "--clip-gradients",
    "--num-workers": "--workers",
    "--jobs": "--workers",
    "--nproc": "--workers",
    "--output": "--out",
    "--output-dir": "--out",
    "--log-dir": "--out",
    "--logdir": "--out",
    "--save-dir": "--out",
    "--work-dir": "--out",
    "--save-freq": "--save-steps",
    "--scheduler": "--schedule",
    "--lr-scheduler": "--schedule",
    "--stride": "--frame-stride",
    "--sampling-rate": "--frame-stride",
    "--top-k": "--top",
    "--topk": "--top",
    "--val": "--validation-fraction",
    "--val-split": "--validation-fraction",
    "--wd": "--weight-decay",
    "-b": "--batch-size",
    "-d": "--data",
    "-e": "--epochs",
    "-j": "--workers",
    "-o": "--out",
    "-w": "--weights",
}
"""Options of other toolkits, and ours for the same."""

_COMMANDS = {
    "benchmark": "bench model",
    "classify": "predict",
    "describe": "info",
    "evaluate": "eval",
    "finetune": "train",
    "fit": "train",
    "infer": "predict",
    "inference": "predict",
    "test": "eval",
    "val": "eval",
    "validate": "eval",
}
"""Commands of other toolkits, and ours for the same."""
_VALUES = {
    "gpu": "cuda",
    "half": "fp16",
    "float16": "fp16",
    "float32": "fp32",
    "bfloat16": "bf16",
    "val": "validation",
    "valid": "validation",
}
"""Values that other toolkits use, and ours for the same."""


def closest(word: str, names: Iterable[str]) -> str:
    """Return the name that a word most likely stands for, or ""."""
    known = list(names)
    foreign = {
        other: ours
        for table in (_OPTIONS, _COMMANDS, _VALUES)
        for other, ours in table.items()
        if ours in known and other.startswith("-") == word.startswith("-")
    }
    if word in foreign:
        return foreign[word]
    misspelled = get_close_matches(word, foreign, n=1, cutoff=0.85)
    word = word.lstrip("-")
    bare = {name.split()[-1].lstrip("-"): name for name in reversed(known)}  # prepare check: check
    bare |= {name.lstrip("-"): name for name in known}
    longer = sorted((name for name in bare if len(word) > 2 and name.startswith(word)), key=len)
    counts = [name for name in bare if f"num-{word}" == name or f"num-{name}" == word]
    near = [name for name in bare if _is_near(word, name)]
    similar = get_close_matches(word, near, n=1, cutoff=0)
    ours = [bare[name] for name in [*longer, *counts, *similar]]
    return next(iter([*ours, *(foreign[name] for name in misspelled)]), "")


def _is_near(word: str, name: str) -> bool:
    """Return whether a word is a name with slips of the keyboard, perhaps without its hyphens."""
    parts, others = word.split("-"), name.split("-")
    if len(parts) == len(others):
        return all(map(_is_typo, parts, others))
    return _is_typo(word.replace("-", ""), name.replace("-", ""))


def _is_typo(word: str, name: str) -> bool:
    """Return whether a word begins like another and differs from it in one to three letters."""
    allowed = 1 + min(len(word), len(name)) // 6
    return word[:1] == name[:1] and _edits(word, name) <= min(3, allowed)


def _edits(word: str, name: str) -> int:
    """Return how many letters are inserted, removed, replaced or swapped with their neighbors."""
    before: list[int] = []
    row: list[int] = [*range(len(name) + 1)]
    for i, letter in enumerate(word, start=1):
        before, above, row = row, before, [i]
        for j, other in enumerate(name, start=1):
            least = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, word[i - 2]) == (name[j - 2], other):
                least = min(least, above[j - 2] + 1)
            row.append(least)
    return row[-1]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return "did you mean NAME? " for a mistyped name, or "" if none is close."""
    name = closest(word, names)
    return f"did you mean {name}? " if name else ""
