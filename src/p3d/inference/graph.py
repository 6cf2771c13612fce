"""The module that is exported: a folded network with the form of input and output of a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from p3d.inference.backends.torch_network import inference_copy
from p3d.inference.export_spec import (
    MAX_FREE,
    MIN_FREE_FRAMES,
    MIN_FREE_SIZE,
    ExportSpec,
    noise_clip,
)
from p3d.model.network import P3D
from p3d.system.device import DTYPES


class ExportGraph(nn.Module):
    """A network in the form that a spec describes. Input and output are float32 or uint8."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: P3D, spec: ExportSpec) -> None:
        super().__init__()
        prep = model.preprocessing
        self.spec, self.flip = spec, prep.channels == "bgr"
        self.dtype = DTYPES[spec.precision]
        self.network = inference_copy(model, spec.device, spec.precision)
        mean, std = torch.tensor(prep.mean), torch.tensor(prep.std)
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """Map the input of the file to its output."""
        spec = self.spec
        if not spec.with_preprocessing and not spec.four_dims:
            logits: Tensor = self.network(clips.to(self.dtype)).float()
            return logits
        frames = spec.frames if spec.four_dims else clips.shape[1]
        assert frames is not None
        if spec.four_dims and spec.batch is None:
            clips = _whole_clips(clips, frames)
        images = (self._images(clips) if spec.with_preprocessing else clips).to(self.dtype)
        logits = self.network.fc(self.network.features_of_frames(images, frames)).float()
        return logits.softmax(-1) if spec.with_preprocessing else logits

    def _images(self, clips: Tensor) -> Tensor:
        """Map uint8 frames, channels last, to `(N*T, C, H, W)`, as `normalize` does."""
        images = clips if self.spec.four_dims else clips.flatten(0, 1)
        images = images.flip(-1) if self.flip else images
        return (images.float() * self.scale + self.shift).permute(0, 3, 1, 2)


def _whole_clips(images: Tensor, frames: int) -> Tensor:
    """Return the frames of clips with a number that is seen to be a multiple of the clips.

    Their values and shape stay the same. Without this, PyTorch's expressions for the sizes double
    in length with every change of view, and tracing a network of 16 blocks takes hours.
    """
    return images.narrow(0, 0, images.shape[0] // frames * frames)


def example(model: P3D, spec: ExportSpec) -> Tensor:
    """Return an input of a file; free axes get a size that nothing else has."""
    prep = model.preprocessing
    # At the last stage, these leave more than one frame and pixel, which PyTorch treats apart.
    frames = spec.frames or max(prep.num_frames, 2 * MIN_FREE_FRAMES)
    size = spec.size or max(prep.crop, 2 * MIN_FREE_SIZE)
    clip = noise_clip(model.config, frames, size)
    return spec.prepare(clip.repeat(spec.batch or 2, 1, 1, 1, 1), prep)


def _free_axes(spec: ExportSpec) -> dict[int, Any]:
    """Return the free axes of a file's input."""
    batch: Any = Dim("batch", min=1, max=MAX_FREE)
    free: dict[int, Any] = {}
    time, height = (1, 2) if spec.with_preprocessing else (2, 3)
    if spec.four_dims:
        height -= 1
        if spec.batch is None:
            free[0] = batch * spec.frames if spec.frames != 1 else batch
    else:
        if spec.batch is None:
            free[0] = batch
        if spec.frames is None:
            free[time] = Dim.DYNAMIC(min=MIN_FREE_FRAMES, max=MAX_FREE)
    if spec.size is None:
        for axis in (height, height + 1):
            free[axis] = Dim.DYNAMIC(min=MIN_FREE_SIZE, max=MAX_FREE)
    return free


def trace(model: P3D, spec: ExportSpec) -> ExportedProgram:
    """Return the program of a network in the form of a spec."""
    graph, clips = ExportGraph(model, spec), example(model, spec)
    if spec.device != "cpu":
        graph, clips = graph.to(spec.device), clips.to(spec.device)
    free = _free_axes(spec)
    with torch.no_grad():
        return torch.export.export(graph, (clips,), dynamic_shapes=(free,) if free else None)


def most_axes(program: ExportedProgram) -> int:
    """Return the largest number of axes of a tensor in a program, its parameters included."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    return max(value.dim() for value in values if isinstance(value, Tensor))
