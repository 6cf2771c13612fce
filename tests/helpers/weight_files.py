"""Random weights, `.caffemodel` files, the authors' graph and 2-D ResNets for tests."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model import config

FACTS = Path(__file__).parents[1] / "facts"
RESNET_BLOCKS = {"p3d63": (3, 4, 6, 3), "p3d131": (3, 4, 23, 3), "p3d199": (3, 8, 36, 3)}


def randomize(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return random, non-trivial float32 values for every tensor, scaled by its kind."""
    generator = torch.Generator().manual_seed(seed)
    filled = {}
    for key, tensor in state.items():
        x = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            x = x * (2 / tensor[0].numel()) ** 0.5
        elif key.endswith("running_var"):
            x = 1 + 0.2 * x.abs()
        elif key.endswith(("bias", "running_mean")):
            x = 0.1 * x
        elif key.endswith("weight"):
            last = ("expand", "shortcut", "bn4", "bn3", "downsample")
            x = (0.3 if any(part in key for part in last) else 1.0) * (1 + 0.1 * x)
        else:
            x = torch.zeros_like(tensor)
        filled[key] = x
    return filled


# ------------------------------------------------------------------ protobuf encoding


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def blob(values: Tensor, *, shape: list[int] | None = None, legacy: bool = False) -> bytes:
    """Encode a BlobProto; `legacy` writes the four old dimensions instead of a shape."""
    dims = list(values.shape) if shape is None else shape
    if legacy:
        dims = [1] * (4 - len(dims)) + dims
        head = b"".join(bytes([i + 1 << 3]) + _varint(n) for i, n in enumerate(dims))
    else:
        head = field(7, field(1, b"".join(_varint(n) for n in dims)))
    return head + field(5, values.contiguous().numpy().astype("<f4").tobytes())


def layer(name: str, kind: str, blobs: list[bytes]) -> bytes:
    """Encode a LayerParameter as a field of NetParameter."""
    fields = [field(1, name.encode()), field(2, kind.encode()), *(field(7, b) for b in blobs)]
    return field(100, b"".join(fields))


KINDS = {"conv": "Convolution", "bn": "BN", "linear": "InnerProduct"}


def write_caffemodel(path: Path, table: list[list[Any]], blobs: dict[str, list[Tensor]]) -> None:
    """Write the blobs of a layer table; those of BN are `(1, C, 1, 1, 1)`, as in Caffe."""
    chunks = [field(1, b"P3D"), layer("data", "Input", [])]
    for op, name, *_ in table:
        kind = KINDS.get(op, op)
        shaped = [
            blob(b, shape=[1, len(b), 1, 1, 1] if op == "bn" else None) for b in blobs.get(name, [])
        ]
        chunks.append(layer(name, kind, shaped))
    path.write_bytes(b"".join(chunks))


CAFFE_PARTS = {"shortcut": "1", "reduce": "2a", "spatial": "2b", "temporal": "2b_t", "expand": "2c"}
LEAVES = ("weight", "bias", "running_mean", "running_var")


def caffe_name(module: str, *, letters: bool) -> str:
    """Return Caffe's name of one of our modules, such as "res2.1.temporal.bn"."""
    kind = module.rpartition(".")[2].replace("conv", "res")
    if module.startswith("stem"):
        return "conv1" if kind == "res" else "bn_conv1"
    stage, index, part, _ = module.split(".")
    number = int(index)
    block = "abcdefghi"[number] if letters or number == 0 else f"b{number}"
    return f"{kind}{stage[3:]}{block}_branch{CAFFE_PARTS[part]}"


def caffemodel(
    state: dict[str, Tensor], *, letters: bool = True, legacy: bool = False, head: str = "fc_x"
) -> bytes:
    """Encode our tensors as a `.caffemodel`, in the shapes that Caffe gives to blobs."""
    chunks = []
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "weight" and module.endswith("conv"):
            axis = 4 if "temporal" in module else 2
            kernel = value if "res5" in module else value.unsqueeze(axis)
            name = caffe_name(module, letters=letters)
            chunks.append(layer(name, "Convolution", [blob(kernel)]))
        elif leaf == "weight" and module.endswith("bn"):
            shape = [1, len(value), 1, 1, 1]
            blobs = [blob(state[f"{module}.{leaf}"], shape=shape) for leaf in LEAVES]
            chunks.append(layer(caffe_name(module, letters=letters), "BN", blobs))
    values = [blob(state[f"fc.{leaf}"], legacy=legacy) for leaf in ("weight", "bias")]
    return b"".join([*chunks, layer(head, "InnerProduct", values), layer("prob", "Softmax", [])])


