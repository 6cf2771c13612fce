"""Loading networks from weight files, with every key and shape checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from p3d.errors import UserError, printable
from p3d.model.config import Wiring
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.run_folder import BEST_FILE, CONFIG_FILE, LAST_FILE, LOG_FILE, find_checkpoints
from p3d.weights.class_names import same_class
from p3d.weights.describe import (
    Overrides,
    PreprocessingName,
    WeightFile,
    interpret,
    read_weights,
)
from p3d.weights.keys import add_counters, check_fit
from p3d.weights.metadata import build
from p3d.weights.reading import prefix_errors, read_contents, recognize
from p3d.weights.resnet import inflate

_log = logging.getLogger("p3d.weights")


def find_weights(path: Path | str) -> Path:
    """Return the weight file that a path stands for.

    The folder of a training run stands for its `best.safetensors`, or for its `last.safetensors` if
    it has no other. Every other path stands for itself, also if there is no such file.

    Raises:
        UserError: It is a folder without these files.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return path
    except OSError:  # reading the file reports why it cannot be reached
        return path
    for name in (BEST_FILE, LAST_FILE):
        if (path / name).is_file():
            return path / name
    with prefix_errors(path):
        raise UserError(_no_weights(path))


def _no_weights(folder: Path) -> str:
    """Return why a folder stands for no weights, and the remedy."""
    if checkpoints := find_checkpoints(folder):
        return f"this run has no {BEST_FILE} yet; wait, or give its {checkpoints[0].name}"
    if (folder / LOG_FILE).is_file() or (folder / CONFIG_FILE).is_file():
        return f"this run has no weights yet; wait until it has written its {BEST_FILE}"
    return f"it is a folder without weights ({BEST_FILE}); give a weight file or a run's folder"


def _found_note(path: Path | str, found: Path) -> tuple[str, ...]:
    """Return which file of a folder was taken, as a list of one line; empty for a file."""
    return () if found == Path(path) else (f"taken as the weights of the run {path}",)


def build_model(state: Mapping[str, Tensor], file: WeightFile) -> P3D:
    """Build the network of a file that `read_weights` has read, in evaluation mode.

    Raises:
        UserError: Keys or shapes do not fit.
    """
    with prefix_errors(file.path):
        return build(
            file.config,
            state,
            file.preprocessing,
            file.class_names,
            file.trained_on,
            file.rates,
            file.calibration,
        )


def load_model(
    path: Path | str,
    *,
    wiring: str | None = None,
    variant: str | None = None,
    modality: str | None = None,
    dropout: float | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingName | Preprocessing | None = None,
) -> P3D:
    """Load a network from a weight file of any known format.

    Known are our safetensors files and training checkpoints, files of the public PyTorch port (with
    or without "module." and a surrounding dict), the authors' `.caffemodel` files, and 2-D
    ResNet-50, -101 and -152 weights, which are inflated. The format is recognized by the content.
    Foreign files do not state their wiring and preprocessing. Both are then inferred, logged as
    warnings of the logger "p3d.weights", and can be overridden.

    Args:
        path: The file, or the folder of a training run (see `find_weights`).
        wiring: "author" or "port".
        variant: "ABC", "A", "B", "C" or "2d", for foreign files.
        modality: "flow" to start a flow network from a 2-D RGB ResNet.
        dropout: Probability of dropping a feature before the classifier.
        num_classes: If it differs from the file's, the classifier is a new, untrained one.
        class_names: One name per class, in the order of the logits.
        preprocessing: "authors" (BGR, 0-255, mean subtracted), "imagenet" (unit scale), or a
            `Preprocessing`.

    Returns:
        The network, float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The file cannot be read, is damaged or of an unknown format, or its tensors do
            not fit the network. The message is one line: path, fault and remedy.

    Example:
        >>> model = load_model("p3d_rgb_199.checkpoint.pth.tar")  # doctest: +SKIP
        >>> model.config.wiring, model.preprocessing.channels  # doctest: +SKIP
        ('author', 'bgr')
    """
    names = None if class_names is None else tuple(class_names)
    overrides = Overrides(wiring, variant, modality, dropout, num_classes, names, preprocessing)
    found = find_weights(path)
    state, file = read_weights(found, overrides)
    for note in (*_found_note(path, found), *file.notes):
        _log.warning("%s: %s", printable(file.path), printable(note))
    return build_model(state, file)


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    wiring: str = "author",
    variant: str = "ABC",
    modality: str = "rgb",
) -> dict[str, Tensor]:
    """Convert a state dict of the public port or of a 2-D ResNet to our names and shapes.

    The result fits a network of the same depth, modality and number of classes. The keyword
    arguments are used only for a 2-D ResNet, which is inflated (see `p3d.weights.resnet`).

    Args:
        state_dict: Tensors of the port, of a 2-D ResNet, or under our names (returned unchanged),
            with or without the prefix "module.".
        wiring: Wiring of the inflated network.
        variant: Its kinds of block: "ABC", "A", "B", "C" or "2d".
        modality: "rgb" or "flow".

    Returns:
        A new dict. Tensors with unchanged values share memory with those given.

    Raises:
        UserError: These are the tensors of another network.

    Example:
        >>> model = create_model("p3d63", num_classes=1000)  # doctest: +SKIP
        >>> model.load_state_dict(convert_state_dict(resnet50_weights))  # doctest: +SKIP
    """
    contents = recognize(state_dict)
    if contents.format != "resnet":
        return contents.state
    return add_counters(inflate(contents.state, wiring=wiring, variant=variant, modality=modality))


