"""The stem's convolution over pairs of columns, which is faster in bf16 on a CPU.

Processors multiply pairs of bf16 values, and the three channels of a pixel leave half of every
second pair empty. Two neighboring pixels of a row are six values, and next to each other in memory.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model.blocks import Stem


class PairedStem(Stem):
    """A stem that computes the same from pairs of columns; for inference.

    Args:
        stem: A stem whose batch normalization is folded.
    """

    def __init__(self, stem: Stem) -> None:
        super().__init__(stem.conv.in_channels, stem.wiring)
        assert stem.conv.bias is not None, "folded"
        self.bn = nn.Identity()
        weight = pair_weights(stem.conv.weight.data)
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], (7, 4), (2, 1), (3, 0))
        self.conv.weight.data = weight
        self.conv.bias = stem.conv.bias

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """Map `(N*T, C, H, W)` as `Stem` does."""
        return super().forward(pair_columns(x), frames)


def pair_weights(weight: Tensor) -> Tensor:
    """Return the weights `(K, 2C, 7, 4)` for pairs of columns, of weights `(K, C, 7, 7)`.

    A window of columns 2j - 3 to 2j + 3 lies in the four pairs from 2j - 4 on, whose first column
    gets weights of zero. So the stride along a row becomes 1.
    """
    pairs = F.pad(weight, (1, 0)).unflatten(3, (4, 2))
    paired: Tensor = pairs.permute(0, 4, 1, 2, 3).flatten(1, 2)
    return paired


def pair_columns(x: Tensor) -> Tensor:
    """Return images `(M, C, H, W)`, padded in W by 4 and some, as pairs `(M, 2C, H, W')`."""
    pixels = x.permute(0, 2, 3, 1)
    images, height, width, channels = pixels.shape
    pairs = (width + 1) // 2 + 3
    # Padded as values of a row, which a compiler vectorizes better than triples.
    margins = (4 * channels, (2 * pairs - 4 - width) * channels)
    padded = F.pad(pixels.flatten(2), margins)
    return padded.reshape(images, height, pairs, 2 * channels).permute(0, 3, 1, 2)
