"""Workers that are Ray actors on a cluster of several nodes, some of which are killed."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from ray_tasks import BadSystem, PausingTask, go_on_without_the_dead, paused
from systems import EndingSystem, LoopTask

from es_rl import run
from es_rl.config_layers import continued, load_config, resolve
from es_rl.distributed import RayEstimator, RayPool, RayUnavailableError
from es_rl.envs import make_env, make_task
from es_rl.estimators import ESTIMATORS
from es_rl.policies import LinearPolicy
from es_rl.tasks import NonFiniteLossError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install es_rl[ray]"
)

_OPTIONS = {"n_pairs": 53, "sigma": 0.3, "seed": 5, "unroll_length": 4, "staggering": "iid"}
_MARKED = np.array([0.6, -0.2, 0.75])


def _trained(estimator, marked=-1, n=5):
    """The estimates of a few windows, one of them under the marked θ."""
    theta = np.array([0.6, -0.2, 0.5])
    results = [estimator.reset(theta)]
    for window in range(n):
        results.append(estimator.estimate(_MARKED if window == marked else theta))
        theta = theta - 0.05 * results[-1].gradient
    return results


def _assert_same(mine, others):
    for one, other in zip(mine, others, strict=True):
        np.testing.assert_array_equal(one.gradient, other.gradient)
        assert one[1:] == other[1:]


@needs_ray
def test_actors_on_this_machine_give_the_bits_and_errors_of_one_process(tmp_path, monkeypatch):
    # all on one local cluster, as starting one takes seconds
    monkeypatch.syspath_prepend(tmp_path / "shared")
    with contextlib.closing(RayPool(n_workers=2)):
        _compare_one_and_two_actors()
        _compare_the_native_engine()
        _compare_errors()
        _read_what_is_not_there(tmp_path, monkeypatch)
        _go_on_with_and_without_actors(tmp_path)
        assert _is_ray_running(), "a cluster that was there before is left alone"
    assert not _is_ray_running(), "the cluster that was started here is ended"


def _is_ray_running():
    import ray

    return ray.is_initialized()


def _compare_one_and_two_actors():
    make = functools.partial(LoopTask, EndingSystem, 11)
    alone = ESTIMATORS["gpes"](make(), noise_period=8, **_OPTIONS)
    truth = _trained(alone)
    for n_workers in (1, 2):
        with RayEstimator("gpes", make, n_workers=n_workers, noise_period=8, **_OPTIONS) as spread:
            _assert_same(truth, _trained(spread))
            state = spread.state_dict()
            assert spread.replacements == 0
    for name, value in alone.state_dict().items():
        np.testing.assert_array_equal(state[name], value)


def _compare_the_native_engine():
    env = make_env("Hopper-v4")
    policy = LinearPolicy(
        env.observation_space, env.action_space, normalize_observations=True, clip_actions=True
    )
    make = functools.partial(make_task, "Hopper-v4", policy, n_threads=1)
    options = {"n_pairs": 21, "sigma": 0.05, "unroll_length": 15, "shaping": "std", "seed": 3}
    runs = []
    with make() as task, RayEstimator("nres", make, n_workers=2, **options) as spread:
        for estimator in (ESTIMATORS["nres"](task, **options), spread):
            theta, run = np.zeros(policy.num_params), []
            estimator.reset(theta)
            for _ in range(4):
                run.append(estimator.estimate(theta))
                theta = theta - 0.3 * run[-1].gradient
            runs.append((run, estimator.normalizer))
    (truth, normalizer), (mine, spread_normalizer) = runs
    _assert_same(truth, mine)
    np.testing.assert_array_equal(normalizer.mean, spread_normalizer.mean)
    np.testing.assert_array_equal(normalizer.scale, spread_normalizer.scale)
    assert sum(estimate.episodes for estimate in truth) > 0


def _compare_errors():
    make = functools.partial(LoopTask, BadSystem, 11)
    errors = []
    with RayEstimator("nres", make, n_workers=2, **_OPTIONS) as spread:
        for estimator in (ESTIMATORS["nres"](make(), **_OPTIONS), spread):
            with pytest.raises(NonFiniteLossError) as caught:
                _trained(estimator, n=20)
            errors.append((type(caught.value), caught.value.args, caught.value.pair))
    assert errors[0] == errors[1]


def _read_what_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "from systems import LoopTask\n\n\nclass Task(LoopTask):\n    pass\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        make = functools.partial(importlib.import_module("only_here").Task, EndingSystem, 11)
        with (
            RayEstimator("nres", make, n_workers=1, **_OPTIONS) as spread,
            pytest.raises(RuntimeError, match=r"only_here.*importable on every machine"),
        ):
            spread.reset(_MARKED)


def _go_on_with_and_without_actors(tmp_path):
    given = {"env": "Swimmer-v4", "algo": "pes", "n_pairs": 16, "unroll_length": 10, "horizon": 40,
             "integrator": "euler", "eval_every": 0, "eval_episodes": 1,
             "tensorboard": False}  # fmt: skip

    def trained(name, updates, **options):
        path = str(tmp_path / name)
        if not os.path.exists(path):
            run.train(resolve({**given, **options, "updates": updates}).config, path)
        else:
            stored, _ = load_config(f"{path}/config.yaml")
            run.resume(continued(stored, {**options, "updates": updates}, path), path)
        return (tmp_path / name / "policy.npz").read_bytes()

    on_ray = {"engine": "ray", "workers": 2}
    assert trained("begun on Ray", 3, **on_ray) == trained("begun here", 3)
    truth = trained("all here", 6)
    assert trained("begun on Ray", 6, engine="native") == truth
    assert trained("begun here", 6, **on_ray) == truth


@needs_ray
def test_a_killed_node_a_killed_process_and_a_hanging_one_change_nothing(tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options = {"object_store_memory": 80 * 2**20}
    # a dead node is noticed within two seconds rather than twenty
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon, **options}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=n, **options) for n in (2, 1)]
        ray.init(
            address=cluster.address, log_to_driver=False, configure_logging=False,
            logging_level=logging.ERROR,
        )  # fmt: skip
        _kill_processes(tmp_path / "processes")
        # Ray may go on for a while to count the processors of a machine that is gone
        monkeypatch.setattr("es_rl.distributed.ray_pool.RayPool._free_cpus", lambda pool: 4.0)
        monkeypatch.setattr("es_rl.distributed.ray_pool._ROOM_SECONDS", 5.0)
        _kill_node(cluster, nodes[0], tmp_path / "node")
    finally:
        ray.shutdown()
        cluster.shutdown()


def _kill_processes(folder):
    # of two actors that pause in the same window one is killed, and the other exceeds its time
    folder.mkdir()
    make = functools.partial(PausingTask, folder, most=2)
    truth = _trained(ESTIMATORS["tes"](LoopTask(EndingSystem, 11), **_OPTIONS), marked=2)
    lines = []

    def kill():
        os.kill(min(paused(folder, 2)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with RayEstimator(
        "tes", make, n_workers=2, on_replacement=lines.append, worker_timeout=15.0, **_OPTIONS
    ) as spread:
        _assert_same(truth, _trained(spread, marked=2))
        assert spread.replacements == 2
    killer.join()
    killed, hung = sorted(PausingTask.paused(folder))
    assert f"process {killed}) was lost: ActorDiedError" in lines[0]
    assert f"process {hung}) was lost: no answer within 15 s" in lines[1]


def _kill_node(cluster, node, folder):
    folder.mkdir()
    make = functools.partial(PausingTask, folder, most=4)
    truth = _trained(ESTIMATORS["pes"](LoopTask(EndingSystem, 11), **_OPTIONS), marked=3)
    lines = []

    def kill():
        paused(folder, 4)
        cluster.remove_node(node, allow_graceful=False)
        go_on_without_the_dead(folder)

    killer = threading.Thread(target=kill)
    killer.start()
    with RayEstimator("pes", make, n_workers=4, on_replacement=lines.append, **_OPTIONS) as spread:
        _assert_same(truth, _trained(spread, marked=3))
        # workers are spread over the nodes: one at least was on that one, not all
        assert 1 <= spread.replacements == len(lines) < 4, lines
    killer.join()
    assert all("was lost: Actor" in line for line in lines), lines


@needs_ray
def test_a_cluster_that_is_not_there_is_named():
    code = (
        "from es_rl.distributed import RayPool\n"
        "try:\n    RayPool('127.0.0.1:1')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    env = {
        **os.environ,
        "RAY_gcs_rpc_server_connect_timeout_s": "1",
        "RAY_NUM_REDIS_GET_RETRIES": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
        check=True,
    )
    assert done.stdout.startswith("RayUnavailableError ray_address=127.0.0.1:1: no cluster")
    assert "ray start --head" in done.stdout


class _SlowRay:
    """Ray on a machine where its processes do not start in time, but for the last attempt."""

    class exceptions:
        RayError = RayTaskError = RuntimeError

    def __init__(self, failures):
        self.failures, self.starts = failures, 0

    def is_initialized(self):
        return False

    def remote(self, kind):
        return kind

    def init(self, **options):
        self.starts += 1
        if self.starts <= self.failures:
            raise Exception("The current node timed out during startup. More words.")
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert options["include_dashboard"] is False

    def shutdown(self):
        pass

    class _private:
        worker = None


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_cluster_that_is_slow_to_start_is_tried_again(failures, monkeypatch):
    ray = _SlowRay(failures)
    monkeypatch.setattr("es_rl.distributed.ray_pool._import_ray", lambda: ray)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if failures == 3:
        with pytest.raises(RayUnavailableError, match=r"3 attempts \(The current node timed out"):
            RayPool()
    else:
        RayPool()
        assert ray.starts == failures + 1
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayUnavailableError, match=r"pip install 'es_rl\[ray\]'"):
        RayPool()
