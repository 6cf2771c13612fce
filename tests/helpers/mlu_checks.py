"""Checks of the simulated card in one process; run by `test_mlu.py`.

Prints JSON: the traceback of each failed check by name, and null for each that passed.
"""

from __future__ import annotations

import io
import json
import os
import traceback
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from p3d.errors import UserError
from p3d.system.device import (
    collective_backend,
    describe_device,
    grad_scaler,
    peak_memory,
    resolve_device,
    set_precision,
)


def message_of(call: Any, kind: type[Exception] = RuntimeError) -> str:
    """Return the message of the error that a call must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def check_operands_must_be_on_the_same_device() -> None:
    card = torch.ones(2, 3, 4, 4, device="mlu")
    weight, labels = torch.ones(3, 3, 1, 1), torch.zeros(2, dtype=torch.int64)
    for call in (
        lambda: card + card.cpu(),
        lambda: card.add_(card.cpu()),
        lambda: torch.cat([card, card.cpu()]),
        lambda: F.conv2d(card, weight),
        lambda: F.linear(card, torch.ones(5, 4)),
        lambda: F.cross_entropy(card.mean((2, 3)), labels),
        lambda: F.batch_norm(card, torch.zeros(3), torch.ones(3)),
        lambda: card + card.to("mlu:1"),
    ):
        assert "on the same device" in message_of(call)
    assert (card * torch.tensor(2.0)).sum() == 2 * card.numel()  # scalars may be anywhere
    assert torch.equal(card[torch.tensor([1])], card[:1])  # so may indices


def check_autocast_casts() -> None:
    images = torch.randn(2, 3, 4, 4, device="mlu", requires_grad=True)
    weight = torch.randn(5, 3, 1, 1, device="mlu", requires_grad=True)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("mlu", dtype=dtype):
            out = F.conv2d(images, weight)
            scores = F.linear(out.mean((2, 3)), torch.ones(4, 5, device="mlu"))
            loss = F.cross_entropy(scores, torch.tensor([0, 1], device="mlu"))
            assert (out.dtype, scores.dtype, loss.dtype) == (dtype, dtype, torch.float32)
            assert scores.softmax(1).dtype == scores.norm().dtype == torch.float32
        loss.backward()
    assert images.grad is not None
    assert images.grad.dtype == weight.grad.dtype == torch.float32


def check_dropout_depends_on_the_seed_alone() -> None:
    kept = []
    for device in ("cpu", "mlu", "mlu"):
        torch.manual_seed(7)
        kept.append(F.dropout(torch.ones(1000, device=device), 0.9).cpu())
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[1], kept[2])
    state = torch.mlu.get_rng_state()
    first = torch.randn(3, device="mlu")
    torch.mlu.set_rng_state(state)
    assert torch.equal(torch.randn(3, device="mlu"), first)


def check_the_card_has_its_own_random_numbers() -> None:
    before = torch.get_rng_state()
    torch.randn(3, device="mlu")
    assert torch.equal(torch.get_rng_state(), before)


def check_an_overflow_skips_a_step_and_halves_the_scale() -> None:
    weight = nn.Parameter(torch.ones(2, device="mlu"))
    optimizer = torch.optim.SGD([weight], 0.1)
    scaler = grad_scaler(torch.device("mlu"), "fp16")
    before = scaler.get_scale()
    for factor, changed in ((float("inf"), False), (1.0, True)):
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert (weight.tolist() != [1.0, 1.0]) == changed
    assert scaler.get_scale() == before / 2


def check_memory_is_counted() -> None:
    device = resolve_device("mlu", 1)
    before = torch.mlu.memory_allocated()
    kept = torch.ones(1000, device=device)
    freed = torch.ones(3000, device=device)
    del freed
    assert torch.mlu.memory_allocated(device) == before + kept.nbytes
    assert peak_memory(device) >= before + 4 * kept.nbytes
    torch.mlu.reset_peak_memory_stats(device)
    assert peak_memory(device) == before + kept.nbytes
    assert torch.ones(2).pin_memory().is_pinned()


def check_tensors_are_saved_and_loaded() -> None:
    tensor = torch.randn(3, 4, device="mlu:2")
    file = io.BytesIO()
    torch.save({"of a view": tensor[1:]}, file)
    for target, expected in ((None, "mlu:2"), ("cpu", "cpu"), ("mlu:0", "mlu:0")):
        file.seek(0)
        loaded = torch.load(file, map_location=target, weights_only=True)["of a view"]
        assert loaded.device == torch.device(expected)
        assert torch.equal(loaded.cpu(), tensor[1:].cpu())


def check_results_and_views_are_on_the_card() -> None:
    x = torch.randn(4, 6, device="mlu:3")
    view = x.view(2, 12).t()[2:]
    view.zero_()
    assert x.flatten()[2:12].eq(0).all()
    for result in (x.unfold(1, 2, 2), x.max(1).values, x.new_zeros(3), x.split(2)[1], x[x > 0]):
        assert result.device == x.device
    target = torch.empty(0, device=x.device)
    assert torch.equal(torch.mm(x, x.t(), out=target), x @ x.t())


def check_a_forked_process_cannot_use_the_card() -> None:
    torch.ones(1, device="mlu")
    child = os.fork()
    if child == 0:
        message = message_of(lambda: torch.ones(1, device="mlu"))
        torch.manual_seed(0)  # as loader workers do; it must not use the card
        os._exit(0 if "Cannot re-initialize MLU in forked subprocess" in message else 1)
    assert os.waitpid(child, 0)[1] == 0
    torch.ones(1, device="mlu")


def check_p3d_finds_the_card() -> None:
    assert resolve_device("auto") == torch.device("mlu:0")
    device = resolve_device("mlu", 5)
    assert (device, torch.mlu.current_device()) == (torch.device("mlu:5"), 5)
    assert torch.ones(1, device="mlu").device == device
    assert describe_device(device) == "mlu:5 (Simulated MLU, 24 GiB)"
    assert collective_backend(device) == "cpu:gloo,mlu:cncl"
    message = message_of(lambda: resolve_device("mlu", 8), UserError)
    assert "there are 8" in message
    assert "MLU_VISIBLE_DEVICES" in message
    resolve_device("mlu", 0)


def check_fp32_disables_tf32() -> None:
    """As on a real card, TF32 is on for convolutions by default."""
    convolutions, products = torch.backends.cnnl, torch.backends.mlu.matmul
    assert convolutions.allow_tf32
    set_precision(torch.device("mlu"), "fp32")
    assert not convolutions.allow_tf32
    assert not products.allow_tf32
    set_precision(torch.device("mlu"), "tf32")
    assert convolutions.allow_tf32
    assert products.allow_tf32


CHECKS = {name: check for name, check in globals().items() if name.startswith("check_")}


def main() -> None:
    import torch_mlu  # noqa: F401 (registers the device)

    found: dict[str, str | None] = {}
    for name, check in CHECKS.items():
        try:
            check()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
