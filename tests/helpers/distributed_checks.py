"""Checks of two processes that work together; run under torchrun by `test_distributed.py`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import Batch
from p3d.model.network import create_model, zero_init_residuals
from p3d.model.sync_batchnorm import SyncNorm, synchronize_norms
from p3d.system.distributed import Group, join, read_launch
from p3d.training.optim import freeze
from p3d.training.recipes import SCRATCH, Recipe
from p3d.training.state import TrainState, build_state
from p3d.training.step import train_step

CPU = torch.device("cpu")
RECIPE = replace(SCRATCH, batch_size=4, dropout=0.5, zero_init_residuals=False, lr=1e-3)
DATASET = VideoDataset(
    ("one", "two"), tuple(VideoRecord(Path(f"{n}.avi"), n % 2) for n in range(8))
)


def check_exchange(group: Group) -> None:
    assert group.world_size == 2
    assert group.total([1.0, group.rank]) == [2.0, 1.0]
    assert group.any(group.rank == 1)
    assert not group.any(False)
    assert group.gather({"rank": group.rank}) == [{"rank": 0}, {"rank": 1}]


def check_sync_norm(group: Group) -> None:
    """Outputs, gradients and statistics equal those of batch normalization over the whole batch."""
    torch.manual_seed(0)
    whole = torch.randn(5, 3, 4, 4, dtype=torch.float32) * 3 + 100
    norm = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    ours = SyncNorm(3)
    ours.load_state_dict(norm.state_dict())
    weights = torch.randn_like(whole)
    for shards in (slice(0, 2), slice(2, 5)), (slice(0, 5), slice(5, 5)):  # the last one is empty
        shard = shards[group.rank]
        alone = whole.clone().requires_grad_()
        mine = whole[shard].clone().requires_grad_()
        expected, out = norm(alone), ours(mine)
        torch.testing.assert_close(out, expected[shard], rtol=1e-4, atol=1e-5)
        norm.zero_grad()
        ours.zero_grad()
        (expected * weights).sum().backward()
        (out * weights[shard]).sum().backward()
        torch.testing.assert_close(mine.grad, alone.grad[shard], rtol=1e-3, atol=1e-5)
        gradients = group.gather(ours.weight.grad)
        torch.testing.assert_close(sum(gradients), norm.weight.grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.running_mean, norm.running_mean)
        torch.testing.assert_close(ours.running_var, norm.running_var)
        assert ours.num_batches_tracked == norm.num_batches_tracked


def batch(videos: list[int]) -> Batch:
    """Return a batch of one clip a video, drawn from the video's index alone."""
    clips = [
        torch.randint(
            0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)
        )
        for n in videos
    ]
    stacked = torch.stack(clips) if clips else torch.empty((0, 4, 16, 16, 3), dtype=torch.uint8)
    labels = torch.tensor([n % 2 for n in videos], dtype=torch.int64)
    return Batch(stacked, labels, torch.tensor(videos, dtype=torch.int64), ())


def build(recipe: Recipe, group: Group, *, sync: bool = False) -> TrainState:
    torch.manual_seed(1)
    model = create_model("p3d63", num_classes=2, dropout=recipe.dropout)
    if recipe.zero_init_residuals:
        zero_init_residuals(model)
    if sync:
        synchronize_norms(model)
    freeze(model, recipe)
    model.train()
    return build_state(
        recipe,
        model,
        DATASET,
        CPU,
        clips_per_step=8,
        steps_per_epoch=2,
        seed=1,
        precision="fp32",
        group=group,
    )


def check_steps(group: Group, recipe: Recipe, shards: list[list[list[int]]], *, sync: bool) -> None:
    """Steps of two processes give the weights of one process that has all the clips.

    Args:
        group: The two processes.
        recipe: How to train.
        shards: The videos of each batch of a step, by rank.
        sync: Whether batch statistics are synchronized.
    """
    together, alone = build(recipe, group, sync=sync), build(recipe, Group())
    all_videos = [n for batches in shards for videos in batches for n in videos]
    for _ in range(2):
        ours = train_step(together, [batch(videos) for videos in shards[group.rank]])
        theirs = train_step(alone, [batch(all_videos)])
        assert ours.clips == theirs.clips == len(all_videos)
        assert abs(ours.loss - theirs.loss) < 1e-4 * theirs.loss
        assert abs(ours.gradient_norm - theirs.gradient_norm) < 1e-3 * theirs.gradient_norm
    assert together.progress == replace(alone.progress, loss=together.progress.loss)
    theirs_named = dict(alone.model.named_parameters())
    for name, parameter in together.model.named_parameters():
        torch.testing.assert_close(
            parameter, theirs_named[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def check_empty_batch(group: Group) -> None:
    """A process with only broken videos does not block the step or change its batch statistics."""
    run = build(RECIPE, group)
    before = copy.deepcopy(run.model.state_dict())
    mine = batch([0, 1, 2] if group.rank == 0 else [])
    step = train_step(run, [mine._replace(bad=("x.avi: no video",) if group.rank else ())])
    assert step.clips == 3
    assert run.progress.bad == 1
    assert run.model.stem.bn.training
    after = run.model.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    moved = not torch.equal(after["stem.bn.running_mean"], before["stem.bn.running_mean"])
    assert moved == (group.rank == 0)
    group.share_buffers(run.model)
    means = group.gather(after["stem.bn.running_mean"])
    assert torch.equal(means[0], means[1])
    weights = group.gather(after["stem.conv.weight"])
    assert torch.equal(weights[0], weights[1])


def main() -> None:
    torch.set_num_threads(1)
    with join(CPU, read_launch()) as group:
        check_exchange(group)
        check_sync_norm(group)
        frozen = replace(RECIPE, norms="freeze-all")
        check_steps(group, frozen, [[[0, 1, 2]], [[3, 4, 5]]], sync=False)
        check_steps(group, frozen, [[[0, 1], [2, 3]], [[4], []]], sync=False)
        # Without it, deep batch normalization over few values amplifies rounding errors.
        zero_init = replace(RECIPE, zero_init_residuals=True)
        check_steps(group, zero_init, [[[0, 1, 2, 3]], [[4, 5]]], sync=True)
        check_empty_batch(group)
        print(f"process {group.rank}: all checks passed", flush=True)


if __name__ == "__main__":
    main()
