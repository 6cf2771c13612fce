"""`p3d convert`: convert a weight file of any known format to our safetensors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from p3d.errors import UserError, printable
from p3d.model.config import Modality, Variant, Wiring
from p3d.system.markers import Positional
from p3d.system.spelling import describe_unread
from p3d.weights.describe import Overrides, PreprocessingName, WeightFile, read_weights
from p3d.weights.loading import build_model, find_weights
from p3d.weights.metadata import save_model


@dataclass(frozen=True)
class ConvertOptions:
    """Convert weights of any known format to a self-describing safetensors file.

    Reads files of the public PyTorch port, the authors' .caffemodel files, 2-D ResNet-50/101/152
    weights, and p3d's own files. What a file does not state is inferred from its contents and
    printed. The options below override it.
    """

    input: Positional[Path]
    """Weights to read (.pth.tar, .pth, .pt, .caffemodel, .safetensors), or the folder of a run."""
    output: Positional[Path]
    """File to write; its name ends in .safetensors."""
    wiring: Wiring | None = None
    """Wiring that the network was trained with: the authors' graph or the public PyTorch port's. By
    default inferred from the file."""
    variant: Variant | None = None
    """Blocks: the mixed network, a single kind, or no temporal convolutions (2d). By default
    ABC, or 2d if the file has no temporal convolutions."""
    modality: Modality | None = None
    """Use "flow" to start a flow network from 2-D RGB weights."""
    preprocessing: PreprocessingName | None = None
    """Pixels that the network was trained on: 0-255 BGR (authors) or ImageNet's scale. By default
    inferred from the file."""
    num_classes: int | None = None
    """Replace the classifier by a new one with this number of classes."""
    class_names: Path | None = None
    """Text file with one class name per line, in the order of the logits."""
    force: bool = False
    """Overwrite the output if it exists."""


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--class-names {path}: {describe_unread(path, error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--class-names {path}: is not text in UTF-8; save it as such") from error
    return tuple(line.strip() for line in lines if line.strip())


def _summary(file: WeightFile) -> str:
    config, prep = file.config, file.preprocessing
    lines = [
        f"{file.path}: {file.format}",
        f"  {config.name}, {config.modality}, {config.num_classes} classes, "
        f"{config.wiring} wiring, {config.variant}",
        f"  input: {prep.channels}, mean {prep.mean}, std {prep.std}, {prep.num_frames} frames "
        f"of {prep.crop}x{prep.crop} px{prep.describe_flow()}",
        *(f"  note: {note}" for note in file.notes),
    ]
    return "\n".join(map(printable, lines))


def _check_output(target: Path, source: Path, *, force: bool) -> None:
    """Check what can be checked before the input is read.

    Raises:
        UserError: The output has the wrong name, exists already or has no folder.
    """
    if target.is_dir():
        raise UserError(f"{target}: is a folder; give a file, such as {target / 'p3d.safetensors'}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: is the input itself; give another output")
    if target.suffix.lower() != ".safetensors":
        name = target.name.removesuffix(".tar")
        right = target.with_name(Path(name).stem + ".safetensors")
        raise UserError(f"{target}: the output is a safetensors file; name it {right}")
    if target.exists() and not force:
        raise UserError(f"{target}: exists already; give another output, or overwrite it (--force)")
    if not target.parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}; create it first")


def run(options: ConvertOptions) -> None:
    """Convert a weight file, and print what it contained.

    Raises:
        UserError: The input cannot be read, or the output exists or cannot be written.
    """
    source, target = find_weights(options.input), options.output
    _check_output(target, source, force=options.force)
    overrides = Overrides(
        wiring=options.wiring,
        variant=options.variant,
        modality=options.modality,
        num_classes=options.num_classes,
        class_names=None if options.class_names is None else _read_class_names(options.class_names),
        preprocessing=options.preprocessing,
    )
    state, file = read_weights(source, overrides)
    save_model(build_model(state, file), target, source=file.source, recipe=file.recipe)
    sys.stdout.write(
        f"{_summary(file)}\nwrote {printable(target)} ({target.stat().st_size / 1e6:.1f} MB)\n"
    )
