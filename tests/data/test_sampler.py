"""The order of training clips and its division among ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p3d.data.sampler import StepSampler


def sampler(
    num_clips: int, clips_per_step: int, batch_size: int, world_size: int, rank: int = 0
) -> StepSampler:
    return StepSampler(
        num_clips,
        clips_per_step=clips_per_step,
        batch_size=batch_size,
        seed=3,
        rank=rank,
        world_size=world_size,
    )


def steps(
    num_clips: int, clips_per_step: int, batch_size: int, rank: int, world_size: int
) -> list[list[list[tuple[int, int]]]]:
    """Return a rank's batches of epoch 2, grouped by step."""
    ours = sampler(num_clips, clips_per_step, batch_size, world_size, rank)
    ours.epoch = 2
    batches = list(ours)
    assert len(batches) == len(ours)
    size = ours.batches_per_step
    return [batches[i : i + size] for i in range(0, len(batches), size)]


@given(
    num_clips=st.integers(1, 60),
    clips_per_step=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
)
def test_step_has_the_same_clips_for_any_number_of_ranks(
    num_clips: int, clips_per_step: int, batch_size: int, world_size: int
) -> None:
    alone = steps(num_clips, clips_per_step, num_clips, 0, 1)
    ranks = [
        steps(num_clips, clips_per_step, batch_size, rank, world_size) for rank in range(world_size)
    ]
    expected_size = min(clips_per_step, num_clips)
    assert {len(rank) for rank in ranks} == {len(alone)} == {num_clips // expected_size}
    for (expected,), *shards in zip(alone, *ranks, strict=True):
        found = [clip for shard in shards for batch in shard for clip in batch]
        assert sorted(found) == sorted(expected)
        assert len(set(found)) == len(found) == expected_size
        assert len({len(shard) for shard in shards}) == 1, "ranks differ in their number of batches"
        sizes = [sum(map(len, shard)) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        assert all(len(batch) <= batch_size for shard in shards for batch in shard)
        smallest = min(len(batch) for shard in shards for batch in shard if batch)
        assert sampler(num_clips, clips_per_step, batch_size, world_size).smallest_batch == smallest


@given(start=st.integers(0, 7))
def test_epoch_can_start_at_any_step(start: int) -> None:
    sampler = StepSampler(23, clips_per_step=3, batch_size=2, seed=0)
    expected = list(sampler)
    sampler.start_step = start
    assert list(sampler) == expected[start * sampler.batches_per_step :]


def test_epoch_has_every_clip_once_in_its_own_order() -> None:
    sampler = StepSampler(24, clips_per_step=8, batch_size=8, seed=0)
    first = [number for batch in sampler for _, number in batch]
    sampler.epoch = 1
    second = [number for batch in sampler for _, number in batch]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
