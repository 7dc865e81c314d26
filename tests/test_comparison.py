"""Comparisons: equal steps, nothing repeated, and a table that the progress files bear out."""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run

from es_rl.comparison import (
    interquartile_mean,
    make_plan,
    run_jobs,
    summarise,
)
from es_rl.config_layers import load_config
from es_rl.curves import read_curve
from es_rl.envs.registration import NATIVE_ENVS
from es_rl.options import ALGORITHMS, ConfigError
from es_rl.run_pool import Evaluated, Finished, Job
from es_rl.step_budgets import steps_per_update

ALGOS = ("nres", "pes", "tes", "fulles")
SHORT: dict[str, Any] = {"env_kwargs": {"max_episode_steps": 50}}


def plan(folder: Path, algos: tuple[str, ...] = ALGOS, seeds: Any = (0,), **given: Any) -> Any:
    return make_plan("Swimmer-v4", algos, seeds, str(folder), **given)


def test_every_update_takes_equally_many_steps(tmp_path: Path) -> None:
    made = plan(tmp_path, n_pairs=30, unroll_length=100, total_steps=600_000)
    configs = {job.config.algo: job.config for job in made.jobs}
    assert {algo: config.n_pairs for algo, config in configs.items()} == {
        "nres": 30, "pes": 30, "tes": 20, "fulles": 3,
    }  # fmt: skip
    assert {algo: steps_per_update(config) for algo, config in configs.items()} == {
        "nres": 6000, "pes": 6000, "tes": 6000, "fulles": 6000,
    }  # fmt: skip
    assert {config.total_steps for config in configs.values()} == {600_000}
    assert {config.updates for config in configs.values()} == {None}
    assert made.notes == []


