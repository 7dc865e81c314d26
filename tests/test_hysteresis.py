"""Hysteresis: windows beside their fresh twins, against closed forms, and out of training's way."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import linear_quadratic as lq
import numpy as np
import pytest
from command_line import Run
from pair_samples import mean_and_error, pair_estimates
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.estimators import ESTIMATORS, GPES, NRES, PES, TES, FullES
from es_rl.files import write_npz
from es_rl.hysteresis import Comparison, HysteresisMeter, compare, summarize
from es_rl.optimizers import SGD
from es_rl.policies import LinearPolicy
from es_rl.tasks import NonFiniteLossError, UnrollResult
from es_rl.trainer import Trainer
from es_rl.window import GradientEstimate

ALLOWED, FAR = 4.0, 8.0
"""Standard errors: what is allowed, and how far away at least each wrong formula must be."""

_W, _N = 3, 40_000
_PATH = np.array([[0.4, -0.3, 0.2], [1.1, -0.3, 0.9], [0.9, 0.6, 0.1], [-0.2, 0.5, -0.6]])
_KINDS = [(NRES, {}), (PES, {}), (GPES, {"noise_period": 6})]


def _window_gradient(task, thetas):
    """Gradient, to a common shift of the parameters of all steps (T, d), of the mean loss of the
    last window; central differences, exact for a quadratic."""
    columns = []
    for unit in np.eye(task.num_params):
        ahead, behind = (task.losses(thetas + sign * unit)[-_W:] for sign in (1, -1))
        columns.append(np.mean(ahead - behind) / 2)
    return np.array(columns)


def _closed_bias(task, thetas):
    """(1/W) Σ_t J_tᵀ Σ_i A^(t-i) B (θ_i - θ), J_t = Σ_i A^(t-i) B, as docs/options.md has it."""
    t_end, bias = len(thetas), 0.0
    powers = [np.linalg.matrix_power(task.a, k) @ task.b for k in range(t_end)]
    for t in range(t_end - _W, t_end):
        lag = sum(powers[t - i] @ (thetas[i] - thetas[-1]) for i in range(t + 1))
        bias = bias + sum(powers[: t + 1]).T @ lag
    return bias / _W


def _last_window(kind, options, path, refresh_drift=0.0):
    """Each pair's estimate in the fourth window of an episode of 12 steps, with θ on `path`."""
    estimator = kind(
        lq.LinearQuadratic(19, horizon=12), n_pairs=_N, unroll_length=_W, sigma=0.7, seed=1,
        staggering="lockstep", refresh_drift=refresh_drift, **options,
    )  # fmt: skip
    estimator.reset(path[0])
    for theta in path[:-1]:
        estimator.estimate(theta)
    return pair_estimates(estimator, path[-1])[0]


@pytest.mark.parametrize(("kind", "options"), _KINDS)
def test_a_window_s_mean_has_the_past_gradients_at_the_past_thetas(kind, options):
    task = lq.LinearQuadratic(19, horizon=12)
    as_it_was, as_if_today = np.repeat(_PATH, _W, axis=0), np.repeat(_PATH[-1:], 12, axis=0)
    truth, fresh = _window_gradient(task, as_it_was), _window_gradient(task, as_if_today)
    np.testing.assert_allclose(truth - fresh, _closed_bias(task, as_it_was), rtol=1e-10)
    # N = 40,000 independent pairs
    mean, error = mean_and_error(_last_window(kind, options, _PATH))
    assert (np.abs(mean - truth) < ALLOWED * error).all(), (mean - truth) / error
    for wrong in (fresh, fresh - (truth - fresh)):
        assert (np.abs(mean - wrong) > FAR * error).any()
    mean, error = mean_and_error(_last_window(kind, options, _PATH, refresh_drift=1e-9))
    assert (np.abs(mean - fresh) < ALLOWED * error).all(), (mean - fresh) / error
    assert (np.abs(mean - truth) > FAR * error).any()


