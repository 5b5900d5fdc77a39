"""Who loads which seeds when: every seed once, as many batches for each trainer, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed

from fondaco.core.errors import InputError
from fondaco.graph.torch.plan import EpochPlan, Groups
from fondaco.graph.torch.ranks import Rank, trainer_rank

PLANS = {
    "count": st.integers(0, 60),
    "batch_size": st.integers(1, 9),
    "world": st.integers(1, 5),
    "shuffle": st.booleans(),
    "epoch": st.integers(0, 3),
}


def batches_of(world, epoch, *args, **options):
    plans = [EpochPlan(*args, rank=Rank(rank, world), **options) for rank in range(world)]
    return [[plan.batch(plan.order(epoch), index) for index in range(len(plan))] for plan in plans]


@settings(max_examples=100)
@given(**PLANS, group=st.integers(0, 12))
def test_every_seed_is_loaded_once_an_epoch_by_trainers_with_equally_many_batches(count, batch_size, world, shuffle, epoch, group):
    groups = Groups(np.random.default_rng(1).permutation(count), group) if group else None
    ranks = batches_of(world, epoch, count, batch_size, shuffle=shuffle, groups=groups)
    assert len({len(batches) for batches in ranks}) == 1
    once = [batch.positions for batches in ranks for batch in batches if not batch.repeated]
    assert sorted(np.concatenate([*once, np.empty(0, np.int64)]).tolist()) == list(range(count))
    assert all(1 <= len(batch.positions) <= batch_size for batches in ranks for batch in batches)
    repeated = [batch for batches in ranks for batch in batches if batch.repeated]
    assert len(repeated) < world
    assert sorted(batch.number for batches in ranks for batch in batches) == list(range(len(ranks[0]) * world))


@settings(max_examples=60)
@given(**PLANS)
def test_drop_last_leaves_full_batches_only(count, batch_size, world, shuffle, epoch):
    ranks = batches_of(world, epoch, count, batch_size, shuffle=shuffle, drop_last=True)
    sizes = {len(batch.positions) for batches in ranks for batch in batches}
    assert sizes <= {batch_size}
    assert sum(len(batches) for batches in ranks) == count // (batch_size * world) * world


def test_full_rounds_hold_the_same_batches_for_any_number_of_trainers():
    alone, pair = batches_of(1, 2, 100, 10, shuffle=True, seed=9), batches_of(2, 2, 100, 10, shuffle=True, seed=9)
    shared = {batch.number: batch.positions.tolist() for batches in pair for batch in batches}
    assert {batch.number: batch.positions.tolist() for batch in alone[0]} == shared


def test_orders_differ_between_epochs_and_seeds_and_repeat_for_the_same():
    plan = EpochPlan(1000, 10, shuffle=True, seed=1)
    assert plan.order(0).tolist() == EpochPlan(1000, 99, shuffle=True, seed=1).order(0).tolist()
    assert plan.order(0).tolist() != plan.order(1).tolist() != EpochPlan(1000, 10, shuffle=True, seed=2).order(1).tolist()
    assert EpochPlan(5, 2).order(3).tolist() == [0, 1, 2, 3, 4]


def test_an_order_is_what_it_always_was():
    """Runs are repeated after an upgrade, too: this is written down, not computed."""
    assert EpochPlan(8, 2, shuffle=True, seed=7).order(0).tolist() == [0, 4, 3, 1, 7, 2, 6, 5]


def test_the_rank_is_the_one_said_or_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert trainer_rank() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert trainer_rank() == (2, 4)
    assert trainer_rank(0, 3) == (0, 3)
    for wrong in ((3, 3), (-1, 2), (0, None), (0, 0)):
        with pytest.raises(InputError):
            trainer_rank(*wrong)
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(InputError, match="RANK='two'"):
        trainer_rank()


def test_the_process_group_that_was_joined_comes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "5")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert trainer_rank() == (0, 1)
    finally:
        distributed.destroy_process_group()


def test_a_batch_without_seeds_is_refused():
    with pytest.raises(InputError, match=r"batch_size \(seeds in a batch\) is a whole number from 1 .* not 0"):
        EpochPlan(3, 0)