@pytest.mark.parametrize(
    ("n_pairs", "others", "reason"),
    [
        (32, ("fulles",), "fulles would need 32·1/10 pairs, .* multiple of 10, such as 30$"),
        (3, ("fulles",), "fulles would need 3·1/10 pairs, .*such as 10$"),
        (20, ("tes",), "tes would need 20·2/3 pairs, .* multiple of 3, such as 21$"),
        (40, ("tes", "fulles"), "tes would need 40·2/3 pairs, .* multiple of 30, such as 30$"),
    ],
)
def test_all_have_whole_pairs(
    tmp_path: Path, n_pairs: int, others: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--n-pairs {n_pairs}: .*{reason}"):
        plan(tmp_path, ("nres", *others), n_pairs=n_pairs, unroll_length=100)
    # alone, any number will do
    for algo in ("nres", *others):
        assert plan(tmp_path, (algo,), n_pairs=n_pairs).jobs[0].config.n_pairs == n_pairs


def test_a_presets_pairs_are_moved_to_whole_ones_and_that_is_told(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("default: {n_pairs: 32, unroll_length: 100}")
    folder = tmp_path / "runs"
    made = plan(folder, ("tes", "nres", "fulles"), presets={"nres": str(preset)})
    assert {job.config.algo: job.config.n_pairs for job in made.jobs} == {
        "nres": 30, "tes": 20, "fulles": 3,
    }  # fmt: skip
    assert made.notes == [
        "nres has 30 pairs and not its preset's 32, so that an update takes equally many steps "
        "for all"
    ]
    alone = plan(folder, ("nres",), presets={"nres": str(preset)})
    assert alone.jobs[0].config.n_pairs == 32
    assert alone.notes == []
    # without an algorithm of two rows and windows, the first one's pairs count
    two = plan(folder, ("fulles", "tes"), n_pairs=3, unroll_length=100)
    assert {job.config.algo: job.config.n_pairs for job in two.jobs} == {"fulles": 3, "tes": 20}


def test_episodes_that_no_window_fits_into_are_asked_about(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"env_kwargs": {"max_episode_steps": 1001}}
    with pytest.raises(ConfigError, match=r"--unroll-length 100: .*3,003 pairs; .*-length 91, or"):
        plan(tmp_path, **odd)
    made = plan(tmp_path, unroll_length=91, **odd)
    assert len({steps_per_update(job.config.with_horizon(1001)) for job in made.jobs}) == 1


def test_windows_that_are_suggested_are_others_and_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--unroll-length 1: .*3,000 pairs") as refused:
        plan(tmp_path, unroll_length=1)
    found = re.search(r"--unroll-length (\d+), or --n-pairs 3000$", str(refused.value))
    assert found is not None
    assert int(found[1]) != 1
    plan(tmp_path, unroll_length=int(found[1]))


_CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0",
            "Pendulum-v1")  # fmt: skip


@pytest.mark.parametrize("env", [*NATIVE_ENVS, *_CLASSIC])
def test_every_environment_is_compared_by_default(tmp_path: Path, env: str) -> None:
    for algos in (ALGOS, ("nres", "ars"), tuple(ALGORITHMS)):
        made = make_plan(env, algos, (0,), str(tmp_path))
        assert [job.config.algo for job in made.jobs] == list(algos)
        assert len({steps_per_update(job.config) for job in made.jobs}) == 1


def test_the_best_pairs_of_a_preset_stay_the_same_share(tmp_path: Path) -> None:
    preset = tmp_path / "ars.yaml"
    preset.write_text("default: {n_pairs: 40, top_pairs: 30}\n", encoding="utf-8")

    def top(**given: Any) -> tuple[int, int | None, list[str]]:
        presets = {"ars": str(preset)}
        made = make_plan(
            "Walker2d-v5", ("nres", "ars"), (0,), str(tmp_path), presets=presets, **given
        )
        config = made.jobs[1].config
        return config.n_pairs, config.top_pairs, made.notes

    assert top() == (
        4, 3, ["ars keeps the best 3 of its 4 pairs, about the share of its preset's 30 of 40"],
    )  # fmt: skip
    assert top(n_pairs=400) == (40, 30, [])
    assert top(own_settings={"ars": {"top_pairs": 2}}) == (4, 2, [])
    assert top(n_pairs=10)[:2] == (1, 1)


def test_settings_reach_those_they_are_for(tmp_path: Path) -> None:
    made = plan(
        tmp_path, seeds=(7, 9), settings={"sigma": 0.07, "staggering": "iid"},
        own_settings={"pes": {"sigma": 0.01}}, presets={"nres": "paper-Swimmer-v4"},
    )  # fmt: skip
    assert [Path(job.run_dir).name for job in made.jobs] == [
        f"{algo}-seed{seed}" for seed in (7, 9) for algo in ALGOS
    ]
    by_algo = {job.config.algo: job.config for job in made.jobs}
    assert {a: c.sigma for a, c in by_algo.items()} == {
        "nres": 0.07, "pes": 0.01, "tes": 0.07, "fulles": 0.07,
    }  # fmt: skip
    assert by_algo["nres"].staggering == "iid"
    assert by_algo["fulles"].staggering is None
    assert by_algo["nres"].learning_rate == 3.0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"settings": {"n_pairs": 3}}, "--set n_pairs=3: is decided for all runs alike"),
        ({"own_settings": {"gpes": {"sigma": 1.0}}}, "--set gpes: is not compared"),
        ({"settings": {"noise_period": 100}}, "--set noise_period=100: does not apply"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan(tmp_path, **given)


def read(run_dir: str) -> list[dict[str, str]]:
    with open(os.path.join(run_dir, "progress.csv"), newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Job], list[Finished]]:
    folder = tmp_path_factory.mktemp("comparison")
    made = plan(
        folder, seeds=(0, 1), n_pairs=15, unroll_length=10, total_steps=3000, eval_every=3,
        threads=1, settings={"eval_episodes": 2}, **SHORT,
    )  # fmt: skip
    events: list[Evaluated | Finished] = []
    ended = run_jobs(made.jobs, 2, on_event=events.append)
    assert [e for e in events if isinstance(e, Finished)] == ended
    evaluated = {e.job.run_dir for e in events if isinstance(e, Evaluated)}
    assert evaluated == {job.run_dir for job in made.jobs}
    return made.jobs, ended


def test_all_runs_use_the_same_budget(trained: tuple[list[Job], list[Finished]]) -> None:
    jobs, ended = trained
    assert sorted(e.job.run_dir for e in ended) == sorted(job.run_dir for job in jobs)
    assert {e.reason for e in ended} == {"total_steps"}
    for job in jobs:
        rows = read(job.run_dir)
        totals = [int(row["total_steps"]) for row in rows]
        # each stops at the first update that reaches the budget
        assert totals[-1] >= 3000 > totals[-2]
        steps = {b - a for a, b in itertools.pairwise(totals)}
        assert steps == {300}
        sequential = [int(row["sequential_steps"]) for row in rows]
        assert sequential[-1] - sequential[-2] == (50 if job.config.algo == "fulles" else 10)


