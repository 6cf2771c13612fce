"""A short run of the fuzzer for weight files; `fuzz_weights.py` runs longer by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="limits on memory are Unix's")
FUZZER = Path(__file__).with_name("fuzz_weights.py")


def test_damaged_files_give_a_network_or_a_user_error() -> None:
    paths = [FUZZER.parents[2] / "src", FUZZER.parents[1]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(FUZZER), "--seconds", "1", "--seed", "1", "--batch", "80"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 files, 0 failures" in done.stdout
