"""Python imports this module at its start if this folder is in PYTHONPATH.

It makes P3D-63 narrow when `p3d.model.config` is imported. It imports neither PyTorch nor p3d
itself: many processes of a command need no network.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from helpers.narrow_sizes import BLOCKS, PLANES


class NarrowNetworks(MetaPathFinder):
    """Changes the sizes in `p3d.model.config` before another module copies them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec, with a loader that changes it; None for other modules."""
        if fullname != "p3d.model.config":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            module.BLOCKS["p3d63"] = BLOCKS
            module.PLANES = PLANES  # type: ignore[attr-defined]
            module.FEATURES = PLANES[-1] * module.EXPANSION  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, NarrowNetworks())
