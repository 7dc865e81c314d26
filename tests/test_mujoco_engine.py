"""Rows, threads, states, clock, console and faults of the native engine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from mujoco_cases import unstable_half_cheetah
from numpy.testing import assert_array_equal

import es_rl
from es_rl.envs import MujocoTask, make_task
from es_rl.envs.making import make_env
from es_rl.envs.mujoco import layout
from es_rl.envs.mujoco.layout import FIELDS, DataLayout
from es_rl.envs.mujoco.library import load_library, without_clock
from es_rl.envs.mujoco.make import make_engine
from es_rl.perturbations import usable_cpus
from es_rl.tasks import State, UnrolledTask, UnrollResult

# one that carries nothing beside its state, one its bodies' positions, one everything
FAMILIES = ("Swimmer-v4", "Ant-v4", "Humanoid-v5")
N_ROWS = 6


def make(env_id: str, n_threads: int | None = 1, **env_kwargs: Any) -> tuple[MujocoTask, Any]:
    """Return a task with `N_ROWS` reset rows, and thetas (N_ROWS, d) for them."""
    env = make_env(env_id, **env_kwargs)
    policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
    env.close()
    task = make_task(env_id, policy, engine="native", n_threads=n_threads, **env_kwargs)
    assert isinstance(task, MujocoTask)
    task.allocate(N_ROWS)
    task.reset(np.arange(N_ROWS), np.arange(N_ROWS).astype(np.uint64))
    return task, np.array([policy.initial_theta(0.1, seed=i) for i in range(N_ROWS)])


def unroll_all(task: MujocoTask, thetas: np.ndarray, n_steps: int = 10) -> UnrollResult:
    return task.unroll(np.arange(N_ROWS), thetas, np.full(N_ROWS, n_steps))


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert_array_equal(left[name], right[name])


def test_it_is_an_unrolled_task() -> None:
    task, _ = make("Hopper-v5")
    assert isinstance(task, UnrolledTask)
    assert (task.name, task.env_id, task.horizon, task.num_params) == (
        "Hopper-v5",
        "Hopper-v5",
        1000,
        33,
    )


@pytest.mark.parametrize("env_id", FAMILIES)
def test_the_number_of_threads_changes_no_bit(env_id: str) -> None:
    results, states = [], []
    for n_threads in (1, 2, 5):
        task, thetas = make(env_id, n_threads)
        results.append([unroll_all(task, thetas) for _ in range(3)])
        states.append(task.get_state())
        task.close()
    for other, state in zip(results[1:], states[1:], strict=True):
        for first, second in zip(results[0], other, strict=True):
            for a, b in zip(first, second, strict=True):
                assert_array_equal(a, b)
        assert_same(states[0], state)


@pytest.mark.parametrize("env_id", FAMILIES)
def test_a_copied_row_goes_on_as_its_source_does(env_id: str) -> None:
    task, thetas = make(env_id, 2)
    thetas[:] = thetas[0]
    unroll_all(task, thetas, 7)
    task.copy_rows(np.array([1, 3]), np.array([2, 0]))
    assert_array_equal(task.engine.observe(np.array([2, 0])), task.engine.observe(np.array([1, 3])))
    result = unroll_all(task, thetas, 13)
    assert_array_equal(result.loss_sum[[2, 0]], result.loss_sum[[1, 3]])
    assert result.loss_sum[1] != result.loss_sum[3]


@pytest.mark.parametrize("env_id", FAMILIES)
def test_a_saved_state_goes_on_bit_for_bit_in_a_fresh_process(env_id: str, tmp_path: Path) -> None:
    task, thetas = make(env_id, 2)
    unroll_all(task, thetas, 7)
    saved = task.get_state()
    np.savez(tmp_path / "state.npz", allow_pickle=False, thetas=thetas, **saved)
    expected = unroll_all(task, thetas, 13)

    task.set_state(saved)
    assert_array_equal(unroll_all(task, thetas, 13).loss_sum, expected.loss_sum)

    script = f"""
        import numpy as np, es_rl
        from es_rl.envs import make_task
        from es_rl.envs.making import make_env
        env = make_env({env_id!r})
        policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
        task = make_task({env_id!r}, policy, engine="native", n_threads=1)
        task.allocate({N_ROWS})
        with np.load("state.npz") as data:
            state = dict(data)
        thetas = state.pop("thetas")
        task.set_state(state)
        result = task.unroll(np.arange({N_ROWS}), thetas, np.full({N_ROWS}, 13))
        np.save("loss.npy", result.loss_sum)
    """
    run_python(script, tmp_path)
    assert_array_equal(np.load(tmp_path / "loss.npy"), expected.loss_sum)


def run_python(script: str, folder: Path) -> None:
    """Run a script in `folder`; it must succeed and print nothing, not even a warning."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (folder / "MUJOCO_LOG.TXT").exists()