@pytest.mark.parametrize(("kind", "options"), _KINDS)
def test_refreshed_pairs_all_over_the_episode_have_the_true_gradient_of_today(kind, options):
    task = lq.LinearQuadratic(19, horizon=12, random_start=False)
    truth = task.step_gradients(_PATH[-1]).sum(axis=1).mean(axis=0)  # T1
    results = []
    for limit in (0.0, 1e-9):
        estimator = kind(
            task, n_pairs=_N, unroll_length=_W, sigma=0.7, seed=2, refresh_drift=limit, **options
        )
        estimator.reset(_PATH[0])
        for theta in _PATH[:-1]:
            estimator.estimate(theta)
        mean, error = mean_and_error(pair_estimates(estimator, _PATH[-1])[0])
        results.append(np.abs(mean - truth) / error)
    assert (results[1] < ALLOWED).all(), results
    assert (results[0] > FAR).any(), results


def test_at_constant_speed_the_gradient_is_that_of_a_theta_of_some_steps_ago():
    # one state: after a long time the lag is a/(1 - a) steps, whatever the speed
    task = lq.LinearQuadratic(3, num_params=1, state_size=1, horizon=300, decay=0.8)
    a, b = float(task.a[0, 0]), float(task.b[0, 0])
    speed = 0.01
    thetas = (speed * np.arange(300.0))[:, None]
    curvature = (b / (1 - a)) ** 2
    powers = a ** np.arange(300)
    lag = np.sum(powers * b * (thetas[::-1, 0] - thetas[-1, 0]))
    assert np.sum(powers * b) * lag == pytest.approx(-curvature * speed * a / (1 - a), rel=1e-9)


def _make(name, system=EndingSystem, **more):
    options = {"n_pairs": 20, "unroll_length": 4, "sigma": 0.3, "seed": 3, **more}
    if name == "gpes":
        options["noise_period"] = 8
    return ESTIMATORS[name](LoopTask(system, 13), **options)


_THETA = np.array([0.6, -0.2, 0.5])
_WINDOWED = ("nres", "pes", "gpes", "tes")
_VARIANTS = [{}, {"shaping": "std"}, {"adapt_sigma": 0.3}, {"noise": "orthogonal"}]


@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("options", _VARIANTS)
@pytest.mark.parametrize("name", _WINDOWED)
def test_a_measured_run_is_the_same_run_bit_for_bit(name, options, system):
    plain = Trainer(_make(name, system, **options), SGD(3, 0.3), _THETA)
    estimator = _make(name, system, **options)
    meter = HysteresisMeter(estimator)
    measured = Trainer(meter, SGD(3, 0.3), _THETA)
    for _ in range(10):
        assert plain.update() == measured.update()
        np.testing.assert_array_equal(plain.theta, measured.theta)
    for key, value in plain.state_dict().items():
        np.testing.assert_array_equal(measured.state_dict()[key], value)
    # the twins' steps are counted apart, all of them
    extra = sum(one.extra_total_steps for one in meter.comparisons)
    assert estimator.task.executed == measured.total_steps + extra
    for one in meter.comparisons:
        assert one.extra_sequential_steps == 4 + one.ages.max()
        assert one.relative_difference > 0.0 or one is meter.comparisons[0]
    if options == {}:  # each pair's own: episodes that begin have nothing behind them
        young = np.concatenate(
            [one.squared_differences[one.ages == 0] for one in meter.comparisons]
        )
        assert young.size
        assert not young.any()


@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("options", _VARIANTS)
@pytest.mark.parametrize("name", _WINDOWED)
def test_with_a_tiny_refresh_drift_every_window_is_its_fresh_twin(name, options, system):
    meter = HysteresisMeter(_make(name, system, refresh_drift=1e-12, **options))
    trainer = Trainer(meter, SGD(3, 0.3), _THETA)
    trainer.run(updates=10)
    for one in meter.comparisons:
        np.testing.assert_array_equal(one.estimate.gradient, one.fresh)
        assert (one.relative_difference, one.squared_differences.max()) == (0.0, 0.0)
    assert len({one.estimate.sequential_steps for one in meter.comparisons}) > 1


