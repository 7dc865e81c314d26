"""`es-rl variance`: what it prints, draws, and refuses."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome, Run
from PIL import Image

from es_rl import LinearPolicy
from es_rl.cli.variance_source import BUILT_IN
from es_rl.envs import InfluenceBalancingTask, make_env, make_task
from es_rl.estimators import ESTIMATORS
from es_rl.variance import closed_variance, measure


@pytest.fixture
def run(run: Run) -> Run:
    """Run the command line given as one text."""
    return lambda text: run(*shlex.split(text))


def _json(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert isinstance(facts, dict)
    return facts


BALANCING = "variance influence-balancing --horizon 12 --samples 50 --sigma 0.3"


def test_json_holds_what_the_library_measures(run: Run) -> None:
    facts = _json(
        run(f"{BALANCING} --unroll-lengths 3,6 --noise-periods 6 --seed 4 --pairs 5 --json")
    )
    assert {key: facts[key] for key in ("task", "theta", "num_params", "horizon", "sigma", "pairs",
                                        "samples", "seed", "confidence", "plot")} == {
        "task": "influence-balancing", "theta": "initial", "num_params": 1, "horizon": 12,
        "sigma": 0.3, "pairs": 5, "samples": 50, "seed": 4, "confidence": 0.95, "plot": None,
    }  # fmt: skip
    cases = [(e["algo"], e["unroll_length"], e["noise_period"]) for e in facts["estimators"]]
    assert cases == [
        ("nres", 3, 12), ("nres", 6, 12), ("pes", 3, 3), ("pes", 6, 6), ("gpes", 3, 6),
        ("gpes", 6, 6), ("tes", 3, None), ("tes", 6, None), ("fulles", 12, None),
    ]  # fmt: skip
    task = InfluenceBalancingTask()
    theta = task.initial_theta()
    for told in facts["estimators"]:
        kind, options = ESTIMATORS[told["algo"]], {}
        if told["algo"] != "fulles":
            options["unroll_length"] = told["unroll_length"]
        if told["algo"] == "gpes":
            options["noise_period"] = 6
        result = measure(kind, task, theta, n_samples=50, seed=4, sigma=0.3, horizon=12, **options)
        assert told["variance"] == result.variance.over(5)._asdict()
        for name in ("stratified", "episode"):
            interval = getattr(result, name)
            assert told[name] == (interval and interval.over(5)._asdict())
        assert told["mean_gradient"] == result.mean.tolist()
        assert told["standard_error"] == result.mean_error.tolist()
        assert told["squared_norm_of_mean"] == result.squared_norm
        closed = closed_variance(
            kind, task, theta, horizon=12, unroll_length=told["unroll_length"],
            noise_period=result.noise_period,
        )  # fmt: skip
        assert told["closed_form"] == closed / 5
        steps = (3 if told["algo"] == "tes" else 2) * told["unroll_length"]
        assert told["steps_per_estimate"] == steps
        assert told["at_equal_steps"] == pytest.approx(result.variance.value * steps / 24)


def test_the_table_says_the_same_as_the_json(run: Run) -> None:
    facts = _json(run(f"{BALANCING} --unroll-lengths 3 --json"))
    lines = run(f"{BALANCING} --unroll-lengths 3").out.splitlines()
    assert lines[0] == (
        "influence-balancing · θ initial (d 1) · T 12 · σ 0.3 · N 1 · 50 samples · seed 0"
    )
    assert " ".join(lines[2].split()) == (
        "estimator W K variance 95 % interval closed form over |mean|² in 24 steps"
    )
    for line, told in zip(lines[3:7], facts["estimators"], strict=True):
        v = told["variance"]
        period = "–" if told["noise_period"] is None else str(told["noise_period"])
        over = v["value"] / told["squared_norm_of_mean"]
        assert line.split() == [
            told["algo"], str(told["unroll_length"]), period, f"{v['value']:.4g}",
            f"{v['low']:.4g}", "to", f"{v['high']:.4g}", f"{told['closed_form']:.4g}",
            f"{over:.3g}", f"{told['at_equal_steps']:.4g}",
        ]  # fmt: skip
    assert "one pair's estimate" in lines[8]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_task_is_measured_at_its_initial_theta(run: Run, name: str) -> None:
    small = {
        "learned-optimizer": 'hidden=[4],batch_size=8,dataset="digits"',
        "hyperparameter-tuning": "hidden=[4],batch_size=8,objective=validation-accuracy",
        "char-lstm": "units=2",
    }
    options = f"--env-kwargs '{small[name]}'" if name in small else ""
    facts = _json(
        run(
            f"variance {name} --horizon 6 --unroll-lengths 2 --samples 10 --algos nres,fulles "
            f"--json {options}"
        )
    )
    assert facts["sigma"] == BUILT_IN[name].sigma
    for told in facts["estimators"]:
        assert told["variance"]["value"] > 0
        assert len(told["mean_gradient"]) == facts["num_params"]
        assert (told["closed_form"] is None) == (name != "influence-balancing")


def test_a_text_file_is_what_the_lstm_reads(run: Run) -> None:
    Path("text.txt").write_text("abcabbcabc" * 5)
    facts = _json(
        run(
            "variance char-lstm --env-kwargs text=text.txt,units=2 --horizon 4 --samples 10 "
            "--algos fulles --json"
        )
    )
    assert facts["num_params"] == 2 * 3 * 2 + 8 * 4 + 4 * 2 + 3


def test_a_closed_form_that_is_left_out_says_why(run: Run) -> None:
    words = "variance influence-balancing --samples 10 --algos fulles"
    why = "needs T² numbers, left out above --horizon 3000"
    longer, shorter = run(f"{words} --horizon 3001"), run(f"{words} --horizon 30")
    assert longer.out.splitlines()[-1] == f"closed form: {why}"
    assert why not in shorter.out
    assert _json(run(f"{words} --horizon 3001 --json"))["why_not_closed"] == why
    assert _json(run(f"{words} --horizon 30 --json"))["why_not_closed"] is None
    # a task that has none has nothing to explain
    lorenz = run("variance lorenz --horizon 3001 --samples 10 --algos fulles")
    assert lorenz.code == 0
    assert "closed form" not in lorenz.out


def test_theta_from_a_file(run: Run) -> None:
    np.save("theta.npy", np.array([-0.1]))
    told = _json(run(f"{BALANCING} --theta theta.npy --algos fulles --json"))
    assert told["theta"] == "theta.npy"
    task = InfluenceBalancingTask()
    closed = closed_variance(ESTIMATORS["fulles"], task, np.array([-0.1]), horizon=12)
    assert told["estimators"][0]["closed_form"] == closed


def test_a_saved_policy_and_an_initial_one_in_an_environment(run: Run) -> None:
    env = make_env("Swimmer-v4", max_episode_steps=20)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    policy.theta = np.random.default_rng(0).normal(size=16)
    policy.save("p.npz", env="Swimmer-v4", env_kwargs={"max_episode_steps": 20})
    words = "variance Swimmer-v4 --samples 10 --sigma 0.2 --algos pes --json"
    short = "--env-kwargs max_episode_steps=20"
    saved = _json(run(f"{words} --unroll-lengths 10 --theta p.npz"))
    assert (saved["theta"], saved["horizon"]) == ("p.npz", 20)
    with make_task("Swimmer-v4", policy, max_episode_steps=20) as task:
        result = measure(
            ESTIMATORS["pes"], task, policy.theta, n_samples=10, unroll_length=10, sigma=0.2
        )
    assert saved["estimators"][0]["mean_gradient"] == result.mean.tolist()
    initial = _json(run(f"{words} {short}"))
    # the preset's window is longer than these episodes
    assert (initial["horizon"], initial["estimators"][0]["unroll_length"]) == (20, 20)
    assert initial["estimators"][0]["mean_gradient"] != result.mean.tolist()
    mlp = _json(run(f"{words} {short} --set policy=mlp --set hidden=3"))
    assert mlp["num_params"] == (8 * 3 + 3) + (3 * 2 + 2)


def test_a_runs_folder_gives_its_own_sigma_and_window(run: Run) -> None:
    run(
        "train Swimmer-v4 --algo pes --n-pairs 2 --unroll-length 10 --sigma 0.07 --env-kwargs "
        "max_episode_steps=30 --updates 2 --eval-episodes 1 --quiet --run-dir r"
    )
    facts = _json(run("variance Swimmer-v4 --theta r --samples 10 --algos nres --json"))
    told = facts["estimators"][0]
    assert (facts["sigma"], facts["horizon"], told["unroll_length"]) == (0.07, 30, 10)
    assert facts["theta"].startswith("r/")


def test_episodes_that_end_early_are_measured(run: Run) -> None:
    facts = _json(
        run(
            "variance CartPole-v1 --samples 10 --horizon 150 --unroll-lengths 50 --algos nres "
            "--set init_scale=1 --json"
        )
    )
    told = facts["estimators"][0]
    assert told["episode"] is None
    assert told["steps_per_estimate"] < 2 * 50
    assert facts["horizon"] == 150


PICTURES = {
    "over the noise period": "--noise-periods 3,6 --unroll-lengths 1,3",
    "over the window": "--unroll-lengths 1,3,12",
    "side by side": "--unroll-lengths 3",
}


@pytest.mark.parametrize("words", PICTURES.values(), ids=PICTURES)
def test_pictures(run: Run, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from es_rl.cli import variance_report

    seen: list[Any] = []
    lines_of = variance_report._lines
    monkeypatch.setattr(
        variance_report, "_lines", lambda *given: seen.append(lines_of(*given)) or seen[-1]
    )
    facts = _json(run(f"{BALANCING} {words} -o v.png --json"))
    assert facts["plot"] == "v.png"
    with Image.open("v.png") as image:
        assert min(image.size) > 300
    (lines, x_label, categories) = seen[0]
    by_case = {(e["algo"], e["unroll_length"], e["noise_period"]): e for e in facts["estimators"]}
    if "--noise-periods" in words:
        assert x_label == "noise period K"
        family = {line.label: line for line in lines}
        assert list(family["gpes W 3"].x) == [3, 3, 6, 12]
        assert list(family["gpes W 1"].x) == [1, 3, 6, 12]
        assert list(family["gpes W 1"].names) == ["pes", "", "", "nres"]
        told = [by_case[a, 1, k] for a, k in (("pes", 1), ("gpes", 3), ("gpes", 6), ("nres", 12))]
        assert [v.value for v in family["gpes W 1"].variances] == [
            t["variance"]["value"] for t in told
        ]
        assert list(family["gpes W 1"].closed) == [t["closed_form"] for t in told]
        assert not family["fulles"].x
    elif "1,3,12" in words:
        assert x_label == "unroll length W"
        assert [list(line.x) for line in lines] == [[1, 3, 12]] * 3 + [[]]
    else:
        assert categories == ["nres W 3", "pes W 3", "tes W 3", "fulles"]


def test_an_interval_without_an_end_is_null_in_json_and_can_be_drawn(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from es_rl import variance as variance_module
    from es_rl.variance_interval import Interval

    monkeypatch.setattr(
        variance_module, "mean_interval", lambda *given: Interval(2.0, 0.5, math.inf, 1.0)
    )
    facts = _json(run(f"{BALANCING} -o v.svg --json"))
    assert facts["estimators"][0]["variance"] == {
        "value": 2.0, "low": 0.5, "high": None, "error": 1.0
    }  # fmt: skip
    assert Path("v.svg").stat().st_size > 1000
    assert "0.5 to inf" in run(BALANCING).out


ERRORS = {
    "lorens": "TASK lorens: no such task; did you mean lorenz?",
    "Swimer-v4": "TASK Swimer-v4: no such environment; did you mean Swimmer-v4",
    "lorenz --algos nres,nrse": "--algos nrse: choose one of nres, pes, gpes, tes, fulles",
    "lorenz --algos gpes": "--noise-periods: missing; gpes needs K",
    "lorenz --algos pes --noise-periods 200": "--noise-periods 200: is for gpes",
    "lorenz --noise-periods 150": "--noise-periods 150: must be a multiple of W, which is 100",
    "lorenz --unroll-lengths 2001": "--unroll-lengths 2001: longer than the episode, which "
    "has 2000",
    "lorenz --samples 9": "--samples 9: must be an integer of at least 10",
    "lorenz --pairs 0": "--pairs 0: must be a positive integer",
    "lorenz --sigma -1": "--sigma -1: must be a positive number",
    "lorenz --sigma 1e200": "--sigma 1e+200: ",
    "lorenz --confidence 1": "--confidence 1: must lie between 0 and 1",
    "lorenz --env-kwargs dt=-1": "--env-kwargs dt=-1",
    "lorenz --env-kwargs dt=abc": "--env-kwargs dt=abc: must be a positive number",
    "lorenz --env-kwargs dt=true": "--env-kwargs dt=true: must be a positive number",
    "lorenz --env-kwargs horizon=[9]": "--env-kwargs horizon=(9,): must be a positive integer",
    "lorenz --env-kwargs horizon=null": "--env-kwargs horizon=null: its episodes never end; give",
    "lorenz --env-kwargs tau=1": "--env-kwargs tau=1: lorenz does not take it; it takes",
    "lorenz --env-kwargs n_threads=2": "--env-kwargs n_threads=2: use --threads 2",
    "lorenz --set policy=mlp": "--set: is for environments",
    "lorenz --engine native": "--engine: is for environments",
    "lorenz --theta no.npy": "--theta no.npy: no such file",
    "lorenz --theta text.npy": "--theta text.npy: is no .npy file of numbers",
    "lorenz --theta long.npy": "--theta long.npy: has shape (3,), lorenz takes (2,)",
    "lorenz --theta nan.npy": "--theta nan.npy: must hold finite numbers",
    "lorenz --sigma 60 --samples 10": "nres W 100: lorenz: the loss of pair 0 (minus row) became "
    "inf at step 5 of its episode; lower --sigma or --horizon, or name another --theta\n",
    "lorenz -o v.bmp": "-o v.bmp: give the file one of the extensions",
    "char-lstm --env-kwargs text=no.txt": "--env-kwargs text=no.txt: No such file",
    "char-lstm --env-kwargs text=5": "--env-kwargs text=5: must be the path of a text",
    "char-lstm --env-kwargs text=text.tar": "--env-kwargs text=text.tar: text.tar: not a whole tar",
    "char-lstm --env-kwargs fixed_start=maybe": "--env-kwargs fixed_start=maybe: must be true or "
    "false",
    "hyperparameter-tuning --env-kwargs batch_size=abc": "--env-kwargs batch_size=abc: must be a "
    "positive integer",
    "hyperparameter-tuning --env-kwargs momentum=abc": "--env-kwargs momentum=abc: must be a ",
    "learned-optimizer --env-kwargs hidden=8": "--env-kwargs hidden=8: must be one or more "
    "positive layer sizes, listed as in [32, 32]",
    "learned-optimizer --env-kwargs sequence_seed=abc": "--env-kwargs sequence_seed=abc: must be "
    "an integer from 0 to 2**64 - 1, or None",
    "learned-optimizer --env-kwargs dataset=[1]": "--env-kwargs dataset=(1,): choose one of",
    "learned-optimizer --env-kwargs dataset=x": "--env-kwargs dataset='x': choose one of",
    "Swimmer-v4 --set sigma=1": "--set sigma: only policy, hidden",
    "Swimmer-v4 --theta none": "--theta none: no such folder or file",
    "Swimmer-v4 --theta text.npy": "--theta text.npy: ",
    "Swimmer-v4 --checkpoint first": "--checkpoint first: choose one of best, latest",
}


@pytest.mark.parametrize("words", ERRORS, ids=str)
def test_what_cannot_be_used_is_refused_in_one_line(run: Run, words: str) -> None:
    Path("text.npy").write_text("some text")
    Path("text.tar").write_text("some text")
    np.save("long.npy", np.zeros(3))
    np.save("nan.npy", np.array([np.nan, 1.0]))
    outcome = run(f"variance {words}")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {ERRORS[words]}"), outcome.err
    assert outcome.err.count("\n") == 1
