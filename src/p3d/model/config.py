"""What defines a network: depth, classes, modality, wiring, and kinds of block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from p3d.errors import UserError, check_choice

Name = Literal["p3d63", "p3d131", "p3d199"]
Modality = Literal["rgb", "flow"]
Wiring = Literal["author", "port"]
Variant = Literal["ABC", "A", "B", "C", "2d"]
Layer = Literal["res2", "res3", "res4", "res5", "pool5"]

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "p3d63": (3, 4, 6, 3),
    "p3d131": (3, 4, 23, 3),
    "p3d199": (3, 8, 36, 3),
}
"""Bottleneck blocks in res2, res3, res4 and res5."""

CHANNELS: dict[str, int] = {"rgb": 3, "flow": 2}
PLANES = (64, 128, 256, 512)
EXPANSION = 4
FEATURES = PLANES[-1] * EXPANSION
"""Length of the pooled feature vector ("pool5" in the authors' graphs)."""


@dataclass(frozen=True)
class P3DConfig:
    """The architecture of a network.

    Attributes:
        name: Depth: "p3d63", "p3d131" or "p3d199".
        num_classes: Number of logits, at least 1.
        modality: "rgb" (3 input channels) or "flow" (2: horizontal and vertical displacement).
        wiring: Published function to compute, "author" or "port" (see `p3d.model.network`).
        variant: Kinds of block that alternate over res2 to res4: "ABC" (the paper's P3D ResNet),
            "A", "B" or "C" alone (its ablation), or "2d" (no T: a 2-D ResNet over frames).
        dropout: Probability of dropping a feature before the classifier, in [0, 1).
    """

    name: Name
    num_classes: int
    modality: Modality = "rgb"
    wiring: Wiring = "author"
    variant: Variant = "ABC"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Raise UserError if a field has an invalid value."""
        check_choice("network", self.name, tuple(BLOCKS))
        check_choice("modality", self.modality, get_args(Modality))
        check_choice("wiring", self.wiring, get_args(Wiring))
        check_choice("variant", self.variant, get_args(Variant))
        if self.num_classes < 1:
            raise UserError(f"num_classes is {self.num_classes}; give 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; give a probability in [0, 1)")
