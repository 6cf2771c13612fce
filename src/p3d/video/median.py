"""The median of 5x5 pixels, by minima and maxima of whole pictures.

The five pixels of a column are sorted once, and neighboring columns merged once, for all windows
that contain them. A window is two such pairs of columns, and a fifth column.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

_SORT_5 = ((0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2))
_CACHED = 40_000
"""Numbers of a picture that a CPU keeps in cache 20 times, and that malloc reuses."""


def median_5x5(pictures: Tensor) -> Tensor:
    """Return the median of 5x5 pixels about each pixel; borders are repeated outward.

    Args:
        pictures: `(N, H, W)`, floating point.

    Returns:
        Pictures of the same shape.
    """
    count, height, width = pictures.shape
    padded = F.pad(pictures.unsqueeze(1), (2, 2, 2, 2), mode="replicate").squeeze(1)
    if pictures.device.type != "cpu":
        return _median_inside(padded)
    rows = max(4, _CACHED // (count * width))
    bands = [padded[:, row : row + rows + 4] for row in range(0, height, rows)]
    return torch.cat([_median_inside(band) for band in bands], 1)


def _median_inside(padded: Tensor) -> Tensor:
    """Return the medians of all windows that lie inside the pictures."""
    height, width = (side - 4 for side in padded.shape[1:])
    column = [padded[:, row : row + height] for row in range(5)]
    for low, high in _SORT_5:
        column[low], column[high] = _in_order(column[low], column[high])
    pair = _merge([row[..., :-1] for row in column], [row[..., 1:] for row in column])
    left, right = ([row[..., at : at + width] for row in pair] for at in (0, 2))
    # The fifth column can move the median of 25 to the middle of these 20, and no further.
    middle = _merge(left, right)[7:13]
    fifth = [row[..., 4:] for row in column]
    # At most five of the 11 are below the larger of any two that share out six ranks.
    larger = [torch.maximum(middle[i], fifth[4 - i]) for i in range(5)]
    return reduce(torch.minimum, larger, middle[5])


def _in_order(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(a, b), torch.maximum(a, b)


def _merge(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Merge two sorted lists by Batcher's odd-even network."""
    if not a or not b:
        return a + b
    if len(a) == len(b) == 1:
        return list(_in_order(a[0], b[0]))
    even, odd = _merge(a[::2], b[::2]), _merge(a[1::2], b[1::2])
    merged = even[:1]
    for one, other in zip(odd, even[1:], strict=False):
        merged += _in_order(one, other)
    return merged + odd[len(even) - 1 :] + even[len(odd) + 1 :]
