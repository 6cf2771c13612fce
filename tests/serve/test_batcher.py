"""Clips of several requests, scored together."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.serve.batcher import Batcher


class _Sums:
    """Maps clips to the sums of their pixels; refuses a batch with a 255; can be held up."""

    device, batch_size = torch.device("cpu"), 4

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()

    def __call__(self, clips: Tensor) -> Tensor:
        assert self.go.wait(60)
        self.sizes.append(len(clips))
        if (clips == 255).any():
            raise UserError("not finite")
        return clips.flatten(1).float().sum(1, keepdim=True)


def _clips(value: int, count: int = 1) -> Tensor:
    return torch.full((count, 2, 3, 3, 1), value, dtype=torch.uint8)


def test_requests_share_batches_and_get_their_own_scores() -> None:
    scorer, seen = _Sums(), list[int]()
    batcher = Batcher(scorer, window=60, each=seen.append)
    futures = [batcher.submit(_clips(value, 2)) for value in range(6)]
    scorer.go.set()
    batcher.close()
    assert [future.result(0).tolist() for future in futures] == [[[18.0 * v]] * 2 for v in range(6)]
    assert scorer.sizes == seen == [4, 4, 4]


def test_an_error_fails_one_request_only() -> None:
    scorer = _Sums()
    scorer.go.set()
    batcher = Batcher(scorer, window=60)
    bad, good = batcher.submit(_clips(255, 2)), batcher.submit(_clips(1, 2))
    batcher.close()
    assert good.result(0).tolist() == [[18.0]] * 2
    with pytest.raises(UserError, match="not finite"):
        bad.result(0)


def test_a_closed_batcher_refuses_and_loses_nothing() -> None:
    scorer = _Sums()
    scorer.go.set()
    batcher = Batcher(scorer, window=60)
    future = batcher.submit(_clips(1))
    batcher.close()
    assert not batcher.is_alive()
    assert future.result(0).tolist() == [[18.0]]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(_clips(1))


def test_a_canceled_request_is_not_scored() -> None:
    scorer = _Sums()
    batcher = Batcher(scorer, window=0)
    first, second = batcher.submit(_clips(1, 4)), batcher.submit(_clips(2, 4))
    assert second.cancel()
    scorer.go.set()
    batcher.close()
    assert first.result(0).tolist() == [[18.0]] * 4
    assert scorer.sizes == [4]