def test_equal_seeds_start_alike_and_draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = make("HalfCheetah-v4")
    drawn = []
    start = task.engine._setup.start

    def counted(rng: np.random.Generator, out: np.ndarray) -> None:
        drawn.append(rng)
        start(rng, out)

    object.__setattr__(task.engine._setup, "start", counted)
    task.reset(np.arange(N_ROWS), np.array([9, 9, 4, 4, 9, 4], np.uint64))
    observations = task.engine.observe(np.arange(N_ROWS))
    assert len(drawn) == 2
    assert_array_equal(observations[[1, 4]], observations[[0, 0]])
    assert_array_equal(observations[[3, 5]], observations[[2, 2]])
    assert (observations[0] != observations[2]).all()


def test_restart_goes_on_with_each_generator() -> None:
    env = make_env("Reacher-v4")
    engine, _ = make_engine("Reacher-v4")
    engine.allocate(2)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5)))
    expected = [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]
    for observation in expected:
        engine.restart(np.array([1]), [generator])
        assert_array_equal(engine.observe(np.array([1]))[0], observation)


def test_a_row_of_no_steps_is_left_alone() -> None:
    task, thetas = make("Swimmer-v4")
    before = task.get_state()
    result = task.unroll(np.arange(N_ROWS), thetas, np.zeros(N_ROWS, np.int64))
    assert_same(before, task.get_state())
    assert_array_equal(result.steps_taken, np.zeros(N_ROWS))
    empty = task.unroll(np.arange(0), thetas[:0], np.arange(0))
    assert empty.loss_sum.shape == empty.steps_taken.shape == empty.ended.shape == (0,)


def test_only_the_given_rows_move() -> None:
    task, thetas = make("Swimmer-v4")
    before = task.get_state()["states"]
    task.unroll(np.array([4, 1]), thetas[:2], np.array([3, 2]))
    moved = (task.get_state()["states"] != before).any(axis=1)
    assert_array_equal(moved, [False, True, False, False, True, False])


def test_divergence_is_a_nan_loss_and_stops_the_row(tmp_path: Path) -> None:
    task, thetas = make("HalfCheetah-v5", xml_file=unstable_half_cheetah(tmp_path))
    result = unroll_all(task, thetas, 200)
    assert np.isnan(result.loss_sum).all()
    assert (result.steps_taken < 200).all()
    assert not result.ended.any()


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Humanoid-v4"])
def test_an_action_that_is_not_a_number_is_a_nan_loss(env_id: str) -> None:
    task, thetas = make(env_id)
    thetas[2] = np.nan
    result = unroll_all(task, thetas, 3)
    assert_array_equal(np.isnan(result.loss_sum), np.arange(N_ROWS) == 2)
    assert (result.steps_taken[2], result.ended[2]) == (1, False)


def test_an_infinite_reward_stops_the_row_there() -> None:
    task, thetas = make("Swimmer-v4", ctrl_cost_weight=1e308)
    result = unroll_all(task, thetas * 1e3, 5)
    assert_array_equal(result.loss_sum, np.full(N_ROWS, np.inf))
    assert_array_equal(result.steps_taken, np.ones(N_ROWS))


