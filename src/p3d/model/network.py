"""The Pseudo-3D residual network.

Zhaofan Qiu, Ting Yao and Tao Mei, "Learning Spatio-Temporal Representation with Pseudo-3D Residual
Networks", ICCV 2017.

A P3D network is a bottleneck ResNet over clips. Its blocks replace the 3x3x3 convolution by a
spatial 1x3x3 convolution (S) and a temporal 3x1x1 convolution (T). There are three kinds of block
(fig. 3 of the paper), which alternate over the stages res2 to res4: in A, T follows S; in B, both
have the same input and are added; in C, T follows S and is added to it. Blocks of res5 have S only,
since a clip of 16 frames has a single frame left there.

Memory layout. All convolutions are 2-D, and no activation is copied to change its shape. A batch of
clips stored as `(N, T, H, W, C)` is also a channels-last batch of images `(N*T, C, H, W)`, and S is
a 3x3 convolution over it. The same memory is a channels-last batch `(N, C, T, H*W)`, and T is a
(3, 1) convolution over that. Activations are passed between layers as `(N*T, C, H, W)`.

Wirings. Two functions with the same parameters are published as P3D:

* "author" (default): the Caffe graphs that the authors released. Pooling rounds output sizes up.
* "port": the public PyTorch port and its copies. The stem's pooling is padded, temporal pooling
  rounds down, and blocks B and C add S and T after their ReLUs, without a factor.

Unlike the published graphs, this network takes clips of any length: temporal pooling keeps at least
one frame, and the classifier's input is the average over all remaining frames and pixels.

Parameters are named `stem.{conv,bn}`, `res2.0.{reduce,spatial,temporal,expand,shortcut}.{conv,bn}`
and so on, and `fc`.
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
from p3d.model.activation_checkpointing import run_checkpointed
from p3d.model.pair_max import max_of_pairs
from p3d.preprocessing import Preprocessing, default_preprocessing

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
        wiring: Published function to compute, "author" or "port" (see the module's docstring).
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


def _temporal_view(x: Tensor, frames: int) -> Tensor:
    """View `(N*T, C, H, W)` as `(N, C, T, H*W)`."""
    rows, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(rows // frames, frames, height * width, channels)
    return flat.permute(0, 3, 1, 2)


def _spatial_view(x: Tensor, height: int, width: int) -> Tensor:
    """View `(N, C, T, H*W)` as `(N*T, C, H, W)`."""
    batch, channels, frames, _ = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * frames, height, width, channels)
    return rows.permute(0, 3, 1, 2)


def _pool_up(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Max-pool `(N, C, H, W)`, rounding output sizes up, as Caffe does."""
    if all(isinstance(size, int) for size in x.shape):
        return F.max_pool2d(x, kernel, stride, ceil_mode=True)
    # torch.export cannot round symbols up. A last row and column that never win do the same.
    padding = (0, stride[1] - 1, 0, stride[0] - 1)
    return F.max_pool2d(F.pad(x, padding, value=-torch.inf), kernel, stride)