@pytest.mark.parametrize("engine", ["native", "gymnasium"])
@pytest.mark.parametrize("name", ["nres", "pes", "tes"])
def test_windows_of_normalised_observations(name, engine):
    env = make_env("Hopper-v4")
    policy = LinearPolicy(env.observation_space, env.action_space, normalize_observations=True)
    env.close()
    gradients = {}
    for kind in ("plain", "measured", "refreshed"):
        limit = 1e-12 if kind == "refreshed" else 0.0
        threads = 2 if engine == "native" else 0
        with make_task("Hopper-v4", policy, engine=engine, n_threads=threads) as task:
            estimator = ESTIMATORS[name](
                task, n_pairs=4, unroll_length=7, sigma=0.1, horizon=40, seed=3,
                refresh_drift=limit,
            )  # fmt: skip
            source = estimator if kind == "plain" else HysteresisMeter(estimator)
            trainer = Trainer(source, SGD(policy.num_params, 0.01), np.zeros(policy.num_params))
            trainer.run(updates=5)
            gradients[kind] = trainer.theta
            if kind == "refreshed":
                for one in source.comparisons:
                    np.testing.assert_array_equal(one.estimate.gradient, one.fresh)
    np.testing.assert_array_equal(gradients["plain"], gradients["measured"])
    assert not np.array_equal(gradients["plain"], gradients["refreshed"])


class _Cliff(LoopTask):
    """Fails where θ begins to move, but only in episodes that are unrolled from their start."""

    def unroll(self, rows, thetas, n_steps):
        young = np.array([self.rows[row].steps == 0 for row in rows])
        result = super().unroll(rows, thetas, n_steps)
        broken = young & (thetas[:, 0] > 50)
        return UnrollResult(np.where(broken, np.nan, result.loss_sum), *result[1:])


def test_a_twin_that_fails_leaves_the_estimator_as_it_was():
    estimator = NRES(_Cliff(LastingSystem, 12), n_pairs=4, unroll_length=4, sigma=0.1)
    estimator.reset(_THETA)
    before = estimator.state_dict()
    with pytest.raises(NonFiniteLossError):
        compare(estimator, np.array([99.0, 0.0, 0.0]))
    for key, value in estimator.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_whole_episodes_have_no_hysteresis():
    estimator = FullES(LoopTask(EndingSystem, 5), n_pairs=4, sigma=0.1)
    with pytest.raises(ValueError, match=r"^estimator=FullES: has no hysteresis, as it keeps no"):
        HysteresisMeter(estimator)
    estimator.reset(_THETA)
    with pytest.raises(ValueError, match="FullES has no running episodes"):
        compare(estimator, _THETA)
    with pytest.raises(RuntimeError, match="call reset"):
        compare(_make("nres"), _THETA)


def _comparison(differences, fresh, ages=(0,), of_pairs=((0.0,), (1.0,))):
    """A window of some groups, from their differences and fresh sums (G, d)."""
    differences, fresh = np.array(differences, float), np.array(fresh, float)
    mean = fresh.mean(axis=0)
    estimate = GradientEstimate(mean + differences.mean(axis=0), 0.0, 4, 8, 0)
    return Comparison(estimate, mean, np.array(ages), *map(np.array, of_pairs),
                      differences, fresh, 4, 10)  # fmt: skip


def test_a_summary_of_windows_made_by_hand():
    first = _comparison(
        [[0, 2], [0, 6]], [[2, 0], [4, 0]], (0, 1, 11), ((0.0, 1.0, 9.0), (1.0, 4.0, 1.0))
    )
    second = _comparison(
        [[1, 0], [-1, 0]], [[0, 0], [2, 0]], (2, 3, 9), ((0.0, 3.0, 0.0), (4.0, 8.0, 2.0))
    )
    assert first.cosine == pytest.approx(0.6)
    assert first.relative_difference == pytest.approx(4 / 3)
    found = summarize([first, second], unroll_length=6, horizon=11)
    assert found.windows == 2
    assert found.cosine == pytest.approx(0.8)
    assert found.relative_difference == pytest.approx(math.sqrt(16 / 10))
    # means by group: differences (½, 1) and (-½, 3), fresh (1, 0) and (3, 0)
    assert found.bias == pytest.approx(math.sqrt((-0.25 + 3) / 3))
    assert found.along == pytest.approx((0.5 * 3 - 0.5 * 1) / 2 / 3)
    assert (found.bias_interval, found.along_interval) == (None, None)  # both are one episode
    assert [(g.first, g.last, g.n) for g in found.ages] == [
        (0, 0, 1), (1, 2, 2), (3, 4, 1), (9, 10, 1),
    ]  # fmt: skip
    assert found.ages[1].relative_difference == pytest.approx(math.sqrt(1 / 8))
    assert found.extra_total_steps == 20
    assert summarize([first], unroll_length=1, horizon=None).ages[-1].last == 11
    # nothing to compare with, and nothing to tell scatter from signal by
    nothing = summarize([_comparison([[1, 0], [1, 0]], np.zeros((2, 2)))], unroll_length=1,
                        horizon=1)  # fmt: skip
    assert all(map(math.isnan, (nothing.cosine, nothing.bias, nothing.along)))
    assert math.isnan(summarize([_comparison([[1]], [[1]])], unroll_length=1, horizon=1).bias)
    with pytest.raises(ValueError, match="compare a window at least"):
        summarize([], unroll_length=1, horizon=1)


