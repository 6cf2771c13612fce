"""Descriptions of devices."""

from __future__ import annotations

import pytest
import torch

from p3d.system.device import describe_device, one_cpu_thread


@pytest.mark.parametrize(("threads", "text"), [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
def test_cpu_is_described_by_its_threads(threads: int, text: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert describe_device(torch.device("cpu")) == text
    finally:
        torch.set_num_threads(before)


def test_one_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_cpu_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