def test_an_ordinary_run_comes_out(
    trained: tuple[list[Job], list[Finished]], tmp_path: Path
) -> None:
    from es_rl.run import train

    job = trained[0][0]
    config, about = load_config(os.path.join(job.run_dir, "config.yaml"))
    assert about["sessions"]
    train(config, str(tmp_path / "alone"))
    for name in ("policy.npz", "best_policy.npz"):
        alone = (tmp_path / "alone" / name).read_bytes()
        assert alone == Path(job.run_dir, name).read_bytes()


def test_what_is_finished_is_not_repeated(trained: tuple[list[Job], list[Finished]]) -> None:
    jobs, ended = trained
    files = [Path(job.run_dir, name) for job in jobs for name in os.listdir(job.run_dir)]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = run_jobs(jobs, 2, on_event=lambda event: None)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    key = lambda e: e.job.run_dir  # noqa: E731
    assert [(e.job, e.reward) for e in sorted(again, key=key)] == [
        (e.job, e.reward) for e in sorted(ended, key=key)
    ]


def test_runs_of_other_settings_are_not_mixed_in(
    trained: tuple[list[Job], list[Finished]],
) -> None:
    folder = Path(trained[0][0].run_dir).parent
    given = {"n_pairs": 15, "unroll_length": 10, "eval_every": 3, **SHORT}
    with pytest.raises(ConfigError, match=r"--dir .*other settings .*--sigma .*another folder$"):
        plan(folder, total_steps=3000, settings={"eval_episodes": 2, "sigma": 0.9}, **given)
    # a larger budget goes on with the same runs
    more = plan(folder, total_steps=4000, settings={"eval_episodes": 2}, **given)
    assert {job.config.total_steps for job in more.jobs} == {4000}


def test_the_table_is_what_the_progress_files_say(
    trained: tuple[list[Job], list[Finished]],
) -> None:
    jobs = [job for job in trained[0] if job.config.algo == "nres"]
    curves = [read_curve(job.run_dir) for job in jobs]
    finals, best = [], []
    for job in jobs:
        rewards = [float(r["eval_reward_mean"]) for r in read(job.run_dir) if r["eval_reward_mean"]]
        finals.append(rewards[-1])
        best.append(max(rewards))
    threshold = min(best)
    expected = {"sequential_steps": [], "total_steps": []}  # type: ignore[var-annotated]
    for job in jobs:
        row = next(
            r for r in read(job.run_dir)
            if r["eval_reward_mean"] and float(r["eval_reward_mean"]) >= threshold
        )  # fmt: skip
        for name, values in expected.items():
            values.append(int(row[name]))
    line = summarise("nres", [job.config for job in jobs], curves, [threshold, 1e9])
    assert (line.n_runs, line.n_failed, line.n_pairs, line.steps_per_update) == (2, 0, 15, 300)
    assert line.final == pytest.approx(sum(finals) / 2)
    assert line.low is not None
    assert line.high is not None
    assert min(finals) - 1e-9 <= line.low <= line.final <= line.high <= max(finals) + 1e-9
    reached = line.reached[threshold]
    assert reached.n_runs == 2
    assert reached.sequential == sum(expected["sequential_steps"]) / 2
    assert reached.total == sum(expected["total_steps"]) / 2
    assert line.reached[1e9] == (None, None, 0)