def _drawn(rng, n_windows=20, n_groups=8, d=30):
    """Windows with m = (8, 0, ...), b = (0.8, 1.6, 0, ...), so that along = 0.1 and bias² = 0.05.

    Each group of both estimates has noise of deviation 3 in each parameter.
    """
    mean, bias = np.zeros((2, d))
    mean[0], bias[:2] = 8.0, (0.8, 1.6)
    noise = 3.0 * rng.normal(size=(2, n_windows, n_groups, d))
    pairs = zip(bias + 0.5 * (noise[1] - noise[0]), mean + noise[0], strict=True)
    return [_comparison(differences, fresh) for differences, fresh in pairs]


def test_bias_is_told_from_scatter():
    # 500 runs. Products of the means themselves would be off by ± ½·9·30/(8·20) = 0.84, which is
    # 0.013 of ⟨m, m⟩ = 64. The ratio of two noisy products is off by 0.4 %
    rng = np.random.default_rng(4)
    found = [summarize(_drawn(rng), unroll_length=5, horizon=None) for _ in range(500)]
    for values, truth in (
        (np.array([one.along for one in found]), 0.1),
        (np.array([one.bias for one in found]) ** 2, 0.05),
    ):
        error = values.std() / math.sqrt(len(found))
        assert abs(values.mean() - truth) < ALLOWED * error
        assert FAR * error < 0.013


def test_intervals_hold_the_truth_as_often_as_they_say():
    # 190 of 200 with a binomial deviation of 3; percentiles of 20 stretches are a little too narrow
    rng = np.random.default_rng(5)
    found = [summarize(_drawn(rng), unroll_length=5, horizon=5) for _ in range(200)]
    for ends, truth in (
        ([one.along_interval for one in found], 0.1),
        ([one.bias_interval for one in found], math.sqrt(0.05)),
    ):
        assert 174 <= sum(one.low <= truth <= one.high for one in ends) <= 199


@pytest.mark.parametrize("options", _VARIANTS)
def test_groups_of_pairs_make_up_the_gradients(options):
    meter = HysteresisMeter(_make("nres", **options))
    Trainer(meter, SGD(3, 0.3), _THETA).run(updates=4)
    for one in meter.comparisons:
        assert one.grouped_fresh.shape == (8, 3)
        np.testing.assert_allclose(one.grouped_fresh.mean(axis=0), one.fresh, atol=1e-12)
        np.testing.assert_allclose(
            one.grouped_differences.mean(axis=0), one.estimate.gradient - one.fresh, atol=1e-12
        )


_TRAIN = ("train", "Swimmer-v4", "--algo", "nres", "--n-pairs", "3", "--unroll-length", "15",
          "--env-kwargs", "max_episode_steps=50", "--updates", "6", "--quiet", "--threads", "1",
          "--run-dir")  # fmt: skip


