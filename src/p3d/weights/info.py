"""`p3d info`: the layers and costs of a network, given by its depth or by a weight file.

The network runs on PyTorch's "meta" device, which computes shapes but no values, while PyTorch's
FLOP counter counts.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from p3d.errors import UserError, printable
from p3d.model.config import BLOCKS, CHANNELS, Modality, Name, P3DConfig, Variant, Wiring
from p3d.preprocessing import Preprocessing, default_preprocessing
from p3d.system.markers import Positional
from p3d.system.spelling import ask_meant
from p3d.system.text import describe_rates, json_line
from p3d.weights.calibration import TIMELINE_PREFIX
from p3d.weights.describe import describe_file
from p3d.weights.loading import find_weights
from p3d.weights.metadata import skeleton
from p3d.weights.sources import where_to_get


@dataclass(frozen=True)
class InfoOptions:
    """Show the layers and the costs of a network."""

    model: Positional[Name | Path]
    """p3d63, p3d131 or p3d199, or a weight file or the folder of a run."""
    size: int | None = None
    """Height and width of the clip in pixels; by default the network's own."""
    frames: int | None = None
    """Frames of the clip; by default the network's own."""
    num_classes: int = 101
    """Number of classes, for a network given by name."""
    modality: Modality = "rgb"
    """Input, for a network given by name."""
    wiring: Wiring = "author"
    """Wiring, for a network given by name."""
    variant: Variant = "ABC"
    """Kinds of block, for a network given by name."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Stage:
    """Size and cost of one part of a network.

    Attributes:
        name: "stem", "res2" to "res5", or "fc".
        output: Shape of its output for one clip, `(C, T, H, W)` or `(num_classes,)`, before any
            temporal pooling that follows the stage.
        parameters: Number of parameters.
        macs: Multiply-adds of its convolutions and matrix products for one clip.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def stages(config: P3DConfig, *, frames: int = 16, size: int = 160) -> list[Stage]:
    """Return the size and cost of every part of a network for one clip.

    Args:
        config: The network.
        frames: Frames of the clip.
        size: Height and width of the clip in pixels.

    Returns:
        The parts in order. Their parameters and multiply-adds sum to the network's.

    Raises:
        UserError: The clip is too small for the network.
    """
    if frames < 1 or size < 1:
        raise UserError(f"a clip of {frames} frames of {size}x{size} px is empty; give 1 or more")
    model, counter, found = skeleton(config).eval(), FlopCounterMode(display=False), list[Stage]()

    def record(name: str, part: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            rows, channels, *space = (output[0] if isinstance(output, tuple) else output).shape
            # With a single clip, the first axis of a 4-D output is time.
            shape = (channels, rows, *space) if space else (channels,)
            # The counter counts a multiply-add as two operations.
            macs = counter.get_total_flops() // 2 - sum(stage.macs for stage in found)
            found.append(Stage(name, shape, sum(p.numel() for p in part.parameters()), macs))

        last = part[-1] if isinstance(part, nn.ModuleList) else part
        last.register_forward_hook(hook)

    for name, part in model.named_children():
        if name != "dropout":
            record(name, part)
    clip = torch.zeros(1, CHANNELS[config.modality], frames, size, size, device="meta")
    with torch.no_grad(), counter:
        model(clip)
    return found


@dataclass(frozen=True)
class Info:
    """The output of `p3d info`.

    Attributes:
        config: The network.
        preprocessing: The pixels that it expects.
        frames: Frames of the clip that the costs are for.
        size: Height and width of that clip in pixels.
        stages: The network's parts.
        parameters: Total number of parameters.
        macs: Total multiply-adds per clip.
        file_bytes: Size of the weight file, or of the network's tensors in fp32.
        path: The weight file, or None.
        format: Its format, or None.
        class_names: One name per class, if known.
        source: Where the weights come from, if known.
        recipe: How they were trained, if known.
        trained_on: Number of videos that they were trained on; 0 if unknown.
        rates: Lowest and highest frame rate of these videos, if known.
        calibration: Values that `p3d calibrate` has fitted, if it was run.
        notes: What was inferred about the file.
    """

    config: P3DConfig
    preprocessing: Preprocessing
    frames: int
    size: int
    stages: list[Stage]
    parameters: int
    macs: int
    file_bytes: int
    path: str | None = None
    format: str | None = None
    class_names: tuple[str, ...] | None = None
    source: str | None = None
    recipe: dict[str, Any] | None = None
    trained_on: int = 0
    rates: tuple[float, float] | None = None
    calibration: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def gather(options: InfoOptions) -> Info:
    """Collect what `p3d info` prints.

    Raises:
        UserError: `options.model` is neither a network nor a readable weight file.
    """
    extra: dict[str, Any] = {}
    if options.model in BLOCKS:
        name: Name = options.model
        config = P3DConfig(
            name, options.num_classes, options.modality, options.wiring, options.variant
        )
        preprocessing = default_preprocessing(config.modality)
        file_bytes = sum(tensor.nbytes for tensor in skeleton(config).state_dict().values())
    elif (path := find_weights(options.model)).exists():
        file = describe_file(path)
        config, preprocessing = file.config, file.preprocessing
        file_bytes = path.stat().st_size
        keys = ("format", "class_names", "source", "recipe", "rates", "calibration", "notes")
        extra = {key: getattr(file, key) for key in keys}
        extra |= {"path": str(path), "trained_on": len(file.trained_on)}
    else:
        raise UserError(
            f"{printable(options.model)}: neither a network ({', '.join(BLOCKS)}) nor a file; "
            f"{where_to_get(path) or ask_meant(path, 'check the spelling')}"
        )
    frames = preprocessing.num_frames if options.frames is None else options.frames
    size = preprocessing.crop if options.size is None else options.size
    parts = stages(config, frames=frames, size=size)
    return Info(
        config=config,
        preprocessing=preprocessing,
        frames=frames,
        size=size,
        stages=parts,
        parameters=sum(part.parameters for part in parts),
        macs=sum(part.macs for part in parts),
        file_bytes=file_bytes,
        **extra,
    )


def _facts(info: Info) -> list[tuple[str, str]]:
    """Return names and values of the lines above the table."""
    config, prep = info.config, info.preprocessing
    facts = [
        ("network", f"{config.name}, {config.wiring} wiring, {config.variant}, {config.modality}"),
        ("classes", str(config.num_classes)),
        ("parameters", f"{info.parameters:,}"),
        ("cost", f"{info.macs / 1e9:.2f} GMACs per clip of {info.frames}x{info.size}x{info.size}"),
        ("size", f"{info.file_bytes / 1e6:.1f} MB" + ("" if info.format else " in fp32")),
        (
            "input",
            f"{prep.channels}, mean {prep.mean}, std {prep.std}; {prep.num_frames} frames "
            f"{prep.describe_rate()}, stride {prep.frame_stride}, "
            f"resized to {prep.describe_resize()}, crop {prep.crop}{prep.describe_flow()}",
        ),
    ]
    if info.path and info.format:
        facts = [("file", info.path), *facts, ("format", info.format)]
    if info.source:
        facts.append(("source", info.source))
    if info.trained_on:
        at = "" if info.rates is None else f" of {describe_rates(info.rates)}"
        facts.append(("trained on", f"{info.trained_on:,} videos{at}"))
    if temperature := info.calibration.get("temperature"):
        facts.append(("calibrated", f"predict divides the logits by {temperature:.4g}"))
    if settled := info.calibration.get("settled"):
        facts.append(("settled", f"--clips auto takes no more clips at {settled:g}"))
    cut = [
        f"{name.removeprefix(TIMELINE_PREFIX)} {value:.4g}"
        for name, value in info.calibration.items()
        if name.startswith(TIMELINE_PREFIX)
    ]
    if cut:
        facts.append(("timeline", f"segments by {', '.join(cut)}"))
    if info.recipe:
        facts.append(("recipe", json.dumps(info.recipe, ensure_ascii=False)))
    if info.class_names:
        shown = ", ".join(info.class_names[:5])
        facts.append(("names", shown + (", ..." if len(info.class_names) > 5 else "")))
    return facts + [("note", note) for note in info.notes]


def render(info: Info) -> str:
    """Return the text that `p3d info` prints."""
    lines = [f"{name:<11} {printable(value)}" for name, value in _facts(info)]
    lines += ["", f"{'part':<6} {'output (C, T, H, W)':<22} {'parameters':>12} {'MMACs':>10}"]
    for part in info.stages:
        shape = " x ".join(map(str, part.output))
        lines.append(f"{part.name:<6} {shape:<22} {part.parameters:>12,} {part.macs / 1e6:>10,.1f}")
    total = f"{'total':<6} {'':<22} {info.parameters:>12,} {info.macs / 1e6:>10,.1f}"
    return "\n".join([*lines, total])


def run(options: InfoOptions) -> None:
    """Print the size and cost of a network as a table or as JSON.

    Raises:
        UserError: As `gather`.
    """
    info = gather(options)
    sys.stdout.write((json_line(asdict(info)) if options.json else render(info)) + "\n")
