"""A short run of the fuzzer for weights and checkpoints; `fuzz_weights.py` runs longer by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("resource", reason="limits on memory are Unix's")
from fuzz.fuzz_weights import run_batch


def test_damaged_files_give_a_network_or_a_user_error() -> None:
    counts, failures, _ = run_batch(seed=1, start=0, count=60)
    assert failures == []
    assert counts.total() == 60
