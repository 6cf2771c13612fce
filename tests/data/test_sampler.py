"""Which clips each process gets: exact shares of one order, however many processes there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p3d.data.sampler import StepSampler


def steps(clips: int, per_step: int, batch_size: int, rank: int, world: int) -> list[list[list]]:
    """A process's batches of epoch 2, grouped by step."""
    sampler = StepSampler(
        clips, clips_per_step=per_step, batch_size=batch_size, seed=3, rank=rank, world_size=world
    )
    sampler.epoch = 2
    batches = list(sampler)
    assert len(batches) == len(sampler)
    size = sampler.batches_per_step
    return [batches[i : i + size] for i in range(0, len(batches), size)]


@given(
    clips=st.integers(1, 60),
    per_step=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 5),
)
def test_a_step_sees_the_same_clips_for_any_number_of_processes(
    clips: int, per_step: int, batch_size: int, world: int
) -> None:
    alone = steps(clips, per_step, clips, 0, 1)
    ranks = [steps(clips, per_step, batch_size, rank, world) for rank in range(world)]
    assert {len(of_rank) for of_rank in ranks} == {len(alone)} == {clips // min(per_step, clips)}
    for whole, *shares in zip(alone, *ranks, strict=True):
        (expected,) = whole
        seen = [clip for share in shares for batch in share for clip in batch]
        assert sorted(seen) == sorted(expected)
        assert len(set(seen)) == len(seen) == min(per_step, clips)
        assert len({len(share) for share in shares}) == 1, "equally many batches everywhere"
        sizes = [sum(map(len, share)) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert all(len(batch) <= batch_size for share in shares for batch in share)


@given(start=st.integers(0, 7))
def test_an_epoch_goes_on_at_any_step(start: int) -> None:
    sampler = StepSampler(23, clips_per_step=3, batch_size=2, seed=0)
    whole = list(sampler)
    sampler.start_step = start
    assert list(sampler) == whole[start * sampler.batches_per_step :]


def test_a_clip_appears_once_an_epoch_and_epochs_differ() -> None:
    sampler = StepSampler(24, clips_per_step=8, batch_size=8, seed=0)
    first = [number for batch in sampler for _, number in batch]
    sampler.epoch = 1
    second = [number for batch in sampler for _, number in batch]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
