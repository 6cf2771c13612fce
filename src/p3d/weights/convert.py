"""`p3d convert`: weights of any known origin into our safetensors, saying what was found."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from p3d.errors import UserError
from p3d.model.network import Modality, Variant, Wiring
from p3d.preprocessing import Preprocessing
from p3d.weights.describe import Overrides, WeightFile, read_weights
from p3d.weights.loading import build_model
from p3d.weights.metadata import save_model


@dataclass(frozen=True)
class ConvertOptions:
    """Turn weights of any known origin into one safetensors file that describes itself.

    Reads the public PyTorch port's files, the authors' .caffemodel files, 2-D ResNet-50/101/152
    weights, and p3d's own. What cannot be read off the file is concluded from its contents and said
    aloud; the options below override it.
    """

    input: Annotated[Path, tyro.conf.Positional]
    """The weights to read (.pth.tar, .pth, .pt, .caffemodel, .safetensors)."""
    output: Annotated[Path, tyro.conf.Positional]
    """The safetensors file to write."""
    wiring: Wiring | None = None
    """Wiring that the network was trained with."""
    variant: Variant | None = None
    """Kinds of block that take turns, where they are not the mixed network's A, B, C."""
    modality: Modality | None = None
    """Give "flow" to start a flow network from 2-D RGB weights."""
    preprocessing: Literal["authors", "imagenet"] | None = None
    """The pixels that the network was trained on: 0-255 BGR, or ImageNet's scale."""
    num_classes: int | None = None
    """Replace the classifier by a new one of this many classes."""
    class_names: Path | None = None
    """Text file with one class name a line, in the order of the logits."""
    force: bool = False
    """Overwrite the output if it exists."""


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: class names cannot be read ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def convert(
    source: Path | str,
    target: Path | str,
    *,
    wiring: Wiring | None = None,
    variant: Variant | None = None,
    modality: Modality | None = None,
    preprocessing: Literal["authors", "imagenet"] | Preprocessing | None = None,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    overwrite: bool = False,
) -> WeightFile:
    """Convert a weight file into our safetensors.

    Args:
        source: Any file that `p3d.load_model` reads.
        target: The safetensors file to write; never the source itself.
        wiring: See `p3d.load_model`, as for the arguments that follow.
        variant: See there.
        modality: See there.
        preprocessing: See there.
        num_classes: See there.
        class_names: See there.
        overwrite: Whether an existing target may be replaced.

    Returns:
        What the source was found to be.

    Raises:
        UserError: The source cannot be read, or the target exists or cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: is the input itself; give another output")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; give another output, or overwrite it (--force)")
    overrides = Overrides(
        wiring=wiring,
        variant=variant,
        modality=modality,
        num_classes=num_classes,
        class_names=class_names,
        preprocessing=preprocessing,
    )
    state, file = read_weights(source, overrides)
    save_model(build_model(state, file), target, source=file.source, recipe=file.recipe)
    return file


def summary(file: WeightFile) -> str:
    """What a weight file is, in a few lines of plain text."""
    config, prep = file.config, file.preprocessing
    lines = [
        f"{file.path}: {file.format}",
        f"  {config.name}, {config.modality}, {config.num_classes} classes, "
        f"{config.wiring} wiring, {config.variant}",
        f"  input: {prep.channels}, mean {prep.mean}, std {prep.std}, {prep.num_frames} frames "
        f"of {prep.crop}x{prep.crop} px",
        *(f"  note: {note}" for note in file.notes),
    ]
    return "\n".join(lines)


def run(options: ConvertOptions) -> None:
    """Convert as the command line asked; what was found goes to standard output.

    Raises:
        UserError: As `convert`.
    """
    file = convert(
        options.input,
        options.output,
        wiring=options.wiring,
        variant=options.variant,
        modality=options.modality,
        preprocessing=options.preprocessing,
        num_classes=options.num_classes,
        class_names=None if options.class_names is None else _read_class_names(options.class_names),
        overwrite=options.force,
    )
    size = options.output.stat().st_size / 1e6
    sys.stdout.write(f"{summary(file)}\nwrote {options.output} ({size:.1f} MB)\n")
