"""Any Gymnasium environment as a task: windows, copies, saved states, counts and faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import gymnasium as gym
import numpy as np
import pytest
from toy_environments import Foreign, Locked, make_thrown, make_wrapped
from waiting import within

from es_rl.envs.faults import EnvironmentFaultError, NotCopyableError, NotReproducibleError
from es_rl.envs.gymnasium_task import GymnasiumTask
from es_rl.envs.mujoco.quiet import quiet
from es_rl.estimators import GPES, NRES, PES, TES, FullES
from es_rl.policies import LinearPolicy, MlpPolicy
from es_rl.tasks import UnrolledTask

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"]
COPIED = ["CartPole-v1", "Pendulum-v1", "Swimmer-v4", "Hopper-v4", "Humanoid-v4"]


def linear(source):
    """Return a linear policy that fits an environment."""
    with quiet():
        env = gym.make(source) if isinstance(source, str) else source()
    return LinearPolicy(env.observation_space, env.action_space)


def open_task(source, n_workers=0, **options):
    """Return a task with a linear policy."""
    return GymnasiumTask(source, linear(source), n_workers=n_workers, **options)


def some_thetas(task, n_rows, scale=0.1):
    return scale * np.random.default_rng(5).standard_normal((n_rows, task.num_params))


def full(n_rows, value):
    return np.full(n_rows, value, np.int64)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def started(task, n_rows, n_steps=0, seed=11):
    """Allocate, reset and unroll; return (rows, thetas)."""
    rows = np.arange(n_rows)
    thetas = some_thetas(task, n_rows)
    task.allocate(n_rows)
    task.reset(rows, np.arange(seed, seed + n_rows, dtype=np.uint64))
    if n_steps:
        task.unroll(rows, thetas, full(n_rows, n_steps))
    return rows, thetas


# --- windows ---------------------------------------------------------------------------------


def test_a_window_has_the_closed_form_loss_of_its_environment():
    with open_task("Line-v0", limit=3.0) as task:
        assert isinstance(task, UnrolledTask)
        assert (task.num_params, task.horizon, task.name) == (1, 20, "Line-v0")
        task.allocate(3)
        rows, seeds = np.arange(3), np.array([4, 4, 2**64 - 1], np.uint64)
        task.reset(rows, seeds)
        starts = [1.0 + np.random.Generator(np.random.PCG64(int(s))).random() for s in seeds]
        thetas = np.array([[-0.5], [0.25], [0.0]])
        first = task.unroll(rows, thetas, np.array([4, 30, 0]))
        # x_t = x_0 (1 + θ)^t
        assert first.steps_taken[0] == 4
        np.testing.assert_allclose(
            first.loss_sum[0], sum((starts[0] * 0.5**t) ** 2 for t in range(1, 5)), rtol=1e-14
        )
        # the first t with x_0 1.25^t > 3
        last = int(np.floor(np.log(3.0 / starts[1]) / np.log(1.25))) + 1
        np.testing.assert_array_equal(first.steps_taken, [4, last, 0])
        np.testing.assert_allclose(
            first.loss_sum[1], sum((starts[1] * 1.25**t) ** 2 for t in range(1, last + 1)), 1e-14
        )
        np.testing.assert_array_equal(first.ended, [False, True, False])
        # an ended row takes no step; the others go on where they stood
        second = task.unroll(rows, thetas, full(3, 2))
        np.testing.assert_array_equal(second.steps_taken, [2, 0, 2])
        np.testing.assert_array_equal(second.ended, [False, True, False])
        assert second.loss_sum[1] == 0.0
        np.testing.assert_allclose(second.loss_sum[2], 2 * starts[2] ** 2, rtol=1e-14)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_windows_are_bit_for_bit_those_of_a_plain_loop(env_id):
    """Two windows past the registered time limit, which must not cut them."""
    policy = linear(env_id)
    env = gym.make(env_id, max_episode_steps=-1, disable_env_checker=True)
    limit = gym.spec(env_id).max_episode_steps
    windows = [7, min(limit, 300) + 3]
    with GymnasiumTask(env_id, policy, n_workers=0) as task:
        assert task.horizon == limit
        rows, thetas = started(task, 2)
        results = [task.unroll(rows, thetas, full(2, n)) for n in windows]
    for row in rows:
        observation, _ = env.reset(seed=11 + int(row))
        ended = False
        for window, result in zip(windows, results, strict=True):
            total, taken = 0.0, 0
            while taken < window and not ended:
                action = policy.act(thetas[row], observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                total -= float(reward)
                taken += 1
                ended = terminated or truncated
            assert (result.loss_sum[row], result.steps_taken[row]) == (total, taken)
            assert result.ended[row] == ended


def test_max_episode_steps_sets_the_horizon_and_ends_nothing():
    with open_task("Line-v0", max_episode_steps=5) as task:
        rows, thetas = started(task, 1)
        assert task.horizon == 5
        assert task.unroll(rows, thetas, full(1, 9)).steps_taken[0] == 9
    with open_task("Line-v0", max_episode_steps=-1) as task:
        assert task.horizon is None


def scenario(env_id, n_workers):
    """Unroll rows in odd orders and amounts, copy and reset some; return all that came out."""
    results = []
    with open_task(env_id, n_workers) as task:
        rows, thetas = started(task, 7)
        order = np.array([6, 0, 3, 1, 5, 2, 4])
        results += task.unroll(order, thetas, np.array([3, 9, 0, 4, 12, 1, 6]))
        task.copy_rows(np.array([6, 6, 2]), np.array([0, 1, 5]))
        results += task.unroll(rows, thetas, full(7, 5))
        task.reset(np.array([3, 0]), np.array([77, 78], np.uint64))
        results += task.unroll(order, thetas, full(7, 4))
        results += task.get_state().values()
    return results


@pytest.mark.parametrize(("env_id", "n_workers"), [("CartPole-v1", 2), ("Hopper-v4", 3)])
def test_results_do_not_depend_on_the_number_of_workers(env_id, n_workers):
    assert_same(scenario(env_id, 0), scenario(env_id, n_workers))


def test_discrete_and_layered_policies_act_as_their_predict_does():
    env = gym.make("CartPole-v1")
    policy = MlpPolicy(env.observation_space, env.action_space, hidden=(5,))
    policy.theta = policy.initial_theta(1.0, seed=3)
    with GymnasiumTask("CartPole-v1", policy, n_workers=0) as task:
        task.allocate(1)
        task.reset(np.array([0]), np.array([9], np.uint64))
        length = task.unroll(np.array([0]), policy.theta[None], full(1, 500)).steps_taken[0]
    observation, _ = env.reset(seed=9)
    steps, ended = 0, False
    while not ended:
        observation, _, ended, _, _ = env.step(policy.predict(observation)[0])
        steps += 1
    assert steps == length


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


# --- counts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counting_tasks(tmp_path_factory):
    """Return (task, file of steps) without and with a worker; episodes last 3 to 20 steps."""
    counts = [tmp_path_factory.mktemp("steps") / "count" for _ in range(2)]
    for count in counts:
        count.touch()
    with (
        open_task("Line-v0", 0, limit=3.0, count=str(counts[0])) as here,
        open_task("Line-v0", 1, limit=3.0, count=str(counts[1])) as worker,
    ):
        yield [(here, counts[0]), (worker, counts[1])]


@pytest.mark.parametrize("estimator", [FullES, TES, PES, NRES, GPES])
def test_estimators_are_charged_for_the_steps_that_environments_took(estimator, counting_tasks):
    """Many episodes end inside a window; without and with a worker, the gradients agree."""
    options = {"n_pairs": 4, "sigma": 0.2, "seed": 3}
    if estimator is not FullES:
        options["unroll_length"] = 4
    if estimator is GPES:
        options["noise_period"] = 8
    theta = np.array([0.1])
    gradients = []
    for task, count in counting_tasks:
        before = count.stat().st_size
        method = estimator(task, **options)
        total = method.reset(theta).total_steps
        for _ in range(4):
            estimate = method.estimate(theta)
            total += estimate.total_steps
            gradients.append(estimate.gradient)
        assert total == count.stat().st_size - before
    assert_same(gradients[:4], gradients[4:])
    assert np.abs(gradients).min() > 0


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_exception_names_environment_row_and_step_and_spares_the_other_rows(n_workers):
    with open_task("Line-v0", n_workers, fail="raise", seed=14) as task:
        rows, thetas = started(task, 4, n_steps=1)
        with pytest.raises(EnvironmentFaultError) as caught:
            task.unroll(rows, thetas, full(4, 5))
        message = str(caught.value)
        assert message.startswith(
            "Line-v0: row 3 (minus row of pair 1), in step 3 of its episode: ValueError: boom\n"
        )
        assert 'raise ValueError("boom")' in message
        lengths = np.diff(task.get_state()["offsets"])
        np.testing.assert_array_equal(lengths, [6, 6, 6, 0])
        with pytest.raises(ValueError, match=r"rows \[3\]: reset them first"):
            task.unroll(rows, thetas, full(4, 1))
        task.reset(rows[3:], np.array([1], np.uint64))
        assert task.unroll(rows, thetas, full(4, 2)).steps_taken.sum() == 8


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("raise in reset", "in reset: ValueError: boom"),
        ("reward", r"in step 3 of its episode: TypeError: the reward is a ndarray of shape \(1,\)"),
        ("text", "in step 3 of its episode: TypeError: the reward is a str"),
        ("observation", r"in step 3 of its episode: ValueError: observation of shape \(2,\)"),
    ],
)
def test_what_an_environment_may_not_return_is_named(fail, message):
    with (
        open_task("Line-v0", fail=fail, seed=11) as task,
        pytest.raises(EnvironmentFaultError, match=message),
    ):
        started(task, 2, n_steps=5)


@pytest.mark.parametrize("fail", ["nan", "inf"])
def test_a_row_stops_at_a_loss_that_is_not_finite(fail):
    with open_task("Line-v0", fail=fail, seed=11) as task:
        rows, thetas = started(task, 2)
        result = task.unroll(rows, thetas, full(2, 8))
        np.testing.assert_array_equal(result.steps_taken, [3, 8])
        np.testing.assert_array_equal(result.loss_sum[0], float(fail))
        assert np.isfinite(result.loss_sum[1])
        assert not result.ended.any()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_mujoco_is_silent_and_a_simulation_that_diverges_has_no_loss(
    n_workers, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    with open_task(make_thrown, n_workers) as task:
        rows, thetas = started(task, 2)
        result = task.unroll(rows, thetas, full(2, 6))
        assert np.isnan(result.loss_sum[0])
        np.testing.assert_array_equal(result.steps_taken, [3, 6])
        assert np.isfinite(result.loss_sum[1])
        assert not result.ended.any()
        # a fresh episode starts with a clean slate
        task.reset(rows[:1], np.array([12], np.uint64))
        again = task.unroll(rows[:1], thetas[1:], full(1, 6))
        assert again.loss_sum[0] == result.loss_sum[1]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_is_named_and_ends_the_task():
    with open_task("Line-v0", 2, fail="kill", seed=13) as task:
        with pytest.raises(EnvironmentFaultError) as caught:
            started(task, 4, n_steps=5)
        assert caught.value.row == 2
        message = "in step 3 of its episode: worker process 1 was ended by signal 9 (Killed)"
        assert message in str(caught.value)
        with pytest.raises(RuntimeError, match="closed"):
            task.unroll(np.arange(4), some_thetas(task, 4), full(4, 1))


def test_a_worker_that_died_between_two_windows_is_named():
    with open_task("Line-v0", 1) as task:
        rows, thetas = started(task, 2)
        (worker,) = task._host._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        with pytest.raises(EnvironmentFaultError, match=r"^Line-v0: worker process 0 was ended"):
            task.unroll(rows, thetas, full(2, 1))


def test_a_step_that_hangs_is_stopped_and_named():
    with open_task("Line-v0", 1, fail="hang", seed=12, step_timeout=0.5) as task:
        rows, thetas = started(task, 2)
        begin = time.monotonic()
        with pytest.raises(EnvironmentFaultError, match=r"row 1 .*in step 3 .*no progress"):
            task.unroll(rows, thetas, full(2, 5))
        assert time.monotonic() - begin < 10


def test_modules_that_workers_cannot_import_are_reported(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(f"import os\nassert os.getpid() == {os.getpid()}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with open_task("Line-v0", 1, import_modules=["only_here"]) as task:
        task.allocate(2)
        with pytest.raises(EnvironmentFaultError, match=r"(?s)worker process 0 failed.*only_here"):
            task.reset(np.arange(2), np.zeros(2, np.uint64))


# --- processes -------------------------------------------------------------------------------


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SCRIPT = """
    import sys, time
    import gymnasium as gym, numpy as np
    from es_rl.envs.gymnasium_task import GymnasiumTask
    from es_rl.policies import LinearPolicy

    class Slow(gym.Env):
        observation_space = action_space = gym.spaces.Box(-1.0, 1.0, (1,))
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1), {}
        def step(self, action):
            time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)
            return np.zeros(1), 1.0, False, False, {}

    gym.register("Slow-v0", entry_point=Slow, kwargs={})
    policy = LinearPolicy(Slow.observation_space, Slow.action_space)
    task = GymnasiumTask("Slow-v0", policy, n_workers=2)
    task.allocate(4)
    rows = np.arange(4)
    task.reset(rows, rows.astype(np.uint64))
    print(*(worker.process.pid for worker in task._host._workers), flush=True)