_WORDS = {"name": "network", "modality": "modality", "wiring": "wiring", "variant": "variant"}
"""Fields of a configuration, as the options of `p3d train` call them."""


def _check_same_network(model: P3D, file: WeightFile) -> None:
    differences = [
        (word, theirs, ours)
        for name, word in _WORDS.items()
        if (theirs := getattr(file.config, name)) != (ours := getattr(model.config, name))
    ]
    if differences:
        facts = [f"the file's {word} is {a}, {b} was asked for" for word, a, b in differences]
        options = " ".join(f"--{word} {theirs}" for word, theirs, _ in differences)
        raise UserError(
            f"{'; '.join(facts)}; give {options}, or, if the file was identified wrongly, correct "
            "it with `p3d convert`"
        )


def _same_classes(model: P3D, file: WeightFile) -> bool:
    if file.format == "resnet" or file.config.num_classes != model.config.num_classes:
        return False
    if file.class_names is None or model.class_names is None:
        return True
    return all(map(same_class, file.class_names, model.class_names))


class PretrainedWeights:
    """Weights to start a network from, in a file that is read once.

    Args:
        path: Any file that `load_model` reads, or the folder of a training run.

    Attributes:
        path: The file.
        learned_videos: Whether the file's network was trained on videos, not on pictures alone.

    Raises:
        UserError: The file cannot be read or is of an unknown format.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = find_weights(path)
        self._contents = read_contents(self.path)
        self.learned_videos = self._contents.format != "resnet"

    @property
    def wiring(self) -> Wiring:
        """Wiring of the file's network.

        Raises:
            UserError: The file's tensors do not form a network.
        """
        with prefix_errors(self.path):
            return interpret(self.path, self._contents, Overrides())[1].config.wiring

    def load_into(self, model: P3D) -> tuple[str, ...]:
        """Load the weights into a network, in place.

        A 2-D ResNet is inflated to the model's wiring and variant. The model keeps its classifier
        if the file's is for other classes, and its clip and frame sizes. It takes over the file's
        channel order, mean, deviation and method of optical flow, which the weights depend on, and
        the digests of the videos that they were trained on.

        Args:
            model: The network; its configuration must be the file's, except for the classes.

        Returns:
            What was inferred or changed, one line each.

        Raises:
            UserError: As `load_model`, or the file contains another network.
        """
        config, overrides = model.config, Overrides()
        if self._contents.format == "resnet":
            overrides = Overrides(config.wiring, config.variant, config.modality)
        with prefix_errors(self.path):
            state, file = interpret(self.path, self._contents, overrides)
            _check_same_network(model, file)
            notes = [note for note in file.notes if "classifier" not in note]
            if not _same_classes(model, file):
                own = model.state_dict()
                state |= {key: own[key] for key in ("fc.weight", "fc.bias")}
                notes.append(
                    f"the file's classifier of {file.config.num_classes} classes is skipped; "
                    f"the model keeps its own of {config.num_classes}"
                )
            elif model.class_names is None:
                model.class_names = file.class_names
            check_fit(model, state)
        model.load_state_dict(state)
        model.trained_on = file.trained_on
        theirs = file.preprocessing
        model.preprocessing = replace(
            model.preprocessing,
            channels=theirs.channels,
            mean=theirs.mean,
            std=theirs.std,
            flow_method=theirs.flow_method,
        )
        return tuple(notes)
