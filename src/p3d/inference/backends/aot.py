"""AOTInductor packages (.pt2): the network as compiled code.

A package is a zip archive with a shared library. Loading one runs its code, so it must be trusted
like a program. Its metadata is read, and its machine checked, before it is loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from p3d.errors import UserError
from p3d.system.compiler import find_compiler, use_cache
from p3d.system.machine import instruction_sets

_ENTRY = "/extra/p3d.json"
_MAX_METADATA = 2**24


def _check_torch() -> None:
    if not hasattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader"):
        raise UserError(f".pt2 packages need torch 2.6, this is {torch.__version__}; upgrade torch")


def write_package(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Compile a program to a package.

    Raises:
        UserError: This torch is too old, or there is no compiler.
    """
    import torch._inductor

    _check_torch()
    if find_compiler() is None:
        raise UserError(
            "a .pt2 package needs a C++ compiler; install g++ or clang, which CXX must name if set"
        )
    use_cache()
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"freezing": True}
        )
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(root + _ENTRY, json.dumps(metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a package, without loading its code.

    Raises:
        UserError: It is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(_ENTRY)), None)
            if name is None:
                return {}
            if archive.getinfo(name).file_size > _MAX_METADATA:
                raise ValueError("too large")
            values = json.loads(archive.read(name))
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"it is no package, or damaged ({error}); export it again") from error
    return {str(key): str(value) for key, value in values.items()}


def check_machine(metadata: Mapping[str, str], device_type: str, compiled_for: str) -> None:
    """Check that a package was compiled for this machine.

    Raises:
        UserError: It needs another torch, processor or device.
    """
    _check_torch()
    if metadata["torch_version"] != torch.__version__:
        raise UserError(
            f"it was compiled by torch {metadata['torch_version']}, this is {torch.__version__}; "
            "export it again with this torch"
        )
    if device_type != compiled_for:
        raise UserError(
            f"it was compiled for {compiled_for}; use --device {compiled_for}, or export it again "
            f"with --device {device_type}"
        )
    missing = set(metadata["instructions"].split()) - instruction_sets()
    if missing and compiled_for == "cpu":
        shown = ", ".join(sorted(missing)[:4])
        raise UserError(
            f"it was compiled for a processor with {shown}, which this one lacks; export it again "
            "on this machine, or use .onnx"
        )


def open_package(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a package; its code is run.

    Raises:
        UserError: It cannot be loaded.
    """
    try:
        return _load(str(path))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"it cannot be loaded ({reason}); export it again") from error


def _load(path: str) -> Callable[[Tensor], Tensor]:
    """Load a package of one input and one output.

    PyTorch's own function for it imports its compiler and compiles test programs, which takes
    more than two seconds; it is for versions whose loader has other arguments.
    """
    loader_type: Any = torch._C._aoti.AOTIModelPackageLoader
    try:
        loader = loader_type(path, "model", False, 1, -1)
    except TypeError:
        from torch._inductor import aoti_load_package

        call: Callable[[Tensor], Tensor] = aoti_load_package(path)
        return call

    def run(clips: Tensor) -> Tensor:
        outputs: list[Tensor] = loader.boxed_run([clips])
        return outputs[0]

    return run
