"""Rows of any Gymnasium environment copied, swapped, saved and restored."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium_tasks import assert_same, full, linear, open_task, some_thetas, started
from toy_environments import Foreign, Locked, make_wrapped

from es_rl.envs.faults import NotCopyableError, NotReproducibleError
from es_rl.envs.gymnasium_task import GymnasiumTask

COPIED = ["CartPole-v1", "Pendulum-v1", "Swimmer-v4", "Hopper-v4", "Humanoid-v4"]


# --- copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", COPIED)
def test_copies_are_exact_and_lead_lives_of_their_own(env_id):
    with open_task(env_id) as task, open_task(env_id) as control:
        rows, thetas = started(task, 4, n_steps=3)
        started(control, 4, n_steps=3)
        task.copy_rows(np.array([0, 0]), np.array([1, 3]))
        same = np.repeat(thetas[:1], 4, axis=0)
        together = task.unroll(np.array([0, 1, 3]), same[:3], full(3, 4))
        assert together.steps_taken[0] == 4
        for values in together:
            assert (values == values[0]).all()
        # other parameters lead elsewhere, and leave the original alone
        others = np.stack([thetas[0], -thetas[0], 2 * thetas[2]])
        apart = task.unroll(np.array([0, 1, 3]), others, full(3, 40))
        assert len(set(apart.loss_sum)) > 1
        alone = control.unroll(rows[:1], same[:1], full(1, 4))
        assert_same([values[:1] for values in together], alone)
        alone = control.unroll(rows[:1], others[:1], full(1, 40))
        assert_same([values[:1] for values in apart], alone)


@pytest.mark.parametrize("source", ["Cyclic-v0", make_wrapped])
def test_copies_keep_views_closures_and_generators(source):
    with open_task(source) as task, open_task(source) as control:
        rows, thetas = started(task, 2, n_steps=4)
        started(control, 2, n_steps=4)
        task.copy_rows(np.array([0]), np.array([1]))
        # and a copy of a copy
        task.copy_rows(np.array([1]), np.array([0]))
        thetas[1] = thetas[0]
        result = task.unroll(rows, thetas, full(2, 5))
        assert result.loss_sum[0] == result.loss_sum[1]
        alone = control.unroll(rows[:1], thetas[:1], full(1, 5))
        assert result.loss_sum[0] == alone.loss_sum[0]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_rows_can_be_swapped(n_workers):
    with open_task("Swimmer-v4", n_workers) as task:
        rows, thetas = started(task, 3, n_steps=5)
        thetas[:] = thetas[0]
        state = task.get_state()
        before = task.unroll(rows, thetas, full(3, 5))
        task.set_state(state)
        task.copy_rows(np.array([0, 2]), np.array([2, 0]))
        after = task.unroll(np.array([2, 1, 0]), thetas, full(3, 5))
        assert_same(before, after)


def test_copying_takes_no_step(tmp_path):
    count = tmp_path / "count"
    with open_task("Line-v0", 2, count=str(count)) as task:
        _, thetas = started(task, 6, n_steps=3)
        task.copy_rows(np.array([5, 5, 4]), np.array([0, 1, 2]))
        assert count.stat().st_size == 18
        task.unroll(np.array([0, 5]), thetas[:2], full(2, 2))
        assert count.stat().st_size == 22


def test_what_a_copy_replaces_is_closed_wherever_it_lived(tmp_path):
    """Rows 0 and 1 live in one worker, 2 and 3 in the other."""
    closed = tmp_path / "closed"
    with open_task("Line-v0", 2, closed=str(closed)) as task:
        started(task, 4)
        before = closed.stat().st_size
        task.copy_rows(np.array([1, 1, 1]), np.array([0, 2, 3]))
        assert closed.stat().st_size == before + 3
    assert closed.stat().st_size == before + 7


def test_an_environment_that_cannot_be_copied_is_named_and_stays_usable():
    with open_task(Locked) as task:
        rows, thetas = started(task, 2, n_steps=2)
        with pytest.raises(NotCopyableError, match=r"Locked: row 0 .*TES .*lock"):
            task.copy_rows(np.array([0]), np.array([1]))
        assert task.unroll(rows[:1], thetas[:1], full(1, 2)).steps_taken[0] == 2
        with pytest.raises(ValueError, match=r"rows \[1\]: reset them first"):
            task.unroll(rows, thetas, full(2, 2))


def test_a_view_of_foreign_memory_is_refused():
    def make():
        env = gym.make("Swimmer-v5")
        env.unwrapped.positions = env.unwrapped.data.qpos[2:]
        return env

    with GymnasiumTask(make, linear("Swimmer-v5"), n_workers=0) as task:
        started(task, 2)
        with pytest.raises(NotCopyableError, match="keep a copy of it instead of the view"):
            task.copy_rows(np.array([0]), np.array([1]))


# --- saved states ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "before", "after"),
    [("CartPole-v1", 0, 0), ("Pendulum-v1", 0, 2), ("Humanoid-v4", 1, 0), ("Cyclic-v0", 0, 0)],
)
def test_a_state_saved_in_mid_episode_goes_on_exactly_in_a_fresh_task(env_id, before, after):
    with open_task(env_id, before) as task, open_task(env_id, after) as fresh:
        task.allocate(5)
        rows = np.array([0, 1, 3])
        thetas = some_thetas(task, 3)
        task.reset(np.array([0, 1, 3, 4]), np.array([1, 2, 3, 2**63 + 1], np.uint64))
        task.unroll(rows, thetas, np.array([2, 11, 40]))
        state = task.get_state()
        for name, values in state.items():
            assert not values.dtype.hasobject, name
        fresh.set_state(state)
        assert_same(state.values(), fresh.get_state().values())
        assert_same(task.unroll(rows, thetas, full(3, 20)), fresh.unroll(rows, thetas, full(3, 20)))
        with pytest.raises(ValueError, match="reset"):
            fresh.unroll(np.array([2]), thetas[:1], full(1, 1))
        # row 4 was reset and has taken no step
        assert_same(
            task.unroll(np.array([4]), thetas[:1], full(1, 3)),
            fresh.unroll(np.array([4]), thetas[:1], full(1, 3)),
        )


def test_a_copied_row_is_saved_with_the_history_of_its_original():
    with open_task("Pendulum-v1") as task, open_task("Pendulum-v1") as fresh:
        rows, thetas = started(task, 2, n_steps=4)
        task.copy_rows(np.array([0]), np.array([1]))
        task.unroll(rows, thetas, np.array([1, 3]))
        fresh.set_state(task.get_state())
        assert_same(task.unroll(rows, thetas, full(2, 6)), fresh.unroll(rows, thetas, full(2, 6)))


def test_an_environment_that_does_not_repeat_itself_is_refused():
    with open_task(Foreign) as task:
        rows, thetas = started(task, 4, n_steps=3)
        state = task.get_state()
        with pytest.raises(NotReproducibleError, match=r"Foreign: row 0 .*not reproducible"):
            task.set_state(state)
        with pytest.raises(ValueError, match="reset them first"):
            task.unroll(rows, thetas, full(4, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((3, 2))}, r"takes \(1,\) and float64"),
        ({"actions": np.zeros(3, np.int64)}, r"takes \(1,\) and float64"),
        ({"digests": np.zeros((2, 16), np.uint8)}, "not reproducible"),
        ({"offsets": np.array([0, 2, 5])}, "do not belong together"),
        ({"offsets": np.array([0, 5, 4])}, "do not belong together"),
        ({"ended": np.zeros(3, bool)}, "do not belong together"),
    ],
)
def test_a_state_that_is_not_this_tasks_is_refused(change, message):
    with open_task("Line-v0") as task:
        started(task, 2, n_steps=2)
        state = task.get_state()
        with pytest.raises((ValueError, NotReproducibleError), match=message):
            task.set_state({**state, **change})
        del state["seeds"]
        with pytest.raises(ValueError, match="without seeds"):
            task.set_state(state)
