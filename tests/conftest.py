"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_networks import make_channels_few, make_networks_narrow
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


@pytest.fixture
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all networks have an eighth of the channels, at their full depth."""
    make_channels_few(monkeypatch)


@pytest.fixture(scope="module")
def few_channels_in_module() -> Iterator[None]:
    """Let all networks of a module's tests and fixtures have few channels, as `few_channels`."""
    with pytest.MonkeyPatch.context() as patch:
        make_channels_few(patch)
        yield


@pytest.fixture(scope="module")
def narrow_networks() -> Iterator[None]:
    """Let P3D-63 be narrow, here and in the Python processes that a module's tests start."""
    tests = Path(__file__).parent
    paths = (str(tests / "helpers" / "narrow"), str(tests), os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch:
        make_networks_narrow(patch)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        _stop_fork_server()
        yield
    _stop_fork_server()


def _stop_fork_server() -> None:
    """Let the next process of multiprocessing's fork server see the environment as it is then."""
    server: Any = getattr(forkserver, "_forkserver", None)  # no public name stops it
    if server is not None:  # Windows has none
        server._stop()
