"""The scores of two networks as one, such as of those for pictures and for optical flow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from p3d.errors import UserError, printable
from p3d.inference.scorer import mean_probabilities
from p3d.run_folder import FUSION_FILE
from p3d.system.files import reason_of, write_json

Mean = Literal["probabilities", "logits"]

_VERSION = 1


@dataclass(frozen=True)
class Fusion:
    """A weighted mean of two networks.

    Attributes:
        weight: Weight of the second network, in [0, 1]; the first has the rest.
        of: "probabilities": the mean is `(1 - weight) * p1 + weight * p2`, of the means over each
            video's clips. "logits": the softmax of `(1 - weight) * z1 + weight * z2`, of the means
            over its clips.

    Raises:
        UserError: The weight is not in [0, 1].
    """

    weight: float = 0.5
    of: Mean = "probabilities"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"the weight of the second network is {self.weight}; give 0 to 1")

    def log_probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the logarithms of the fused class probabilities.

        Args:
            first: Logits of the first network, `(..., num_clips, num_classes)`.
            second: Those of the second, of the same shape but for the number of clips.

        Returns:
            float64 `(..., num_classes)`; finite where the logits are.
        """
        first, second = first.double(), second.double()
        if self.of == "logits":
            return torch.lerp(first.mean(-2), second.mean(-2), self.weight).log_softmax(-1)
        means = mean_probabilities(first), mean_probabilities(second)
        mean = torch.lerp(*means, self.weight)
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()

    def swapped(self) -> Fusion:
        """Return the same fusion of the two networks in the other order."""
        return Fusion(1 - self.weight, self.of)


def write_fusion(path: Path, fusion: Fusion, hashes: tuple[str, str]) -> None:
    """Write how networks are fused, whose weight files have these SHA-256 hashes."""
    values = {"version": _VERSION, "mean": fusion.of, "weight": fusion.weight}
    write_json(path, {**values, "weights_sha256": hashes})


def read_fusion(folder: Path, hashes: tuple[str, str]) -> Fusion:
    """Return how `p3d fuse --out` fused two networks.

    Args:
        folder: Its folder, or the file in it.
        hashes: SHA-256 of the weight files of both networks, in either order.

    Raises:
        UserError: The file is missing or damaged, or about other networks.
    """
    path = folder / FUSION_FILE if folder.is_dir() else folder
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["version"] > _VERSION:
            raise UserError(f"{printable(path)}: is of a newer p3d; upgrade p3d")
        known = tuple(values["weights_sha256"])
        fusion = Fusion(float(values["weight"]), values["mean"])
        if fusion.of not in get_args(Mean):
            raise ValueError(f"mean of {fusion.of}")
    except OSError as error:
        raise UserError(
            f"{printable(path)}: cannot be read ({reason_of(error)}); p3d fuse --out writes it"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{printable(path)}: is damaged; run p3d fuse --out again") from error
    if known == hashes:
        return fusion
    if known == hashes[::-1]:
        return fusion.swapped()
    raise UserError(
        f"{printable(path)}: fuses other weights; give those of its scores, or a number as the "
        "weight of the second"
    )
