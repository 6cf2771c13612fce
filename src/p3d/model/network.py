"""The Pseudo-3D residual network, whole (Qiu, Yao, Mei: "Learning Spatio-Temporal Representation
with Pseudo-3D Residual Networks", ICCV 2017).

A P3D network is a bottleneck ResNet over clips whose 3x3x3 convolutions are split into a spatial
1x3x3 (S) and a temporal 3x1x1 (T) one. It needs nothing else that mixes space with time, and that
is what this file rests on: frames stay where the decoder put them. A batch of clips stored as
`(N, T, H, W, C)` *is* a channels-last batch of images `(N*T, C, H, W)`, over which S is an ordinary
2-D convolution; and the same memory *is* a channels-last batch `(N, C, T, H*W)`, over which T is a
2-D convolution with a (3, 1) kernel and temporal pooling a 2-D pooling. Activations therefore pass
through the network as `(N*T, C, H, W)` and every change of view is free.

Two functions go by the name of P3D, with the same parameters:

* wiring "author": the graphs that the authors released (Caffe). The default.
* wiring "port": the public PyTorch port and its copies. It pads the stem's pooling differently and
  adds the branches of B and C after their ReLUs, unscaled.

Where the two published graphs would refuse an input, this implementation generalises: pooling in
time takes what is there (the authors' rounding up, the port's rounding down, never below one
frame), and the head averages over whatever time and space remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.errors import UserError
from p3d.model.activation_checkpointing import run_and_forget, run_and_keep
from p3d.preprocessing import Preprocessing, default_preprocessing

Name = Literal["p3d63", "p3d131", "p3d199"]
Modality = Literal["rgb", "flow"]
Wiring = Literal["author", "port"]
Variant = Literal["ABC", "A", "B", "C", "2d"]

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
"""Length of the pooled feature vector ("pool5")."""


@dataclass(frozen=True)
class P3DConfig:
    """What defines a network apart from its weights.

    Attributes:
        name: Depth: "p3d63", "p3d131" or "p3d199".
        num_classes: Length of the logits.
        modality: "rgb" (3 input channels) or "flow" (2: x and y displacement).
        wiring: Which of the two published functions it computes, "author" or "port".
        variant: Kinds of block that take turns over res2-res4: "ABC" (the mixed network), "A", "B"
            or "C" (the paper's ablation), "2d" (no temporal convolution: its ResNet baseline).
        dropout: Probability of dropping a feature before the classifier, in [0, 1).
    """

    name: Name
    num_classes: int
    modality: Modality = "rgb"
    wiring: Wiring = "author"
    variant: Variant = "ABC"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming what can."""
        _check_choice("network", self.name, tuple(BLOCKS))
        _check_choice("modality", self.modality, get_args(Modality))
        _check_choice("wiring", self.wiring, get_args(Wiring))
        _check_choice("variant", self.variant, get_args(Variant))
        if self.num_classes < 1:
            raise UserError(f"num_classes is {self.num_classes}; give 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; give a probability in [0, 1)")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"no {what} is called {value!r}; choose one of: {', '.join(choices)}")


