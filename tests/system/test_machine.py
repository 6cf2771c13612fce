"""Descriptions of the machine."""

from __future__ import annotations

import os

import pytest
import torch

from p3d.system.machine import describe_machine, describe_processor, num_cores


def test_only_cores_that_the_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, words in (({3}, ", 1 core"), ({0, 1, 5}, ", 3 cores")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=allowed: cores, raising=False)
        assert num_cores() == len(allowed)
        assert describe_processor().endswith(words)
        assert describe_machine(torch.device("cpu"))["processor"] == describe_processor()