"""


def run_script(tmp_path, ending):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(ending))
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_script_needs_no_main_guard_and_leaves_no_process_behind(tmp_path):
    ending = """
        result = task.unroll(rows, np.zeros((4, 1)), np.full(4, 5))
        print(result.loss_sum.tolist())
    """
    with run_script(tmp_path, ending) as process:
        out, err = process.communicate(timeout=60)
    pids, losses = out.splitlines()
    assert (losses, err, process.returncode) == ("[-5.0, -5.0, -5.0, -5.0]", "", 0)
    assert not any(alive(int(pid)) for pid in pids.split())


def test_ctrl_c_ends_the_workers_with_one_traceback(tmp_path):
    ending = """
        print("stepping", flush=True)
        task.unroll(rows, np.zeros((4, 1)), np.full(4, 10**9))
    """
    with run_script(tmp_path, ending) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "stepping\n"
        time.sleep(0.3)
        # the whole group, as a terminal does
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not any(alive(pid) for pid in pids)


def test_workers_survive_a_ctrl_c_that_is_handled_and_end_with_the_main_process(tmp_path):
    ending = """
        import signal
        pressed = []
        signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
        print("stepping", flush=True)
        while not pressed:
            task.unroll(rows, np.zeros((4, 1)), np.full(4, 100))
        print(task.get_state()["started"].all(), flush=True)
        while True:
            task.unroll(rows, np.zeros((4, 1)), np.full(4, 100))
    """
    with run_script(tmp_path, ending) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "stepping\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "True\n"
        process.kill()
        process.wait()
    within(20, lambda: not any(alive(pid) for pid in pids))


def test_close_may_be_called_twice_and_ends_the_processes():
    task = open_task("Line-v0", 1)
    started(task, 2)
    (worker,) = task._host._workers
    task.close()
    task.close()
    assert worker.process.returncode is not None
    with pytest.raises(RuntimeError, match="closed"):
        task.reset(np.arange(2), np.zeros(2, np.uint64))
    with pytest.raises(RuntimeError, match="closed"):
        task.allocate(2)


# --- sources and options ---------------------------------------------------------------------


MODULE = """
    import gymnasium as gym
    from toy_environments import Line
    class Mine(Line):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, -2.0, *rest
    if "Mine-v0" not in gym.registry:
        gym.register("Mine-v0", entry_point=Mine, max_episode_steps=7)