def _listing(folder: str) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def _json(run: Run, *words: str) -> dict[str, Any]:
    outcome = run("hysteresis", *words, "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert isinstance(facts, dict)
    return facts


def test_the_command_goes_on_with_a_run_and_leaves_its_folder_alone(run: Run) -> None:
    run(*_TRAIN, "run")
    before = _listing("run")
    outcome = run("hysteresis", "run", "--windows", "5")
    facts = _json(run, "run", "--windows", "5")
    assert outcome.code == 0, outcome.err
    assert _listing("run") == before
    lines = outcome.out.splitlines()
    assert lines[0] == "Swimmer-v4 · nres · seed 0 · W 15 · T 50 · N 3 · run from update 6"
    assert lines[2].split() == ["update", "cosine", "difference", "extra", "steps"]
    for line, told in zip(lines[3:8], facts["windows"], strict=True):
        update, cosine = line.split()[:2]
        assert (int(update), cosine) == (told["update"], f"{told['cosine']:.4f}")
        assert line.endswith(f"{told['extra_total_steps']:,}")
    assert lines[-1] == f"extra steps     {facts['extra_total_steps']:,}, in no run's count"
    # what it says of the run's own gradients is what resuming brings
    run("resume", "run", "--updates", "11", "--quiet")
    rows = Path("run/progress.csv").read_text().splitlines()
    norms = [float(row.split(",")[rows[0].split(",").index("gradient_norm")]) for row in rows[7:]]
    assert norms == pytest.approx([np.linalg.norm(w["gradient"]) for w in facts["windows"]])
    assert facts["windows"][0]["update"] == 7
    told = lines[-3 if facts["bias"] is not None else -2]
    assert told.startswith("mean gradient   ")
    assert told.endswith("more --windows")
    assert facts["bias_interval"] is None


def test_a_run_that_refreshes_everything_has_none(run: Run) -> None:
    run(*_TRAIN, "run", "--refresh-drift", "1e-9")
    facts = _json(run, "run", "--windows", "8", "--threads", "2")
    assert {window["relative_difference"] for window in facts["windows"]} == {0.0}
    assert facts["bias"] in (0.0, None)  # null where the gradient itself does not stand out
    assert facts["refresh_drift"] == 1e-9


def test_a_damaged_checkpoint_is_passed_over_and_stays_where_it_is(run: Run) -> None:
    run(*_TRAIN, "run")
    newest = Path(sorted(map(str, Path("run/checkpoints").iterdir()))[-1])
    whole = newest.read_bytes()
    newest.with_name("update-0000000007.npz").write_bytes(whole[: len(whole) // 2])
    before = _listing("run")
    assert _json(run, "run", "--windows", "1")["update"] == 6
    assert _listing("run") == before


def test_what_cannot_be_measured_is_refused_in_one_line(run: Run) -> None:
    run(*_TRAIN, "run")
    run("train", "Swimmer-v4", "--algo", "fulles", "--updates", "1", "--env-kwargs",
        "max_episode_steps=20", "--quiet", "--run-dir", "full")  # fmt: skip
    os.mkdir("nothing")
    cases = {
        ("nothing",): "RUN nothing: holds no run (it has no config.yaml); name a run's folder",
        ("full",): "RUN full: fulles begins every episode under today's θ and has no hysteresis; "
        "name a run of nres, pes, gpes, tes",
        ("run", "--windows", "0"): "--windows 0: must be a positive integer",
        ("run", "--threads", "x"): "--threads x: must be a positive integer of at most 1024",
    }
    for words, message in cases.items():
        outcome = run("hysteresis", *words)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == f"error: {message}\n"
    header = {"format": "es_rl checkpoint", "version": 1, "extra": {}}
    write_npz("run/checkpoints/update-0000000099.npz", header, {})
    outcome = run("hysteresis", "run")
    assert outcome.code == 2
    assert re.match(r"error: RUN run: .*99\.npz: is no checkpoint of a run \(", outcome.err)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    outcome = run("hysteresis", "run")
    assert outcome.code == 2
    assert outcome.err.startswith("error: RUN run: has no whole checkpoint to go on from; ")
    assert outcome.err.count("\n") == 1


def test_the_option_is_refused_where_it_does_not_apply(run: Run) -> None:
    outcome = run("train", "Swimmer-v4", "--algo", "fulles", "--refresh-drift", "0.5")
    assert outcome.code == 2
    assert outcome.err.startswith("error: --refresh-drift 0.5: does not apply to --algo fulles")
    outcome = run("train", "Swimmer-v4", "--algo", "nres", "--refresh-drift", "-1")
    assert outcome.err == "error: --refresh-drift -1: must be zero or a positive number\n"


def test_tes_goes_on_from_states_of_earlier_thetas_too():
    meter = HysteresisMeter(_make("tes", LastingSystem))
    Trainer(meter, SGD(3, 0.3), _THETA).run(updates=8)
    assert isinstance(meter._estimator, TES)
    # one row a pair is unrolled again, then three for the window
    for one in meter.comparisons:
        assert one.extra_total_steps == one.ages.sum() + 3 * 4 * 20
