"""Runtimes that are installed by an extra of p3d."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from p3d.errors import UserError


def load_extra(package: str, extra: Literal["onnx", "openvino", "archive", "ray", "remote"]) -> Any:
    """Import a package of an extra.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{package} is not installed ({error}); install it: pip install 'p3d[{extra}]'"
        ) from error
