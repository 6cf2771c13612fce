"""Checks of two processes, each with a simulated card; run under torchrun by `test_mlu.py`."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from distributed_checks import DATASET, RECIPE, batch
from mlu import compute_as_the_card

from p3d.model.network import create_model
from p3d.model.sync_batchnorm import synchronize_norms
from p3d.system.device import resolve_device
from p3d.system.distributed import Group, join, read_launch
from p3d.training.state import TrainState, build_state
from p3d.training.step import train_step


def check_collectives(group: Group, card: torch.device) -> None:
    """Collectives on the card's tensors run by cncl, those on the CPU's by gloo."""
    rank = group.rank
    mine = torch.tensor([1.0 + rank, 10.0], device=card)
    total = mine.clone()
    work = dist.all_reduce(total, async_op=True)
    assert work is not None
    work.wait()
    assert total.tolist() == [3.0, 20.0]
    assert total.device == card
    from_one = mine.clone()
    dist.broadcast(from_one, 1)
    assert from_one.tolist() == [2.0, 10.0]
    parts = [torch.zeros_like(mine) for _ in range(2)]
    dist.all_gather(parts, mine)
    assert [part[0].item() for part in parts] == [1.0, 2.0]
    together = torch.zeros(4, device=card)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newest PyTorch renamed it
        dist.all_gather_into_tensor(together, mine)
    assert together.tolist() == [1.0, 10.0, 2.0, 10.0]
    at_zero = mine.clone()
    dist.reduce(at_zero, 0)
    assert rank == 1 or at_zero.tolist() == [3.0, 20.0]
    dist.barrier()
    host = torch.ones(2)
    dist.all_reduce(host)
    assert host.tolist() == [2.0, 2.0]


def build(device: torch.device, group: Group) -> TrainState:
    torch.manual_seed(group.rank)  # all start with the weights of rank 0
    model = create_model("p3d63", num_classes=2, dropout=RECIPE.dropout)
    synchronize_norms(model)
    model.train()
    return build_state(
        RECIPE,
        model,
        DATASET,
        device,
        clips_per_step=8,
        steps_per_epoch=2,
        seed=1,
        precision="fp32",
        group=group,
    )


def check_step(group: Group, card: torch.device) -> None:
    """A step on two cards equals one on two CPUs bit for bit."""
    shards = [[[0, 1], [2]], [[3, 4], []]]  # one batch is empty, as if its videos were broken
    results = []
    for device in (card, torch.device("cpu")):
        run = build(device, group)
        step = train_step(run, [batch(videos) for videos in shards[group.rank]])
        results.append((step, run.model.state_dict()))
    (step, ours), (other_step, theirs) = results
    assert step == other_step
    assert step.clips == 5
    assert all(torch.equal(ours[name].cpu(), theirs[name]) for name in theirs)
    weight = group.gather(ours["stem.conv.weight"].cpu())
    assert torch.equal(weight[0], weight[1])


def main() -> None:
    torch.set_num_threads(1)
    compute_as_the_card(pytest.MonkeyPatch())
    launch = read_launch()
    card = resolve_device("mlu", launch.local_rank)
    with join(card, launch) as group:
        assert [str(device) for device in group.gather(card)] == ["mlu:0", "mlu:1"]
        check_collectives(group, card)
        check_step(group, card)
        print(f"process {group.rank}: all checks passed", flush=True)


if __name__ == "__main__":
    main()
