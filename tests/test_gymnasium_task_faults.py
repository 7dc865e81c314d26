"""Environments that raise, hang and die in a Gymnasium task, and the processes of its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from gymnasium_tasks import full, open_task, some_thetas, started
from toy_environments import make_thrown
from waiting import within

from es_rl.envs.faults import EnvironmentFaultError

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
