"""Descriptions of devices."""

from __future__ import annotations

import pytest
import torch

from p3d.system.device import describe_device


@pytest.mark.parametrize(("threads", "text"), [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
def test_cpu_is_described_by_its_threads(threads: int, text: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert describe_device(torch.device("cpu")) == text
    finally:
        torch.set_num_threads(before)
