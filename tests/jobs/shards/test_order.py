"""The order of samples: a pure function, the same for every number of workers, each sample at most once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import UserError
from jobs.shards import order as order_module
from jobs.shards.order import Order

GOLDEN = Path(__file__).with_name("order_golden.json")


@st.composite
def orders(draw: st.DrawFn) -> Order:
    lanes = draw(st.sampled_from([1, 2, 4, 6, 8]))
    batch = lanes * draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12))
    counts[0] += max(0, batch - sum(counts))
    return Order(
        counts,
        seed=draw(st.integers(0, 2**64 - 1)),
        lanes=lanes,
        global_batch_size=batch,
        shuffle_shards=draw(st.integers(1, 5)),
    )


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    return np.stack([order.batch(epoch, step, range(order.lanes)) for step in range(order.steps_per_epoch)])


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 1000))
def test_an_epoch_takes_each_sample_at_most_once_and_as_many_as_fill_whole_batches(order: Order, epoch: int) -> None:
    ids = epoch_of(order, epoch)
    total, batch = int(order._counts.sum()), order.lanes * order.lane_batch_size
    assert ids.shape == (total // batch, batch)
    assert len(np.unique(ids)) == ids.size
    assert ids.min() >= 0
    assert ids.max() < total


@settings(max_examples=40, deadline=None)
@given(orders(), st.integers(0, 50))
def test_global_batches_are_the_same_for_every_number_of_workers(order: Order, epoch: int) -> None:
    whole = epoch_of(order, epoch)
    for workers in (n for n in range(2, order.lanes + 1) if order.lanes % n == 0):
        share = order.lanes // workers
        for step in range(order.steps_per_epoch):
            ranks = [order.batch(epoch, step, range(r * share, (r + 1) * share)) for r in range(workers)]
            assert np.concatenate(ranks).tolist() == whole[step].tolist()


@settings(max_examples=40, deadline=None)
@given(orders(), st.data())
def test_a_batch_does_not_depend_on_what_was_asked_before(order: Order, data: st.DataObject) -> None:
    steps = st.integers(0, order.steps_per_epoch - 1)
    asked = data.draw(st.lists(st.tuples(st.integers(0, 3), steps), min_size=1, max_size=6))
    for epoch, step in asked:
        fresh = Order(
            order._counts,
            seed=order._seed,
            lanes=order.lanes,
            global_batch_size=order.lanes * order.lane_batch_size,
            shuffle_shards=order._shuffle_shards,
        )
        lanes = range(order.lanes)
        assert order.batch(epoch, step, lanes).tolist() == fresh.batch(epoch, step, lanes).tolist()


def make(seed: int = 7, **changes: int) -> Order:
    numbers = {"lanes": 4, "global_batch_size": 8, "shuffle_shards": 2, **changes}
    return Order([10, 7, 0, 13, 11, 9, 12, 5, 8, 10], seed=seed, **numbers)


def test_the_order_never_changes() -> None:
    order = make()
    assert [epoch_of(order, epoch).tolist() for epoch in (0, 1)] == json.loads(GOLDEN.read_text())


def test_epochs_and_seeds_differ_in_order_and_in_what_they_leave_out() -> None:
    order = make()
    first, second, other = epoch_of(order, 0), epoch_of(order, 1), epoch_of(make(seed=8), 0)
    assert (first != second).mean() > 0.8
    assert (first != other).mean() > 0.8
    left_out = [set(range(85)) - set(epoch_of(order, epoch).ravel().tolist()) for epoch in range(6)]
    assert all(len(some) == 5 for some in left_out)
    assert len({tuple(sorted(some)) for some in left_out}) > 3


def test_over_some_epochs_every_sample_is_seen() -> None:
    order = make()
    seen = np.unique(np.concatenate([epoch_of(order, epoch).ravel() for epoch in range(8)]))
    assert seen.tolist() == list(range(85))


def test_a_lane_shuffles_within_blocks_of_shards_and_walks_them_one_after_the_other() -> None:
    order = make(lanes=1, shuffle_shards=3)
    plan = order.plan(0, 0)
    ids = epoch_of(order, 0).ravel()
    start = 0
    for number in range(len(plan)):
        block = plan.block(number)
        assert len(block.counts) <= 3
        starts = order._starts[block.shards] + block.firsts
        expected = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, block.counts, strict=True)])
        part = ids[start : start + len(block)]
        assert sorted(part.tolist()) == sorted(expected.tolist())
        assert part.tolist() != expected.tolist()
        start += len(block)
    assert start == plan.length == len(ids)


def test_a_huge_data_set_is_planned_without_walking_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = order_module.raw

    def counting(count: int, *rest: object) -> np.ndarray:
        drawn.append(count)
        return draw(count, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(order_module, "raw", counting)
    order = Order(np.full(100_000, 10_000), seed=0, lanes=64, global_batch_size=4096, shuffle_shards=4)
    assert order.steps_per_epoch == 10**9 // 4096
    ids = order.batch(5, 200_000, range(17, 18))
    assert ids.shape == (64,)
    assert ids.dtype == np.int64
    # One number for each shard, one for the rotation, and one for each sample of a single block.
    assert sorted(drawn)[0] == 1
    assert sum(drawn) <= 100_000 + 1 + 4 * 10_000
    order.batch(5, 200_001, range(17, 18))
    assert sum(drawn) <= 100_000 + 1 + 4 * 10_000


def test_too_few_samples_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"7 samples, fewer than one global batch of 8") as caught:
        Order([3, 4], seed=0, lanes=4, global_batch_size=8, shuffle_shards=1)
    assert "global_batch_size" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "wrong",
    [{"lanes": 3}, {"lanes": 0}, {"shuffle_shards": 0}, {"seed": -1}, {"seed": 2**64}, {"global_batch_size": 0}],
)
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    numbers = {"seed": 0, "lanes": 4, "global_batch_size": 8, "shuffle_shards": 1, **wrong}
    with pytest.raises(ValueError, match=r"lanes|seed|shuffle"):
        Order([100], **numbers)


def test_positions_outside_an_epoch_are_refused() -> None:
    order = make()
    with pytest.raises(ValueError, match="outside an epoch of 10"):
        order.batch(0, 10, range(4))
    with pytest.raises(ValueError, match="lane 4"):
        order.batch(0, 0, range(4, 5))
