"""Where pretrained weights can be downloaded: what to tell someone whose file does not exist."""

from __future__ import annotations

import re
from pathlib import Path

_TORCHVISION = "https://download.pytorch.org/models/"
_RESNETS = {
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}
_DEPTHS = {63: 50, 131: 101, 199: 152}
"""The 2-D ResNet with the blocks of each P3D."""
_KINETICS = "https://drive.google.com/drive/folders/1u_l-yvhS0shpW6e0tCiqPE7Bd1qQZKdD"
_SPORTS_1M = "https://1drv.ms/f/s!ApyV7qxhN8CmuD1Psuxnuo_vn01V"


def where_to_get(path: Path | str) -> str | None:
    """Return where to get the weights that a name stands for, as a remedy in a message.

    Args:
        path: A file that does not exist, such as `resnet50-0676ba61.pth` or
            `p3d199-kinetics.safetensors`, or a word such as `kinetics`.

    Returns:
        None for a name that says nothing about the weights.
    """
    text, name = str(path), Path(path).name.lower()
    if re.match(r"\w{2,}:/", text):  # C:/ is a drive
        return "download it first, and give the file"
    if re.search(r"p3d_(rgb|flow)_199|kinetics", name):
        file = f"p3d_{'flow' if 'flow' in name else 'rgb'}_199.checkpoint.pth.tar"
        return f"download {file} from {_KINETICS} and give its path"
    if re.search(r"sports-?_?1m", name):
        return f"download the authors' .caffemodel from {_SPORTS_1M} and give its path"
    if depth := re.search(r"resnet-?_?(50|101|152)", name):
        return _download_resnet(int(depth[1]))
    if "imagenet" in name:
        network = re.search(r"p3d-?_?(63|131|199)", name)
        return _download_resnet(_DEPTHS[int(network[1]) if network else 63])
    return None


def _download_resnet(depth: int) -> str:
    return f"download {_TORCHVISION}{_RESNETS[depth]} and give its path"
