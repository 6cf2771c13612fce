"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p3d.prepare.sample import write_sample


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Use one thread: faster for small tensors, and results do not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set with one or two videos per class in each split."""
    folder = tmp_path_factory.mktemp("sample") / "set"
    write_sample(
        folder, train_groups=2, validation_groups=1, test_groups=1, clips_per_group=1, workers=0
    )
    return folder