# ------------------------------------------------------------------ the authors' graph


def authors_table() -> list[list[Any]]:
    """Return the rows of the authors' P3D-199: operation, layer, inputs, output, sizes."""
    rows: list[list[Any]] = json.loads((FACTS / "authors_p3d199.json").read_text())["layers"]
    return rows


def random_blobs(
    table: list[list[Any]], *, channels: int, classes: int, seed: int = 0
) -> dict[str, list[Tensor]]:
    """Return random float32 Caffe blobs for every layer that has any."""
    widths, shapes = {"data": channels}, {}
    for op, name, bottoms, top, sizes in table:
        width = widths[bottoms[0]]
        if op == "conv":
            kernel = sizes["k"] * 2 if len(sizes["k"]) == 1 else sizes["k"]
            shapes[f"{name}/weight"] = torch.empty(sizes["out"], width, *kernel)
            width = sizes["out"]
        elif op == "bn":
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                suffix = "expand" if name.endswith(("2c", "branch1")) else ""
                shapes[f"{name}/{suffix}{leaf}"] = torch.empty(width)
        elif op == "linear":
            shapes[f"{name}/weight"] = torch.empty(classes, width)
            shapes[f"{name}/bias"] = torch.empty(classes)
        widths[top] = width
    blobs: dict[str, list[Tensor]] = {}
    for key, value in randomize(shapes, seed).items():
        blobs.setdefault(key.split("/")[0], []).append(value)
    return blobs


def _caffe_pool(x: Tensor, sizes: dict[str, list[int]]) -> Tensor:
    # Caffe rounds the number of windows up.
    return F.max_pool3d(x, sizes["k"], sizes["s"], sizes["p"], ceil_mode=True)


def interpret(
    table: list[list[Any]], blobs: dict[str, list[Tensor]], clip: Tensor
) -> dict[str, Tensor]:
    """Run the authors' graph; return the output of every layer by its name."""
    values, outputs = {"data": clip}, {}
    for op, name, bottoms, top, sizes in table:
        x = values[bottoms[0]]
        params = [b.to(x.dtype) for b in blobs.get(name, [])]
        if op == "conv":
            convolve = F.conv3d if len(sizes["k"]) == 3 else F.conv2d
            x = convolve(x, params[0], stride=sizes["s"], padding=sizes["p"])
        elif op == "bn":
            scale, bias, mean, variance = params
            x = F.batch_norm(x, mean, variance, scale, bias, eps=1e-5)
        elif op == "relu":
            x = F.relu(x)
        elif op == "maxpool":
            x = _caffe_pool(x, sizes)
        elif op == "sum":
            x = sum(c * values[b] for c, b in zip(sizes["c"], bottoms, strict=True))
        elif op == "merge-time":
            assert x.shape[2] == 1
            x = x.squeeze(2)
        elif op == "avgpool":
            x = x.mean((2, 3))
        else:
            assert op == "linear", op
            x = F.linear(x, *params)
        values[top] = outputs[name] = x
    return outputs


# ------------------------------------------------------------------ plain 2-D ResNets


class _ImageBlock(nn.Module):
    def __init__(self, width: int, planes: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(width, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ImageResNet(nn.Module):
    """A 2-D bottleneck ResNet that strides in its first 1x1 convolutions, as Caffe's.

    Args:
        blocks: Blocks per stage.
        classes: Number of logits.
        caffe_pool: Pool in the stem as Caffe (no padding, rounding up) or as PyTorch.
    """

    def __init__(self, blocks: tuple[int, ...], classes: int, *, caffe_pool: bool) -> None:
        super().__init__()
        self.caffe_pool = caffe_pool
        width = config.PLANES[0]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, (planes, depth) in enumerate(zip(config.PLANES, blocks, strict=True)):
            units = []
            for i in range(depth):
                stride = 2 if i == 0 and stage else 1
                units.append(_ImageBlock(width, planes, stride, project=i == 0))
                width = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) if self.caffe_pool else F.max_pool2d(x, 3, 2, 1)
        for unit in chain(self.layer1, self.layer2, self.layer3, self.layer4):
            x = unit(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def image_resnet(name: str, classes: int = 10, *, caffe_pool: bool = True) -> ImageResNet:
    """Return the 2-D network that corresponds to a P3D, with random weights, in evaluation mode."""
    net = ImageResNet(RESNET_BLOCKS[name], classes, caffe_pool=caffe_pool)
    net.load_state_dict(randomize(net.state_dict()))
    return net.eval()