BAD_CALLS: dict[str, tuple[Any, str]] = {
    "repeated rows": (
        lambda t, th: t.unroll(np.array([1, 1]), th[:2], np.ones(2, int)),
        "distinct",
    ),
    "negative row": (lambda t, th: t.unroll(np.array([-1]), th[:1], np.ones(1, int)), "0 to 5"),
    "row too high": (lambda t, th: t.unroll(np.array([6]), th[:1], np.ones(1, int)), "0 to 5"),
    "float rows": (lambda t, th: t.unroll(np.array([0.0]), th[:1], np.ones(1, int)), "integers"),
    "narrow thetas": (lambda t, th: t.unroll(np.array([0]), th[:1, 1:], np.ones(1, int)), "thetas"),
    "few thetas": (lambda t, th: t.unroll(np.arange(2), th[:1], np.ones(2, int)), "thetas"),
    "few n_steps": (lambda t, th: t.unroll(np.arange(2), th[:2], np.ones(1, int)), "n_steps"),
    "float n_steps": (lambda t, th: t.unroll(np.arange(1), th[:1], np.ones(1)), "n_steps.*float64"),
    "few seeds": (lambda t, th: t.reset(np.arange(2), np.ones(1, np.uint64)), "seeds"),
    "float seeds": (lambda t, th: t.reset(np.arange(1), np.ones(1)), "seeds"),
    "negative seeds": (lambda t, th: t.reset(np.arange(1), np.array([-1])), "seeds"),
    "no rows": (lambda t, th: t.allocate(0), "n_rows=0"),
    "bad action": (lambda t, th: t.engine.step(np.arange(1), np.ones((1, 3))), "actions"),
    "foreign state": (lambda t, th: t.set_state({"states": np.ones((2, 2))}), "states"),
    "unequal copy": (lambda t, th: t.copy_rows(np.arange(2), np.arange(1)), "source"),
    "copy from nowhere": (lambda t, th: t.copy_rows(np.array([99]), np.arange(1)), "source"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_arguments_are_named_and_change_nothing(name: str) -> None:
    call, message = BAD_CALLS[name]
    task, thetas = make("Swimmer-v4")
    before = task.get_state()
    with pytest.raises(ValueError, match=message):
        call(task, thetas)
    assert_same(before, task.get_state())


def test_rows_must_be_reset_before_they_move() -> None:
    task, thetas = make("Swimmer-v4")
    task.allocate(3)
    task.reset(np.array([1]), np.array([0], np.uint64))
    task.unroll(np.array([1]), thetas[:1], np.array([1]))
    with pytest.raises(ValueError, match="not been reset"):
        task.unroll(np.array([0, 1]), thetas[:2], np.array([1, 1]))
    with pytest.raises(ValueError, match="not been reset"):
        task.copy_rows(np.array([0]), np.array([1]))


def test_a_closed_engine_says_so_and_can_be_allocated_again() -> None:
    task, thetas = make("Swimmer-v4")
    expected = unroll_all(task, thetas).loss_sum
    task.close()
    task.close()
    with pytest.raises(RuntimeError, match="allocate"):
        unroll_all(task, thetas)
    task.allocate(N_ROWS)
    task.reset(np.arange(N_ROWS), np.arange(N_ROWS).astype(np.uint64))
    assert_array_equal(unroll_all(task, thetas).loss_sum, expected)


def test_a_forked_child_is_told_to_make_its_own_task() -> None:
    task, thetas = make("Swimmer-v4", 2)
    unroll_all(task, thetas)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            unroll_all(task, thetas)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        assert "make a new task" in stream.read()
    os.waitpid(pid, 0)


def clock_address() -> int | None:
    return ctypes.c_void_p.in_dll(load_library(), "mjcb_time").value


def test_the_profiling_clock_comes_back_when_the_last_user_leaves() -> None:
    before = clock_address()
    assert before is not None
    with without_clock():
        assert clock_address() is None
        with pytest.raises(KeyError), without_clock():
            raise KeyError
        assert clock_address() is None
    assert clock_address() == before
    task, thetas = make("Swimmer-v4")
    unroll_all(task, thetas)
    assert clock_address() == before


def test_windows_run_without_the_clock() -> None:
    task, thetas = make("Swimmer-v4")
    readings = []

    def read() -> float:
        readings.append(0.0)
        return 0.0

    clock = ctypes.c_void_p.in_dll(load_library(), "mjcb_time")
    before = clock.value
    callback = ctypes.CFUNCTYPE(ctypes.c_double)(read)
    clock.value = ctypes.cast(callback, ctypes.c_void_p).value
    try:
        unroll_all(task, thetas)
        assert not readings
        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        mujoco.mj_step(model, mujoco.MjData(model))
        assert readings
    finally:
        clock.value = before


def test_the_layout_finds_the_fields_of_another_mjdata() -> None:
    env = make_env("InvertedDoublePendulum-v5")
    model: mujoco.MjModel = env.unwrapped.model  # type: ignore[attr-defined]
    found = DataLayout(model)
    data = mujoco.MjData(model)
    base = ctypes.c_int64.from_address(data._address + found.at_qpos).value
    for name in FIELDS:
        assert base + found.offset[name] == getattr(data, name).ctypes.data
    data.warning[5].number = 12345
    counters = (ctypes.c_int * 14).from_address(data._address + found.at_warnings)
    assert list(counters) == [0] * 11 + [12345] + [0] * 2


def test_what_an_earlier_mjdata_left_in_memory_is_not_taken_for_the_field() -> None:
    class Memory:
        def __init__(self, **words: int) -> None:
            self.words = np.zeros(64, np.int64)
            for place, word in words.items():
                self.words[int(place[1:])] = word
            self._address = self.words.ctypes.data

    both = Memory(w3=7, w20=7), Memory(w5=8, w20=8)
    assert layout._find(both, [np.array([7]), np.array([8])]) == 20 * 8  # type: ignore[arg-type]


def test_nothing_is_printed_and_no_log_is_written(tmp_path: Path) -> None:
    unstable = unstable_half_cheetah(tmp_path)
    run_python(
        f"""
        import numpy as np, es_rl
        from es_rl.envs import make_task
        from es_rl.envs.making import make_env
        for env_id, options in (
            ("HalfCheetah-v4", dict()), ("HalfCheetah-v5", dict(xml_file={unstable!r}))
        ):
            env = make_env(env_id, **options)
            policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
            with make_task(env_id, policy, **options) as task:
                task.allocate(2)
                task.reset(np.arange(2), np.arange(2).astype(np.uint64))
                task.unroll(np.arange(2), np.ones((2, policy.num_params)), np.full(2, 100))
        """,
        tmp_path,
    )


def test_threads_default_to_the_processors_of_this_process() -> None:
    task, _ = make("Swimmer-v4", None)
    assert task.n_threads == usable_cpus() == len(os.sched_getaffinity(0))
