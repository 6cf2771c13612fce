"""Names of the backends, and how far their logits may differ from PyTorch's in fp32."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from p3d.system.device import Precision

Backend = Literal["eager", "compiled", "aot", "onnx", "openvino"]
BackendChoice = Literal["auto", "eager", "compiled", "aot", "onnx", "openvino"]

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Limits of `relative_error`."""

INT8_TOLERANCE = 0.15
"""Its limit for 8-bit networks. Every runtime rounds a little differently, which adds up over the
layers: 0.003 for a trained P3D-63, 0.08 for a P3D-199 with random weights."""


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, in units of the largest expected one."""
    scale = expected.abs().max().clamp_min(1e-6)
    return float(((logits - expected).abs().max() / scale).nan_to_num(float("inf")))