def _pool_time(x: Tensor, frames: int, wiring: Wiring) -> tuple[Tensor, int]:
    """Max-pool `(N*T, C, H, W)` over pairs of frames; return the result and its T.

    The last of an odd number of frames is kept by "author" (Caffe rounds up) and dropped by "port".
    A single frame is always kept.
    """
    if frames == 1:
        return x, 1
    rows, channels, height, width = x.shape
    # A trace must not depend on gradients, since torch checks it without them.
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    # While a network of free clip length is exported, `frames` is a symbol that may be odd.
    is_even = isinstance(frames, int) and frames % 2 == 0
    if is_even and (tracing or not (x.requires_grad and torch.compiler.is_compiling())):
        # The maximum over a view takes a third of the pooling kernel's time.
        pairs = x.permute(0, 2, 3, 1).reshape(rows // 2, 2, height * width, channels)
        larger = max_of_pairs(pairs) if x.requires_grad and not tracing else pairs.amax(1)
        larger = larger.reshape(rows // 2, height, width, channels)
        return larger.permute(0, 3, 1, 2), frames // 2
    pool = _pool_up if wiring == "author" else F.max_pool2d
    pooled = pool(_temporal_view(x, frames), (2, 1), (2, 1))
    return _spatial_view(pooled, height, width), pooled.shape[2]


class ConvBN(nn.Module):
    """A convolution without bias and its batch normalization (eps 1e-5, momentum 0.1)."""

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
        bn, conv = self.bn, self.conv
        if isinstance(bn, nn.BatchNorm2d) and not bn.training and bn.running_var is not None:
            # The normalization is constant, so it becomes part of the weight. The gradient follows.
            assert bn.running_mean is not None
            scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
            weight = (conv.weight * scale.view(-1, 1, 1, 1)).to(x.dtype)
            shift = (bn.bias - bn.running_mean * scale).to(x.dtype)
            return F.conv2d(x, weight, shift, conv.stride, conv.padding)
        out: Tensor = bn(conv(x))
        return out


class Bottleneck(nn.Module):
    """A residual block: 1x1 convolution, S and T, 1x1 convolution, plus a shortcut.

    Args:
        in_channels: Channels of the input.
        planes: Channels of S and T; the output has `4 * planes`.
        stride: Spatial stride of the first convolution and of the shortcut.
        kind: "A", "B", "C", or "2d" for a block without T.
        wiring: "author" or "port".
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
        """Map `(N*T, C, H, W)`, where T is `frames`, to `(N*T, 4 * planes, H', W')`."""
        residual = x if self.shortcut is None else self.shortcut(x)
        mixed = self.mix(self, F.relu(self.reduce(x), inplace=True), frames)
        return F.relu(self.expand(mixed).add_(residual), inplace=True)

    def convolve_space(self, x: Tensor) -> Tensor:
        """Apply S, its batch normalization and a ReLU."""
        return F.relu(self.spatial(x), inplace=True)

    def convolve_time(self, x: Tensor, frames: int) -> Tensor:
        """Apply T and its batch normalization, without a ReLU."""
        return _spatial_view(self.temporal(_temporal_view(x, frames)), *x.shape[2:])


# The combinations of S and T (Qiu et al. 2017, fig. 3).


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Add; in place without gradients only, since the backward pass of that copies a view.

    A trace must not depend on gradients, see `_pool_time`.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x + y if torch.is_grad_enabled() or tracing else x.add_(y)


def _mix_2d(block: Bottleneck, x: Tensor, frames: int) -> Tensor:  # noqa: ARG001
    return block.convolve_space(x)


def _mix_a(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return F.relu(block.convolve_time(block.convolve_space(x), frames), inplace=True)


def _mix_b_author(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return F.relu(_add(block.convolve_time(x, frames), block.convolve_space(x)), inplace=True)


def _mix_b_port(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    return block.convolve_space(x) + F.relu(block.convolve_time(x, frames), inplace=True)


def _mix_c_author(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    space = block.convolve_space(x)
    return F.relu(_add(block.convolve_time(space, frames), space).mul_(0.5), inplace=True)


def _mix_c_port(block: Bottleneck, x: Tensor, frames: int) -> Tensor:
    space = block.convolve_space(x)
    return space + F.relu(block.convolve_time(space, frames), inplace=True)


Mix = Callable[[Bottleneck, Tensor, int], Tensor]
MIXES: dict[str, dict[str, Mix]] = {
    "author": {"A": _mix_a, "B": _mix_b_author, "C": _mix_c_author, "2d": _mix_2d},
    "port": {"A": _mix_a, "B": _mix_b_port, "C": _mix_c_port, "2d": _mix_2d},
}


class Stem(ConvBN):
    """1x7x7 convolution, stride (1, 2, 2); batch normalization; ReLU; 2x3x3 max-pooling, stride 2.

    Max-pooling is separable and commutes with ReLU. So time is pooled before space, and ReLU comes
    last, when an eighth of the values is left.
    """

    def __init__(self, in_channels: int, wiring: Wiring) -> None:
        super().__init__(in_channels, PLANES[0], 7, stride=2, padding=3)
        self.wiring: Wiring = wiring

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """Map `(N*T, C, H, W)` to `(N*T/2, 64, H/4, W/4)`; return it and its T."""
        x, frames = _pool_time(super().forward(x), frames, self.wiring)
        if self.wiring == "author":
            x = _pool_up(x, (3, 3), (2, 2))
        else:
            x = F.max_pool2d(x, 3, 2, padding=1)
        return F.relu(x, inplace=True), frames


def _run(block: nn.Module, x: Tensor, frames: int) -> Tensor:
    out: Tensor = block(x, frames)
    return out


class P3D(nn.Module):
    """A Pseudo-3D residual network. Build one with `create_model` or `load_model`.

    Attributes:
        config: The architecture.
        preprocessing: How its input is made from decoded frames; saved with its weights.
        class_names: A name for each logit, or None if unknown.
        trained_on: Digests of the videos that it was trained on; empty if unknown.
        rates: Lowest and highest frame rate of these videos; None if unknown.
        calibration: Values fitted on validation scores: "temperature" divides the logits, "settled"
            is the threshold at which no more clips of a video are needed, "timeline_high" and so
            on are how a timeline's scores become segments.
        frozen_norms: Batch normalizations that stay in evaluation mode during training.
        checkpoint_activations: Whether training keeps only each block's input and recomputes the
            other activations in the backward pass.
    """

    def __init__(self, config: P3DConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocessing: Preprocessing = default_preprocessing(config.modality)
        self.class_names: tuple[str, ...] | None = None
        self.trained_on: frozenset[bytes] = frozenset()
        self.rates: tuple[float, float] | None = None
        self.calibration: dict[str, float] = {}
        self.frozen_norms: tuple[nn.Module, ...] = ()
        self.checkpoint_activations = False

        self.stem = Stem(CHANNELS[config.modality], config.wiring)
        kinds = cycle([config.variant] if config.variant == "2d" else config.variant)
        depths = BLOCKS[config.name]
        self.res2 = self._stage(0, depths[0], kinds)
        self.res3 = self._stage(1, depths[1], kinds)
        self.res4 = self._stage(2, depths[2], kinds)
        self.res5 = self._stage(3, depths[3], cycle(["2d"]))
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(FEATURES, config.num_classes)
        self._initialize()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _stage(self, index: int, depth: int, kinds: Iterator[str]) -> nn.ModuleList:
        """Build stage `res{index + 2}`; `kinds` continues from one stage to the next."""
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

    def _initialize(self) -> None:
        """Draw He-normal convolutions (fan-out) and a small Gaussian classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        """Classify clips.

        Args:
            clips: Float `(N, C, T, H, W)` with T >= 1 and H, W >= 3, normalized as `preprocessing`
                states. Any memory format; channels-last is used without a copy.
            dropout_mask: Factors `(N, 2048)` for the features, in place of dropout.

        Returns:
            Logits `(N, num_classes)`.

        Raises:
            UserError: The clips have the wrong number of dimensions or channels, or are too small.
        """
        features = self.features(clips)
        kept = self.dropout(features) if dropout_mask is None else features * dropout_mask
        logits: Tensor = self.fc(kept)
        return logits

    def features(self, clips: Tensor, layer: Layer = "pool5") -> Tensor:
        """Return the features of clips at a layer.

        Args:
            clips: Float `(N, C, T, H, W)`, as for `forward`.
            layer: "pool5", the pooled features before the classifier, or a stage, "res2" to "res5":
                the output of its last block, before the pooling in time that follows it.

        Returns:
            `(N, 2048)` for "pool5", `(N, channels, T', H', W')` for a stage.

        Raises:
            UserError: As for `forward`.
        """
        self._check(clips)
        batch, channels, frames, height, width = clips.shape
        rows = clips.permute(0, 2, 3, 4, 1).reshape(batch * frames, height, width, channels)
        return self.features_of_frames(rows.permute(0, 3, 1, 2), frames, layer)

    def features_of_frames(self, images: Tensor, frames: int, layer: Layer = "pool5") -> Tensor:
        """Return the features of clips whose frames are a batch of images, see `features`.

        Args:
            images: Float `(N*T, C, H, W)`, the frames of one clip after those of another.
            frames: Frames of a clip (T).
            layer: As for `features`.
        """
        run = run_checkpointed if self.checkpoint_activations else _run
        batch = images.shape[0] // frames
        x, frames = self.stem(images, frames)
        stages = {"res2": self.res2, "res3": self.res3, "res4": self.res4, "res5": self.res5}
        for name, stage in stages.items():
            for block in stage:
                x = run(block, x, frames)
            if name == layer:
                volume: Tensor = x.unflatten(0, (batch, frames)).transpose(1, 2)
                return volume
            if name != "res5":
                x, frames = _pool_time(x, frames, self.config.wiring)
        positions = frames * x.shape[2] * x.shape[3]
        pooled: Tensor = x.permute(0, 2, 3, 1).reshape(batch, positions, FEATURES).mean(1)
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
                f"clips of {clips.shape[2]} frames of {clips.shape[3]}x{clips.shape[4]} px are too "
                "small for the network's strides; give at least 1 frame of 3x3 px"
            )

    def train(self, mode: bool = True) -> P3D:
        """Set training or evaluation mode; `frozen_norms` stay in evaluation mode."""
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
    """Build a network with random weights (He initialization, fan-out).

    Args:
        name: "p3d63", "p3d131" or "p3d199".
        num_classes: Number of logits, at least 1.
        modality: "rgb" or "flow".
        wiring: "author" (the released Caffe graphs) or "port" (the public PyTorch port).
        variant: Kinds of block: "ABC" (mixed), "A", "B", "C", or "2d" (no temporal convolution).
        dropout: Probability of dropping a feature before the classifier, in [0, 1).

    Returns:
        The network in training mode, float32, on the CPU.

    Raises:
        UserError: An argument has an invalid value.

    Example:
        >>> model = create_model("p3d63", num_classes=101).eval()
        >>> model(torch.zeros(1, 3, 16, 64, 64)).shape
        torch.Size([1, 101])
    """
    return P3D(P3DConfig(name, num_classes, modality, wiring, variant, dropout))  # type: ignore[arg-type]


def zero_init_residuals(model: P3D) -> None:
    """Set the weight of every block's last batch normalization to zero, in place.

    Every block then starts as its shortcut.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            norm = module.expand.bn
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)


def fold_norms(model: P3D) -> P3D:
    """Fold every batch normalization into its convolution, in place, for inference.

    Logits change by rounding errors only. The network can no longer be trained or saved.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