"""


def test_environments_come_from_modules_specs_and_callables(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = linear("Line-v0")

    def check(task, name, horizon):
        with task:
            rows, thetas = started(task, 2)
            assert (task.name, task.env_id, task.horizon) == (name, name, horizon)
            assert (task.unroll(rows, thetas, full(2, 9)).loss_sum == 18.0).all()

    with pytest.raises(gym.error.NameNotFound):
        GymnasiumTask("Mine-v0", policy)
    check(GymnasiumTask("Mine-v0", policy, n_workers=1, import_modules=["my_envs"]), "Mine-v0", 7)
    check(GymnasiumTask("my_envs:Mine-v0", policy, n_workers=0), "my_envs:Mine-v0", 7)
    check(GymnasiumTask(gym.spec("Mine-v0"), policy, n_workers=0), "Mine-v0", 7)
    Mine = sys.modules["my_envs"].Mine
    check(GymnasiumTask(lambda limit: Mine(limit), policy, n_workers=1, limit=99.0), "Mine", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_workers": -1}, "n_workers=-1"),
        ({"n_workers": 0, "step_timeout": 1.0}, "step_timeout=1.0"),
        ({"step_timeout": 0.0}, "step_timeout=0.0"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"max_episode_steps": 2.5}, "max_episode_steps=2.5"),
        ({"policy": "CartPole-v1"}, "policy does not fit Line-v0"),
    ],
)
def test_bad_options_are_named(options, message):
    policy = linear(options.pop("policy", "Line-v0"))
    with pytest.raises(ValueError, match=message):
        GymnasiumTask("Line-v0", policy, **options)


def test_bad_arguments_are_named():
    rows = np.arange(2)
    with open_task("Line-v0") as task:
        with pytest.raises(RuntimeError, match="allocate rows first"):
            task.get_state()
        with pytest.raises(RuntimeError, match="allocate rows first"):
            task.unroll(rows, np.zeros((2, 1)), full(2, 1))
        with pytest.raises(ValueError, match="n_rows=0"):
            task.allocate(0)
        task.allocate(2)
        with pytest.raises(ValueError, match="seeds"):
            task.reset(rows, np.zeros(3, np.uint64))
        with pytest.raises(ValueError, match="from 0 to 1"):
            task.reset(np.array([2]), np.zeros(1, np.uint64))
        with pytest.raises(ValueError, match="only once"):
            task.reset(np.array([1, 1]), np.zeros(2, np.uint64))
        with pytest.raises(ValueError, match="reset them first"):
            task.copy_rows(rows[:1], rows[1:])
        task.reset(rows, np.zeros(2, np.uint64))
        with pytest.raises(ValueError, match=r"thetas of shape \(2, 3\)"):
            task.unroll(rows, np.zeros((2, 3)), full(2, 1))
        with pytest.raises(ValueError, match="not negative"):
            task.unroll(rows, np.zeros((2, 1)), full(2, -1))
        with pytest.raises(ValueError, match="2 source rows for 1 target"):
            task.copy_rows(rows, rows[:1])
