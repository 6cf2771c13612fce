"""OpenVINO files (.xml with a .bin beside it), by OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from p3d.errors import UserError
from p3d.system.device import Precision
from p3d.system.extras import load_extra

_KEY = "p3d"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def write_openvino(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program as an .xml and a .bin file.

    Raises:
        UserError: OpenVINO is missing.
        OSError: The files cannot be written.
    """
    openvino = load_extra("openvino", "openvino")
    model = openvino.convert_model(program)
    for key, value in metadata.items():
        model.set_rt_info(value, [_KEY, key])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # of its C++ streams
        raise OSError(str(error).strip().splitlines()[-1]) from error


def _read(openvino: Any, path: Path) -> Any:
    if path.suffix == ".xml":
        _check_files(path)
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120]
        raise UserError(f"OpenVINO refuses it ({reason}); export it again") from error


def _check_files(path: Path) -> None:
    """Check that there are both files, and that the first is XML: OpenVINO tries other formats."""
    if not path.with_suffix(".bin").exists():
        raise UserError(f"{path.with_suffix('.bin').name} is missing beside it; copy both files")
    with path.open("rb") as file:
        if not file.read(64).lstrip().startswith(b"<"):
            raise UserError("it is no OpenVINO file; export it again")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an OpenVINO file.

    Raises:
        UserError: OpenVINO is missing, or the file is damaged.
    """
    model = _read(load_extra("openvino", "openvino"), path)
    if not model.has_rt_info([_KEY]):
        return {}
    entries = model.get_rt_info([_KEY]).value
    return {key: str(getattr(value, "value", value)) for key, value in entries.items()}


def open_openvino(
    path: Path, device: torch.device, precision: Precision
) -> Callable[[Tensor], Tensor]:
    """Return the network of an OpenVINO or ONNX file.

    Raises:
        UserError: OpenVINO is missing or refuses the file, or the device is not the CPU.
    """
    if device.type != "cpu":
        raise UserError("p3d runs OpenVINO on the CPU only; use --device cpu")
    openvino = load_extra("openvino", "openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }
    compiled = openvino.Core().compile_model(_read(openvino, path), "CPU", settings)
    request = compiled.create_infer_request()

    def call(clips: Tensor) -> Tensor:
        request.infer([np.ascontiguousarray(clips.numpy())])
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return call
