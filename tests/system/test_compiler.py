"""The C++ compiler that PyTorch calls."""

from __future__ import annotations

import sys

import pytest

from p3d.system.compiler import find_compiler


def test_cxx_is_the_only_compiler_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    assert find_compiler() == sys.executable
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert find_compiler() is None