def test_seeds_that_never_reach_a_reward_count_as_infinite(tmp_path: Path) -> None:
    curves = [
        read_curve(make_run(tmp_path / str(i), [0.0, reward], [100, 100 * (i + 2)], seed=i))
        for i, reward in enumerate([5.0, 5.0, 1.0])
    ]
    config, _ = load_config(tmp_path / "0" / "config.yaml")
    reached = summarise("nres", [config], curves, [4.0]).reached[4.0]
    assert reached == (30.0, 300.0, 2)  # the median of 200, 300 and infinity
    reached = summarise("nres", [config], curves[1:], [4.0]).reached[4.0]
    assert reached == (None, None, 1)
    reached = summarise("nres", [config], curves[2:], [4.0], n_failed=1).reached[4.0]
    assert reached.n_runs == 0


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    middle, low, high = interquartile_mean([100.0, 1.0, 2.0, 3.0, -50.0])
    assert middle == 2.0
    assert low is not None
    assert high is not None
    assert -50 <= low <= 2.0 <= high <= 100
    values = list(np.arange(8.0))
    assert interquartile_mean(values)[0] == np.mean([2, 3, 4, 5])
    assert interquartile_mean([4.0]) == (4.0, None, None)


def test_a_run_that_breaks_off_does_not_stop_the_others(tmp_path: Path) -> None:
    made = plan(
        tmp_path, ("nres", "pes"), n_pairs=2, unroll_length=10, total_steps=400, threads=1,
        settings={"eval_episodes": 1}, own_settings={"nres": {"sigma": 1e308}}, **SHORT,
    )  # fmt: skip
    ended = {e.job.config.algo: e for e in run_jobs(made.jobs, 1, on_event=lambda event: None)}
    assert ended["nres"].reason == "failed"
    assert ended["nres"].error is not None
    assert "\n" not in ended["nres"].error
    assert ended["nres"].reward is None
    assert ended["pes"].reason == "total_steps"


STARTED = """
import sys
from es_rl.comparison import make_plan, run_jobs
from es_rl.cli.session import Interrupt
if __name__ == "__main__":
    plan = make_plan("Swimmer-v4", ("nres", "pes"), (0,), sys.argv[1], n_pairs=2, unroll_length=10,
                     total_steps=int(sys.argv[2]), eval_every=50, threads=1,
                     settings={"eval_episodes": 1}, env_kwargs={"max_episode_steps": 50})
    stop = Interrupt()
    with stop.installed():
        ended = run_jobs(plan.jobs, 2, on_event=lambda event: None, should_stop=stop)
    print(sorted((e.job.config.algo, e.reason) for e in ended))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment_and_repeated_is_as_if_never_stopped(
    tmp_path: Path, how: signal.Signals
) -> None:
    script = tmp_path / "script.py"
    script.write_text(STARTED)
    folder = tmp_path / "runs"
    command = [sys.executable, str(script), str(folder), "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        wanted = [folder / f"{algo}-seed0" / "progress.csv" for algo in ("nres", "pes")]
        for _ in range(3000):
            if all(path.exists() and len(path.read_bytes()) > 3000 for path in wanted):
                break
            time.sleep(0.05)
        process.send_signal(how)
        told, _ = process.communicate(timeout=60)
    if how == signal.SIGTERM:
        assert told == "[('nres', 'interrupted'), ('pes', 'interrupted')]\n"
    updates = {}
    for path in wanted:
        # workers whose owner was killed save and end by themselves
        for _ in range(600):
            rows = read(str(path.parent))
            time.sleep(0.1)
            if len(rows) == len(read(str(path.parent))):
                break
        updates[path.parent.name] = len(rows)
    assert all(n > 20 for n in updates.values())
    budget = 40 * (max(updates.values()) + 5)
    made = plan(
        folder, ("nres", "pes"), n_pairs=2, unroll_length=10, total_steps=budget, eval_every=50,
        threads=1, settings={"eval_episodes": 1}, **SHORT,
    )  # fmt: skip
    resumed = {e.job.config.algo: e for e in run_jobs(made.jobs, 2, on_event=lambda event: None)}
    alone = plan(
        tmp_path / "alone", ("nres",), n_pairs=2, unroll_length=10, total_steps=budget,
        eval_every=50, threads=1, settings={"eval_episodes": 1}, **SHORT,
    )  # fmt: skip
    (never_stopped,) = run_jobs(alone.jobs, 1, on_event=lambda event: None)
    assert resumed["nres"].reward == never_stopped.reward
    columns = [c for c in read(alone.jobs[0].run_dir)[0] if c != "wall_time"]
    tables = [[[row[c] for c in columns] for row in read(job.run_dir)]
              for job in (made.jobs[0], alone.jobs[0])]  # fmt: skip
    assert tables[0] == tables[1]
    assert math.isfinite(float(tables[0][-1][-1]))
