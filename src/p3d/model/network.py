"""The Pseudo-3D residual network.

Zhaofan Qiu, Ting Yao and Tao Mei, "Learning Spatio-Temporal Representation with Pseudo-3D Residual
Networks", ICCV 2017.

A P3D network is a bottleneck ResNet over clips. Its blocks replace the 3x3x3 convolution by a
spatial 1x3x3 convolution (S) and a temporal 3x1x1 convolution (T). There are three kinds of block
(fig. 3 of the paper), which alternate over the stages res2 to res4: in A, T follows S; in B, both
have the same input and are added; in C, T follows S and is added to it. Blocks of res5 have S only,
since a clip of 16 frames has a single frame left there.

`p3d.model.views` describes the layout of activations in memory, and `p3d.model.blocks` the layers.

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

from collections.abc import Iterator
from itertools import cycle
from typing import get_args

import torch
from torch import Tensor, nn

from p3d.errors import UserError, check_choice
from p3d.model.activation_checkpointing import run_checkpointed
from p3d.model.blocks import Bottleneck, ConvBN, Stem
from p3d.model.config import BLOCKS, CHANNELS, EXPANSION, FEATURES, PLANES, Layer, P3DConfig
from p3d.model.views import every, pool_time
from p3d.preprocessing import Preprocessing, default_preprocessing

_STRIDES = {"res2": 2, "res3": 2, "res4": 2, "res5": 1}
"""Spatial stride between a stage and the next, which a bottleneck ResNet has in its first 1x1
convolutions. They would read every second pixel of the pooled stage; here no others are pooled."""


def _run(block: nn.Module, x: Tensor, *sizes: int) -> Tensor:
    out: Tensor = block(x, *sizes)
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
        skips_unread: Whether the last blocks of res2 to res4 compute only the pixels that the next
            stage reads, every second in height and width. Logits stay the same. Whoever hooks into
            these blocks wants all pixels, so it is off until the network is folded for inference
            or set up for training.
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
        self.skips_unread = False

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
            UserError: The clips have the wrong number of dimensions or channels, are too small, or
                are not of floating point.
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
            UserError: As for `forward`, or there is no such layer.
        """
        check_choice("layer", layer, get_args(Layer))
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
        for name, (*blocks, last) in stages.items():
            for block in blocks:
                x = run(block, x, frames, 1)
            stride = _STRIDES[name]
            skips = self.skips_unread and name != layer
            x = run(last, x, frames, stride if skips else 1)
            if name == layer:
                volume: Tensor = x.unflatten(0, (batch, frames)).transpose(1, 2)
                return volume
            if name != "res5":
                x = x if skips else every(x, stride)
                x, frames = pool_time(x, frames, self.config.wiring)
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
        if not clips.is_floating_point():
            raise UserError(
                f"the clips are of type {clips.dtype}; normalize them first: "
                "p3d.normalize(clips, model.preprocessing) takes uint8 (N, T, H, W, C)"
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
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.fold_factor()
    model.skips_unread = True
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
