"""The control benchmark's judging, tables and its going on after an interruption."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from es_rl.config_layers import preset_entries

SCRIPTS = Path(__file__).parent.parent / "scripts"
RESULTS = SCRIPTS / "control_results"
PAGE = SCRIPTS.parent / "docs" / "control.md"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a program of scripts/ by name, as it is imported when it is run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("benchmark_control", "control_report", "control_runs", "results"):
        sys.modules.pop(name, None)


def make_result(report: ModuleType, **given: Any) -> Any:
    values = {
        "task": "T", "method": "nres", "seed": 0, "total": [100, 200, 300],
        "sequential": [10, 20, 30], "seconds": [1, 2, 3], "reward": [5.0, 50.0, 20.0],
    } | given  # fmt: skip
    for name in ("total", "sequential", "seconds", "reward"):
        values[name] = np.array(values[name], np.float64)
    return report.Result(**values)


def test_judgements_are_due_once_in_each_share_of_the_budget(script: Any) -> None:
    run = script("control_runs").Run(budget=1000, n_judgements=4)
    due = []
    for steps in range(100, 1201, 100):
        if run.is_due(steps):
            run.add(steps, steps // 10, float(steps))
            due.append(steps)
    assert due == [300, 500, 800, 1000]
    assert run.as_dict()["reward"] == [300.0, 500.0, 800.0, 1000.0]
    assert run.as_dict()["sequential_steps"] == [30, 50, 80, 100]


def test_of_two_processes_in_a_folder_one_does_a_run(script: Any, tmp_path: Path) -> None:
    claimed = script("benchmark_control").claimed
    path = tmp_path / "Task-v0" / "nres-seed0.json"
    with claimed(path) as first, claimed(path) as second:
        assert (first, second) == (True, False)
    with claimed(path) as again:
        assert again
        path.write_text("{}")
    with claimed(path) as afterwards:
        assert not afterwards
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_evaluation_is_not_on_the_clock(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = script("stopwatch")
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    watch = clock.Stopwatch()
    now[0] = 2.0
    watch.pause()
    now[0] = 50.0
    watch.go()
    now[0] = 51.0
    watch.pause()
    assert watch.elapsed == 3.0


def test_a_threshold_is_reached_at_the_first_evaluation_there(script: Any) -> None:
    report = script("control_report")
    result = make_result(report)
    assert report.first_at(result, 50.0, "total") == 200.0
    assert report.first_at(result, 20.0, "sequential") == 20.0
    assert report.first_at(result, 50.1, "seconds") == float("inf")


def test_the_reward_at_a_budget_is_the_nearest_evaluation_and_none_beyond_the_run(
    script: Any,
) -> None:
    report = script("control_report")
    result = make_result(report)
    assert report.reward_at(result, 200.0) == 50.0
    assert report.reward_at(result, 260.0) == 20.0
    assert report.reward_at(result, 340.0) == 20.0
    assert report.reward_at(result, 360.0) is None
    assert report.reward_at(result, 40.0) is None


def test_the_median_time_to_a_threshold_counts_those_that_never_reached_it(script: Any) -> None:
    report = script("control_report")
    about = {"budget": 300, "thresholds": [50.0, 40.0]}
    three = [
        make_result(report, seed=0),
        make_result(report, seed=1, reward=[1.0, 2.0, 45.0]),
        make_result(report, seed=2, reward=[1.0, 2.0, 3.0]),
    ]
    text = report.task_tables(three, about)
    assert "| nres | 50 | 1/3 | – | – | – |" in text
    assert "| nres | 40 | 2/3 | 300 | 30 | 3.0 |" in text


def test_the_ratio_of_medians_has_the_interval_of_both_methods_seeds(script: Any) -> None:
    median_ratio = script("control_report").median_ratio
    rng = np.random.default_rng(4)
    of, to = rng.normal(80.0, 8.0, 400), rng.normal(10.0, 0.5, 400)
    middle, low, high = median_ratio(of, to)
    assert middle == np.median(of) / np.median(to)
    # of a normal median: √(π/2)·σ/√n, relative here 0.0063 and 0.0031, together 0.0070
    half = 1.96 * 0.0070 * 8.0
    assert low == pytest.approx(middle - half, abs=0.3 * half)
    assert high == pytest.approx(middle + half, abs=0.3 * half)
    assert median_ratio([30.0] * 5, [10.0] * 5) == (3.0, 3.0, 3.0)
    inf = float("inf")
    assert median_ratio([30.0, 30.0, 30.0, inf, inf], [10.0] * 5) == (3.0, 3.0, inf)
    assert median_ratio([30.0] * 5, [10.0, 10.0, 10.0, inf, inf]) == (3.0, 0.0, 3.0)
    # some draws have no median on either side: their ratios may be anything
    assert median_ratio([30.0, inf, 30.0], [10.0, inf, 10.0]) == (3.0, 0.0, inf)
    assert np.isnan(median_ratio([inf], [inf])[0])


def test_the_ratios_that_a_task_asks_for_are_told_of_methods_that_were_run(script: Any) -> None:
    report = script("control_report")
    about = {
        "budget": 300,
        "thresholds": [50.0],
        "ratios": [
            {"of": "fulles", "to": "nres", "at": [50.0, 20.0]},
            {"of": "pes", "to": "nres", "at": [50.0]},
        ],
    }
    runs = [
        make_result(report, seed=seed, method=method, reward=reward)
        for seed in (0, 1)
        for method, reward in (("nres", [50.0, 0.0, 0.0]), ("fulles", [20.0, 40.0, 50.0]))
    ]
    lines = report.task_tables(runs, about).split("\n")
    assert "| fulles / nres | 50 | 3 [3 to 3] | 3 [3 to 3] |" in lines
    assert "| fulles / nres | 20 | 1 [1 to 1] | 1 [1 to 1] |" in lines
    assert not [line for line in lines if line.startswith("| pes")]
    assert "Ratio" not in report.task_tables(runs[::2], about)


def test_each_run_has_a_line_of_its_own_where_the_task_asks_for_it(script: Any) -> None:
    report = script("control_report")
    about = {"budget": 300, "thresholds": [9.0, 45.0], "each_run": [[100, 300], [200]]}
    two = [
        make_result(report, seed=1, total=[100, 200], reward=[1.0, 2000.0]),
        make_result(report, seed=0, reward=[1.0, 2.0, 3.0]),
        make_result(report, seed=2, total=[20, 40], reward=[1.0, 2.0]),
    ]
    text = report.task_tables(two, about)
    assert "| nres | 2 |" not in text
    lines = [
        "| method | seed | 0.0001 | 0.0003 |", "| nres | 0 | 1 | 3 |", "| nres | 1 | 1 | – |",
        "| method | seed | 0.0002 | first at 45 |", "| nres | 0 | 2 | – |",
        "| nres | 1 | 2,000 | 0.00 |",
    ]  # fmt: skip
    assert [line for line in text.split("\n") if line in lines] == lines
    del about["each_run"]
    assert "each run" not in report.task_tables(two, about)


def test_published_figures_are_marked_as_such(script: Any) -> None:
    report = script("control_report")
    about = {"budget": 300, "thresholds": [50.0], "published": {"zoo": {"ppo": "282 ± 10 in 1M"}}}
    text = report.task_tables([make_result(report)], about)
    assert "Published, not run here: RL Zoo (one run each, -v3): ppo 282 ± 10 in 1M." in text


def test_a_run_that_is_there_is_not_run_again(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = script("benchmark_control")
    trained: list[tuple[str, int]] = []
    runs = script("control_runs")

    def train(
        env_id: str, options: Any, seed: int, budget: int, n_judgements: int, kept: Path
    ) -> Any:
        trained.append((options["algo"], seed))
        if len(trained) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        run = runs.Run(budget, n_judgements)
        run.add(budget, 10, 7.0)
        return run

    monkeypatch.setattr(benchmark, "run_ours", train)
    arguments = ["benchmark_control.py", "--out", str(tmp_path / "runs"), "--tasks", "Swimmer-v4",
                 "--methods", "nres,fulles", "--seeds", "2"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    assert trained == [("nres", 0), ("fulles", 0), ("nres", 1)]
    (tmp_path / "again").touch()
    benchmark.main()
    assert trained[3:] == [("nres", 1), ("fulles", 1)]
    assert "| nres | 2 |" in capsys.readouterr().out
    stored = json.loads((tmp_path / "runs/Swimmer-v4/nres-seed1.json").read_text())
    assert stored["reward"] == [7.0]
    assert stored["options"] == {"algo": "nres"}


def test_an_interrupted_run_goes_on_to_the_same_figures(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = script("control_runs")
    options = {"algo": "nres", "threads": 1, "n_pairs": 2, "unroll_length": 10}
    whole = runs.run_ours("InvertedPendulum-v4", options, 0, 800, 4, tmp_path / "whole.npz")
    assert not (tmp_path / "whole.npz").exists()
    add = runs.Run.add

    def interrupt(self: Any, *seen: Any) -> None:
        if len(self.judgements) == 2:
            raise KeyboardInterrupt
        add(self, *seen)

    kept = tmp_path / "kept.npz"
    monkeypatch.setattr(runs.Run, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.run_ours("InvertedPendulum-v4", options, 0, 800, 4, kept)
    monkeypatch.setattr(runs.Run, "add", add)
    with pytest.raises(runs.OtherRunError, match="other settings"):
        runs.run_ours("InvertedPendulum-v4", {**options, "sigma": 0.2}, 0, 800, 4, kept)
    with pytest.raises(runs.OtherRunError, match="other distances"):
        runs.run_ours("InvertedPendulum-v4", options, 0, 800, 8, kept)
    steps: list[int] = []
    start = runs.Trainer.start
    monkeypatch.setattr(
        runs.Trainer, "start", lambda self: (steps.append(self.total_steps), start(self))
    )
    ahead = runs.run_ours("InvertedPendulum-v4", options, 0, 800, 4, kept)
    assert steps[0] == whole.judgements[1].total_steps, "it began anew"
    assert not kept.exists()

    def figures(run: Any) -> list[tuple[int, int, float]]:
        return [(j.total_steps, j.sequential_steps, j.reward) for j in run.judgements]

    assert len(figures(whole)) == 4
    assert figures(ahead) == figures(whole)
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(ahead.judgements))


def test_a_peer_runs_with_its_own_budget_and_ours_with_the_tasks(
    script: Any, tmp_path: Path
) -> None:
    benchmark = script("benchmark_control")
    tasks: dict[str, dict[str, Any]] = {"T": {"budget": 1000, "peer_budgets": {"sac": 50}}}
    plans = benchmark.make_plans(tmp_path, tasks, ["nres", "sb3-sac"], [0, 1], None)
    assert [(p.method, p.seed, p.budget) for p in plans] == [
        ("nres", 0, 1000), ("sb3-sac", 0, 50), ("nres", 1, 1000), ("sb3-sac", 1, 50),
    ]  # fmt: skip
    assert [p.budget for p in benchmark.make_plans(tmp_path, tasks, ["nres"], [0], 10)] == [10]
    tasks["T"]["budgets"] = {"nres-best": 5000}
    plans = benchmark.make_plans(tmp_path, tasks, ["nres", "nres-best"], [0], None)
    assert [p.budget for p in plans] == [1000, 5000]


@pytest.mark.parametrize("name", ["sb3-td3", "nres-cnn", "es"])
def test_an_unknown_method_is_refused_by_name(script: Any, name: str) -> None:
    with pytest.raises(SystemExit, match=f"--methods {name}: no such method"):
        script("benchmark_control").methods_of([name])


def test_every_task_is_an_environment_with_a_preset_and_settings_for_every_peer(
    script: Any,
) -> None:
    entries = preset_entries("nres")
    for task, about in script("benchmark_control").load_tasks().items():
        assert task in gym.registry
        assert task in entries
        assert about["thresholds"] == sorted(about["thresholds"])
        assert set(about["peer_budgets"]) == {"ars", "ppo", "sac"} <= set(about)
        assert all(steps <= about["budget"] for steps in about["peer_budgets"].values())


def test_published_tables_stand_where_the_page_says_and_nothing_else_changes(script: Any) -> None:
    page = "before\n<!-- control: T -->\n\nold\n\n<!-- end -->\nafter\n"
    with_tables = script("benchmark_control").with_tables
    done = with_tables(page, {"T": "| new |"})
    assert done == "before\n<!-- control: T -->\n\n| new |\n\n<!-- end -->\nafter\n"
    with pytest.raises(SystemExit, match="no lines <!-- control: elsewhere -->"):
        with_tables(page, {"T": "| new |", "elsewhere": "x"})


@pytest.mark.parametrize("other", [["--quick"], ["--pictures", "pictures"]])
def test_what_cannot_be_published_is_refused(
    script: Any, monkeypatch: pytest.MonkeyPatch, other: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_control.py", "--publish", *other])
    with pytest.raises(SystemExit):
        script("benchmark_control").main()


def test_runs_that_end_apart_are_drawn_to_their_ends(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, drawn = script("control_report"), []
    monkeypatch.setattr(report, "draw", lambda panels, **_: drawn.append(panels))
    monkeypatch.setattr(report, "save_figure", lambda figure, path: None)
    x = np.array([10.0, 20.0, 30.0, 40.0])
    columns = ("total", "sequential", "seconds", "reward")
    for n in (4, 3, 2):  # the second run's evaluations
        runs = [
            make_result(report, seed=seed, **dict.fromkeys(columns, x[:k]))
            for seed, k in enumerate((4, n))
        ]
        report.pictures(runs, {runs[0].task: {"thresholds": []}}, str(tmp_path))
    assert [[bool(panel.runs) for panel in panels] for panels in drawn] == [
        [False] * 3, [False] * 3, [True] * 3,
    ]  # fmt: skip


def _without_intervals(text: str) -> str:
    """Leave out the ends of bootstrap intervals, which depend on SciPy's version."""
    return re.sub(r"\[[^\]|]* to [^\]|]*\]", "[]", text)


def test_the_page_shows_the_committed_runs_and_they_had_the_presets_of_today(script: Any) -> None:
    benchmark = script("benchmark_control")
    tasks = benchmark.load_tasks()
    results = benchmark.load_results(RESULTS, list(tasks))
    page = _without_intervals(PAGE.read_text(encoding="utf-8"))
    assert set(re.findall("<!-- control: (.*) -->", page)) == {r.task for r in results}
    for task, about in tasks.items():
        rows = [r for r in results if r.task == task]
        if rows:
            text = _without_intervals(script("control_report").task_tables(rows, about))
            assert f"<!-- control: {task} -->\n\n{text}\n\n<!-- end -->" in page
    for path in RESULTS.glob("*/*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["method"] not in benchmark.PEERS:
            now = json.loads(json.dumps(benchmark.settings_of(run["method"], run["task"])))
            assert run["settings"] == now, path