def _frames_first(x: Tensor, frames: int) -> Tensor:
    """View `(N*T, C, H, W)` as `(N, C, T, H*W)`: the same memory, time as the image's height."""
    rows, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(rows // frames, frames, height * width, channels)
    return flat.permute(0, 3, 1, 2)


def _space_first(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `_frames_first`: view `(N, C, T, H*W)` as `(N*T, C, H, W)`."""
    batch, channels, frames, _ = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * frames, height, width, channels)
    return rows.permute(0, 3, 1, 2)


def _pool_time(x: Tensor, frames: int, wiring: Wiring) -> tuple[Tensor, int]:
    """Max-pool `(N*T, C, H, W)` over pairs of frames; return it with its new T.

    An odd frame at the end makes a window of its own in Caffe ("author") and is dropped in PyTorch
    ("port"); a single frame always stays.
    """
    if frames == 1:
        return x, 1
    rows, channels, height, width = x.shape
    if frames % 2 == 0 and not x.requires_grad:
        # Without a gradient, the maximum over a view costs a third of the pooling kernel.
        pairs = x.permute(0, 2, 3, 1).reshape(rows // 2, 2, height, width, channels)
        return pairs.amax(1).permute(0, 3, 1, 2), frames // 2
    pooled = F.max_pool2d(_frames_first(x, frames), (2, 1), (2, 1), ceil_mode=wiring == "author")
    return _space_first(pooled, height, width), pooled.shape[2]


class ConvBN(nn.Module):
    """A convolution without bias and its batch normalisation (eps 1e-5, momentum 0.1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C', H', W')`."""
        out: Tensor = self.bn(self.conv(x))
        return out


class Bottleneck(nn.Module):
    """A residual block: 1x1 reduce, S and T as its kind wires them, 1x1 expand, shortcut.

    Args:
        in_channels: Channels of the input.
        planes: Channels inside the block; it puts out four times as many.
        stride: Spatial stride of the first convolution and of the shortcut.
        kind: "A", "B" or "C", or "2d" for a block without a temporal convolution.
        wiring: Whose A, B and C.
        project: Whether the shortcut is a convolution (first block of a stage) or the identity.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        kind: str,
        wiring: Wiring,
        project: bool,
    ) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.mix = MIXES[wiring][kind]
        self.reduce = ConvBN(in_channels, planes, 1, stride)
        self.spatial = ConvBN(planes, planes, 3, padding=1)
        if kind != "2d":
            self.temporal = ConvBN(planes, planes, (3, 1), padding=(1, 0))
        self.expand = ConvBN(planes, out_channels, 1)
        self.shortcut = ConvBN(in_channels, out_channels, 1, stride) if project else None

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Map `(N*T, C, H, W)`, T = frames, to `(N*T, 4 planes, H', W')`."""
        residual = x if self.shortcut is None else self.shortcut(x)
        mixed = self.mix(self, F.relu(self.reduce(x), inplace=True), frames)
        return F.relu(self.expand(mixed).add_(residual), inplace=True)

    def convolve_space(self, x: Tensor) -> Tensor:
        """S with its normalisation and ReLU."""
        return F.relu(self.spatial(x), inplace=True)

    def convolve_time(self, x: Tensor, frames: int) -> Tensor:
        """T with its normalisation, before any ReLU."""
        return _space_first(self.temporal(_frames_first(x, frames)), *x.shape[2:])


# How S and T combine (Qiu et al. 2017, fig. 3). Additions are made in place on the output of T's
# batch normalisation, which no gradient needs.


def _mix_2d(block: Bottleneck, x: Tensor, frames: int) -> Tensor:  # noqa: ARG001
    return block.convolve_space(x)


def _mix_a(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return F.relu(block.convolve_time(block.convolve_space(x), frames), inplace=True)


def _mix_b_author(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return F.relu(block.convolve_time(x, frames).add_(block.convolve_space(x)), inplace=True)


def _mix_b_port(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return block.convolve_space(x) + F.relu(block.convolve_time(x, frames), inplace=True)


def _mix_c_author(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    space = block.convolve_space(x)
    return F.relu(block.convolve_time(space, frames).add_(space).mul_(0.5), inplace=True)


def _mix_c_port(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    space = block.convolve_space(x)
    return space + F.relu(block.convolve_time(space, frames), inplace=True)


Mix = Callable[[Bottleneck, Tensor, int], Tensor]
MIXES: dict[str, dict[str, Mix]] = {
    "author": {"A": _mix_a, "B": _mix_b_author, "C": _mix_c_author, "2d": _mix_2d},
    "port": {"A": _mix_a, "B": _mix_b_port, "C": _mix_c_port, "2d": _mix_2d},
}


class Stem(ConvBN):
    """1x7x7 convolution, stride (1, 2, 2); BN; ReLU; 2x3x3 max-pooling, stride 2.

    A maximum over windows of 2x3x3 is a maximum over pairs of frames and then over 3x3 windows, and
    it commutes with ReLU: so time is pooled first, and ReLU sees an eighth of the pixels.
    """

    def __init__(self, in_channels: int, wiring: Wiring) -> None:
        super().__init__(in_channels, PLANES[0], 7, stride=2, padding=3)
        self.wiring: Wiring = wiring

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """Map `(N*T, C, H, W)` to `(N*T/2, 64, H/4, W/4)`, and T to T/2."""
        x, frames = _pool_time(super().forward(x), frames, self.wiring)
        if self.wiring == "author":
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        else:
            x = F.max_pool2d(x, 3, 2, padding=1)
        return F.relu(x, inplace=True), frames


class P3D(nn.Module):
    """A Pseudo-3D residual network; build one with `create_model` or `load_model`.

    Attributes:
        config: What defines it apart from its weights.
        preprocessing: The pixels it expects; saved with its weights.
        class_names: One name a logit, or None where unknown.
    """

    def __init__(self, config: P3DConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocessing: Preprocessing = default_preprocessing(config.modality)
        self.class_names: tuple[str, ...] | None = None
        self.frozen_norms: tuple[nn.Module, ...] = ()
        """Batch normalisations that keep their running statistics in training too."""
        self.recomputes = False
        """Whether training keeps each block's input alone and computes the rest of it twice."""

        self.stem = Stem(CHANNELS[config.modality], config.wiring)
        kinds = cycle([config.variant] if config.variant == "2d" else config.variant)
        depths = BLOCKS[config.name]
        self.res2 = self._stage(0, depths[0], kinds)
        self.res3 = self._stage(1, depths[1], kinds)
        self.res4 = self._stage(2, depths[2], kinds)
        self.res5 = self._stage(3, depths[3], cycle(["2d"]))
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(FEATURES, config.num_classes)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _stage(self, index: int, depth: int, kinds: Iterator[str]) -> nn.ModuleList:
        """Blocks of one stage; the kinds go on from one stage to the next."""
        planes = PLANES[index]
        width_in = PLANES[0] if index == 0 else PLANES[index - 1] * EXPANSION
        return nn.ModuleList(
            Bottleneck(
                width_in if i == 0 else planes * EXPANSION,
                planes,
                stride=2 if i == 0 and index > 0 else 1,
                kind=next(kinds),
                wiring=self.config.wiring,
                project=i == 0,
            )
            for i in range(depth)
        )

    def _initialise(self) -> None:
        """He, fan-out (all kernel dimensions counted); a small Gaussian for the classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        """Classify clips.

        Args:
            clips: float `(N, C, T, H, W)`, normalised as `preprocessing` says; any memory format
                (channels-last costs no copy), any T >= 1, and H, W of at least 3 pixels.
            dropout_mask: Factors `(N, 2048)` for the features, in place of dropout.

        Returns:
            Logits `(N, num_classes)`.

        Raises:
            UserError: The clip has another number of dimensions or channels, or is too small.
        """
        features = self.features(clips)
        kept = self.dropout(features) if dropout_mask is None else features * dropout_mask
        logits: Tensor = self.fc(kept)
        return logits

    def features(self, clips: Tensor) -> Tensor:
        """Pooled features ("pool5") of clips `(N, C, T, H, W)`: float `(N, 2048)`."""
        self._check(clips)
        run = run_and_forget if self.recomputes else run_and_keep
        batch, channels, frames, height, width = clips.shape
        rows = clips.permute(0, 2, 3, 4, 1).reshape(batch * frames, height, width, channels)
        x, frames = self.stem(rows.permute(0, 3, 1, 2), frames)
        for stage in (self.res2, self.res3, self.res4):
            for block in stage:
                x = run(block, x, frames)
            x, frames = _pool_time(x, frames, self.config.wiring)
        for block in self.res5:
            x = run(block, x, frames)
        places = frames * x.shape[2] * x.shape[3]
        pooled: Tensor = x.permute(0, 2, 3, 1).reshape(batch, places, FEATURES).mean(1)
        return pooled

    def _check(self, clips: Tensor) -> None:
        channels = CHANNELS[self.config.modality]
        if clips.dim() != 5 or clips.shape[1] != channels:
            raise UserError(
                f"a {self.config.modality} network takes clips (N, {channels}, T, H, W), "
                f"not {tuple(clips.shape)}"
            )
        if min(clips.shape[3:]) < 3 or clips.shape[2] < 1:
            raise UserError(
                f"clips of {clips.shape[2]} frames of {clips.shape[3]}x{clips.shape[4]} px do not "
                "survive the network's strides; give at least 1 frame of 3x3 px"
            )

    def train(self, mode: bool = True) -> P3D:
        """Switch to training (or back), leaving `frozen_norms` in evaluation."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self


def create_model(
    name: str,
    *,
    num_classes: int,
    modality: str = "rgb",
    wiring: str = "author",
    variant: str = "ABC",
    dropout: float = 0.5,
) -> P3D:
    """Build a network with fresh weights (He initialisation, fan-out).

    Args:
        name: "p3d63", "p3d131" or "p3d199".
        num_classes: Length of the logits.
        modality: "rgb" or "flow".
        wiring: "author" (the released Caffe graphs) or "port" (the public PyTorch port).
        variant: "ABC" (the mixed network), "A", "B", "C", or "2d" (no temporal convolution).
        dropout: Probability of dropping a feature before the classifier.

    Returns:
        The network in training mode, float32, on the CPU.

    Raises:
        UserError: A name that does not exist, or a number out of range.

    Example:
        >>> model = create_model("p3d63", num_classes=101).eval()
        >>> model(torch.zeros(1, 3, 16, 64, 64)).shape
        torch.Size([1, 101])
    """
    return P3D(P3DConfig(name, num_classes, modality, wiring, variant, dropout))  # type: ignore[arg-type]


def zero_init_residuals(model: P3D) -> None:
    """Start the last BN of every block at zero, so that each block starts as its shortcut."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            norm = module.expand.bn
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)


def fold_norms(model: P3D) -> P3D:
    """Fold every batch normalisation into its convolution, in place, for inference.

    The logits stay the same to rounding; the network can no longer be trained or saved.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
