"""The command behind the published figures: every figure is found, resumed and judged."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import reproduce  # noqa: E402
from reproductions import cells, publication, registry, statistics, training  # noqa: E402
from reproductions.registry import Figure, Seeds  # noqa: E402
from reproductions.report import Report  # noqa: E402

CALLS: list[int] = []


def square(value: int) -> dict[str, object]:
    CALLS.append(value)
    return {"square": value**2, "both": np.array([value, -value])}


def cube(value: int) -> dict[str, object]:
    return {"square": value**3}


def make_toy(report: Report) -> None:
    found = report.compute(square, [{"value": seed} for seed in report.seeds])
    mean = statistics.mean_estimate([cell.number("square") for cell in found])
    rows = [{"seed": s, "square": c["square"]} for s, c in enumerate(found)]
    report.write_csv("toy", rows, shown=True)
    report.verdict("squares are large", mean, agrees=mean.value > 100)


@pytest.fixture(autouse=True)
def _forget_calls():
    CALLS.clear()


def test_a_stored_cell_is_not_computed_again_and_is_the_same(tmp_path):
    cases = [{"value": 3}, {"value": 4}]
    first = cells.compute(square, cases[:1], str(tmp_path))
    both = cells.compute(square, cases, str(tmp_path))
    assert CALLS == [3, 4]
    assert both[0].seconds == first[0].seconds
    assert [cell.number("square") for cell in both] == [9.0, 16.0]
    np.testing.assert_array_equal(both[1]["both"], [4, -4])


def test_another_function_or_setting_is_another_cell(tmp_path):
    cells.compute(square, [{"value": 3}], str(tmp_path))
    (found,) = cells.compute(cube, [{"value": 3}], str(tmp_path))
    assert found.number("square") == 27


def test_several_processes_give_the_cells_in_the_order_of_the_cases(tmp_path):
    from reproductions import lorenz_surface

    settings = [{"n_draws": 4, "seed": seed} for seed in range(3)]
    alone = cells.compute(lorenz_surface.points, settings, str(tmp_path / "a"))
    spread = cells.compute(lorenz_surface.points, settings, str(tmp_path / "b"), n_jobs=2)
    assert [c.settings["seed"] for c in spread] == [0, 1, 2]
    assert [c.number("true") for c in alone] == [c.number("true") for c in spread]


def test_a_quick_run_is_not_judged_and_others_are(tmp_path):
    for size, outcome in (("quick", "not judged (quick)"), ("default", "**disagrees**")):
        report = Report("toy", size, 2, str(tmp_path / size))
        make_toy(report)
        (verdict,) = report.finish()
        assert verdict.outcome == outcome
        stored = json.loads((tmp_path / size / "verdicts.json").read_text())["figures"]
        assert stored[0]["ours"] == "0.5"
        assert stored[0]["outcome"] == outcome.strip("*")
        assert (tmp_path / size / "toy.csv").read_text() == "seed,square\n0,0\n1,1\n"


def test_a_figure_without_a_verdict_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="toy gave no verdict"):
        Report("toy", "quick", 1, str(tmp_path)).finish()


def test_intervals_are_students_and_a_diverged_seed_is_not_left_out():
    # 1, 2, 3: standard error 1/sqrt(3), t(0.975; 2) = 4.302653
    estimate = statistics.mean_estimate([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3.0), rel=1e-6)
    assert statistics.mean_estimate([5.0]).interval() == ""
    assert statistics.mean_estimate([1.0, math.inf]).value == math.inf
    assert statistics.median_estimate([math.inf, 1.0, math.inf]).value == math.inf


def test_every_figure_has_a_name_a_title_and_seeds():
    figures = registry.find_figures()
    assert "lorenz-surface" in figures
    for name, figure in figures.items():
        assert name == name.lower()
        assert "paper" in figure.title or "poster" in figure.title, name
        assert figure.seeds.quick <= figure.seeds.default <= figure.seeds.full
        assert figure.seeds.default >= 5, name


def test_every_figure_has_a_page_that_it_can_be_published_on():
    for name in registry.find_figures():
        page = publication.page_of(reproduce.DOCS, name)
        assert f"reproduce.py {name}\n" in Path(page).read_text(encoding="utf-8"), name


def test_a_mistyped_figure_is_refused_with_what_was_meant():
    figures = registry.find_figures()
    with pytest.raises(ValueError, match="did you mean lorenz-surface"):
        registry.choose(["lorenz-surfaces"], figures)
    assert [f.name for f in registry.choose(["all"], figures)] == list(figures)


def test_publishing_renews_the_table_between_the_markers_only(tmp_path):
    pages = tmp_path / "reproductions"
    pages.mkdir()
    page = pages / "toy.md"
    page.write_text(
        "before\n<!-- verdicts: toy -->\nold\n<!-- end -->\nafter\n"
        "<!-- table: toy/toy -->\nold\n<!-- end -->\nend\n"
    )
    report = Report("toy", "default", 2, str(tmp_path / "out"))
    make_toy(report)
    report.pictures.append(str(tmp_path / "toy.png"))
    (tmp_path / "toy.png").write_bytes(b"png")
    publication.publish(str(tmp_path), report)
    text = page.read_text()
    assert text.startswith("before\n<!-- verdicts: toy -->\n\n| claim |")
    assert "|\n\n<!-- end -->\nafter\n<!-- table: toy/toy -->\n\n| seed | square |" in text
    assert text.endswith("| 1 | 1 |\n\n<!-- end -->\nend\n")
    assert "old" not in text
    assert "squares are large" in text
    assert (tmp_path / "images" / "reproductions" / "toy.png").read_bytes() == b"png"
    publication.publish(str(tmp_path), report)
    assert page.read_text() == text
    with pytest.raises(ValueError, match="verdicts: other"):
        publication.publish(str(tmp_path), Report("other", "default", 2, str(tmp_path / "out")))


def test_the_command_makes_a_figure_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    toy = Figure("toy", "a toy", make_toy, Seeds(2, 5, 5))
    monkeypatch.setattr(reproduce, "find_figures", lambda: {"toy": toy})

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, "--out", str(tmp_path)])
        return reproduce.main()

    assert run("toy", "--quick") == 0
    assert "squares are large" in capsys.readouterr().out
    assert run("toy", "--quick", "--seeds", "3") == 0
    assert CALLS == [0, 1, 2]
    assert run("toy", "--quick", "--fresh") == 0
    assert CALLS == [0, 1, 2, 0, 1]
    with pytest.raises(SystemExit):
        run("tox")
    assert "did you mean toy" in capsys.readouterr().err


def test_a_run_is_measured_from_its_start_on_and_is_infinite_where_it_diverged():
    from es_rl import SGD, Trainer
    from es_rl.baselines import RTRL
    from es_rl.envs import InfluenceBalancingTask

    def run(rate):
        task = InfluenceBalancingTask(n_threads=1)
        estimator = RTRL(task, n_workers=1, unroll_length=1)
        trainer = Trainer(estimator, SGD(1, rate), task.initial_theta())
        return training.follow(trainer, 40, 10, lambda theta: {"distance": abs(theta[0] + 1 / 6)})

    good, bad = run(1e-4), run(1e200)
    assert good["update"].tolist() == bad["update"].tolist() == [0, 10, 20, 30, 40]
    assert good["total_steps"].tolist() == [0, 10, 20, 30, 40]
    assert good["distance"][0] == bad["distance"][0] == pytest.approx(2 / 3)
    assert np.isfinite(good["distance"]).all()
    assert not good["diverged"]
    assert np.isinf(bad["distance"][1:]).all()
    assert bad["diverged"]


@pytest.mark.parametrize(
    ("base", "expected"),
    [(1e-5, [1e-6, 3e-6, 1e-5, 3e-5, 1e-4]), (3e-4, [3e-5, 1e-4, 3e-4, 1e-3, 3e-3])],
)
def test_grids_are_written_in_half_decades(base, expected):
    assert [training.half_decades(base, k) for k in range(-2, 3)] == expected


def bowl(rate: float, best: float, seed: int) -> dict[str, object]:
    CALLS.append(seed)
    return {"score": abs(math.log10(rate / best)) if rate < 100 else math.inf}


def test_tuning_widens_the_grid_until_the_best_rate_is_inside_it(tmp_path):
    report = Report("toy", "default", 2, str(tmp_path))
    methods = {name: {"rate": 1.0, "best": best} for name, best in (("a", 30.0), ("b", 1.0))}
    chosen, rows = training.tune(report, bowl, methods, option="rate", n_seeds=2)
    assert chosen == {"a": 30.0, "b": 1.0}
    tried = {name: [r["rate"] for r in rows if r["method"] == name] for name in methods}
    assert tried == {"a": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0], "b": [0.1, 0.3, 1.0, 3.0, 10.0]}
    assert [r["rate"] for r in rows if r["chosen"]] == [30.0, 1.0]
    # chosen on seeds that are not reported
    assert not set(CALLS) & set(report.seeds)
