"""What an exported file takes and gives, and its metadata.

The metadata is a flat dict of strings: that of a weight file (`p3d.weights.metadata`) plus the
entries of this module. It is stored in each runtime's own place, so that the file is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from p3d import __version__
from p3d.errors import UserError
from p3d.model.config import CHANNELS, P3DConfig
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing, normalize
from p3d.system.device import Precision
from p3d.system.machine import instruction_sets
from p3d.weights.entries import read_metadata
from p3d.weights.metadata import metadata_of
from p3d.weights.safetensors_files import checksum

VERSION_KEY = "p3d_export"
VERSION = "1"
FileBackend = Literal["aot", "onnx", "openvino"]
SUFFIXES: dict[str, FileBackend] = {".pt2": "aot", ".onnx": "onnx", ".xml": "openvino"}

MIN_FREE_FRAMES = 16
MIN_FREE_SIZE = 48
MAX_FREE = 1024
"""Limits of clip lengths and sizes that a file leaves free."""


@dataclass(frozen=True)
class ExportSpec:
    """The form of an exported network.

    Attributes:
        backend: Runtime of the file.
        precision: Arithmetic of the network in it.
        batch: Clips in a batch; None leaves it free.
        frames: Frames of a clip; None leaves it free, from 16.
        size: Height and width in pixels; None leaves both free, from 48.
        with_preprocessing: The input is uint8 `(N, T, H, W, C)` and the output probabilities, in
            place of normalized pixels, float32 `(N, C, T, H, W)`, and logits.
        four_dims: The frames of all clips are one axis: uint8 `(N*T, H, W, C)` or float32
            `(N*T, C, H, W)`. No tensor in the network has more than four axes.
        int8: Weights and activations of the convolutions are 8-bit integers.
        opset: Version of the ONNX operators, for ONNX.
        device: Device type that a package was compiled for.
    """

    backend: FileBackend
    precision: Precision = "fp32"
    batch: int | None = 1
    frames: int | None = 16
    size: int | None = 160
    with_preprocessing: bool = False
    four_dims: bool = False
    int8: bool = False
    opset: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raise UserError if the fields do not fit together."""
        for name in ("batch", "frames", "size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10_000:
                raise UserError(f"--{name} is {value}; give 1 to 10000, or free")
        if self.four_dims and self.frames is None:
            raise UserError(
                "--four-dims needs a fixed clip length, by which it divides the frames into clips; "
                "give --frames a number"
            )
        if self.backend != "aot" and self.precision != "fp32":
            remedy = {
                "onnx": "export in fp32, or with --int8",
                "openvino": "export in fp32 and predict with --precision bf16",
            }[self.backend]
            raise UserError(f"a {self.backend} file cannot state {self.precision}; {remedy}")
        if self.backend == "aot" and self.size is None:
            raise UserError(
                "a .pt2 of free size gives other logits at other sizes, by an error of PyTorch's "
                "compiler; give --size a number, or export .onnx"
            )
        if self.int8 and self.backend == "openvino":
            raise UserError(
                "OpenVINO takes 8-bit networks as .onnx; give an output with this suffix, and run "
                "it with --backend openvino"
            )
        if self.int8 and (self.precision, self.device) != ("fp32", "cpu"):
            raise UserError(
                "--int8 takes no --precision and no --device, since convolutions compute with "
                "integers, on a CPU; omit them"
            )

    def check(self, shape: torch.Size) -> None:
        """Check the shape of clips, `(N, T, H, W, C)`.

        Raises:
            UserError: The file does not take it.
        """
        _, frames, height, width, _ = shape
        if self._fits(frames, self.frames, MIN_FREE_FRAMES) and all(
            self._fits(side, self.size, MIN_FREE_SIZE) for side in (height, width)
        ):
            return
        length = f"{MIN_FREE_FRAMES} to {MAX_FREE}" if self.frames is None else str(self.frames)
        side = f"{MIN_FREE_SIZE} to {MAX_FREE}" if self.size is None else str(self.size)
        raise UserError(
            f"takes clips of {length} frames of {side} px, not {frames} of "
            f"{height}x{width}; export it again with --frames {frames} --size {height}"
        )

    @staticmethod
    def _fits(value: int, fixed: int | None, least: int) -> bool:
        return least <= value <= MAX_FREE if fixed is None else value == fixed

    def prepare(self, clips: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Return the file's input for uint8 clips `(N, T, H, W, C)`."""
        if self.with_preprocessing:
            return clips.flatten(0, 1) if self.four_dims else clips
        pixels = normalize(clips, preprocessing)
        return pixels.transpose(1, 2).flatten(0, 1) if self.four_dims else pixels

    def logits(self, outputs: Tensor) -> Tensor:
        """Return logits, for the file's outputs: the logarithms of probabilities."""
        if not self.with_preprocessing:
            return outputs
        return outputs.clamp_min(torch.finfo(torch.float32).tiny).log()


def noise_clip(config: P3DConfig, frames: int, size: int, seed: int = 0) -> Tensor:
    """Return a clip of noise, uint8 `(1, T, H, W, C)`, the same on every machine and version."""
    count = frames * size * size * CHANNELS[config.modality]
    # Multiply-and-shift hashing, whose results do not depend on a random generator's version.
    hashed = (torch.arange(count) + seed * 7_919) * 2_654_435_761 % 2**32
    hashed = (hashed ^ (hashed >> 15)) * 2_246_822_519 % 2**32
    return (hashed >> 16).to(torch.uint8).reshape(1, frames, size, size, -1)


@dataclass(frozen=True)
class Reference:
    """A clip of `noise_clip` with its logits, by which a loaded file is checked.

    Attributes:
        frames: Frames of the clip.
        size: Height and width of the clip.
        logits: What the file gave where it was exported.
        tolerance: Limit of the relative error.
    """

    frames: int
    size: int
    logits: tuple[float, ...]
    tolerance: float


def to_metadata(
    model: P3D, spec: ExportSpec, reference: Reference, source: str | None
) -> dict[str, str]:
    """Return the metadata of an exported file."""
    return metadata_of(model, source=source) | {
        VERSION_KEY: VERSION,
        "export": json.dumps(asdict(spec)),
        "reference": json.dumps(asdict(reference)),
        "weights_hash": checksum(model.state_dict()),
        "p3d_version": __version__,
        "torch_version": torch.__version__,
        "instructions": " ".join(sorted(instruction_sets())),
    }


@dataclass(frozen=True)
class ExportDescription:
    """The metadata of an exported file.

    Attributes:
        config: The network.
        preprocessing: How its input is made.
        class_names: One name per class, if known.
        spec: The form of the file.
        reference: The clip that checks it.
        entries: All entries as text.
    """

    config: P3DConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    spec: ExportSpec
    reference: Reference
    entries: Mapping[str, str]


def from_metadata(metadata: Mapping[str, str]) -> ExportDescription:
    """Return the description in a file's metadata.

    Raises:
        UserError: The file is not from `p3d export`, or its metadata is damaged or newer.
    """
    if VERSION_KEY not in metadata:
        raise UserError(
            "it has no metadata of p3d, so its classes and preprocessing are unknown; make the "
            "file with `p3d export`"
        )
    if metadata[VERSION_KEY] != VERSION:
        raise UserError(
            f"its export version is {metadata[VERSION_KEY][:20]}, this p3d reads {VERSION}; "
            "upgrade p3d"
        )
    config, preprocessing, class_names = read_metadata(metadata)
    try:
        spec = ExportSpec(**json.loads(metadata["export"]))
        values: dict[str, Any] = json.loads(metadata["reference"])
        reference = Reference(**values | {"logits": tuple(map(float, values["logits"]))})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"its metadata is damaged ({error!r}); export it again") from error
    if len(reference.logits) != config.num_classes:
        raise UserError("its metadata is damaged (reference logits); export it again")
    return ExportDescription(config, preprocessing, class_names, spec, reference, dict(metadata))
