"""Learning curves: read, grouped by what they are, and averaged without inventing values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run

from es_rl.curves import average, find_runs, group, read_curve
from es_rl.options import ConfigError


def test_a_curve_is_the_evaluations_of_its_progress_file(tmp_path: Path) -> None:
    curve = read_curve(make_run(tmp_path / "a", [1.5, 3.0], [1000, 2500], seed=4))
    assert (curve.env, curve.algo, curve.seed) == ("Swimmer-v4", "nres", 4)
    assert curve.reward.tolist() == [1.5, 3.0]
    assert curve.x["total"].tolist() == [1000, 2500]
    assert curve.x["sequential"].tolist() == [100, 250]
    assert curve.x["time"].tolist() == [1.0, 2.5]


def test_folders_of_runs_are_searched(tmp_path: Path) -> None:
    for name in ("b/two", "b/one", "a"):
        make_run(tmp_path / name, [0.0], [10])
    (tmp_path / "empty").mkdir()
    names = [str(Path(p).relative_to(tmp_path)) for p in find_runs(str(tmp_path))]
    assert names == ["a", "b/one", "b/two"]
    with pytest.raises(ConfigError, match=r"RUNS .*empty: holds no run"):
        find_runs(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="no such folder"):
        find_runs(str(tmp_path / "nothing"))


def test_only_runs_that_differ_in_nothing_but_the_seed_are_averaged(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "a": {"seed": 0, "sigma": 0.1},
        "b": {"seed": 1, "sigma": 0.1},
        "c": {"seed": 0, "sigma": 0.2},
        "d": {"seed": 0, "algo": "pes"},
        "e": {"seed": 0, "sigma": 0.1, "env": "Swimmer-v5"},
        # what does not change a run does not set it apart
        "f": {"seed": 2, "sigma": 0.1, "threads": 1, "updates": 9, "eval_every": 7},
    }
    curves = [read_curve(make_run(tmp_path / n, [1.0], [10], **o)) for n, o in runs.items()]
    groups, notes = group(curves)
    found = {(g.env, g.label): [Path(c.run_dir).name for c in g.curves] for g in groups}
    assert found == {
        ("Swimmer-v4", "nres, sigma 0.1"): ["a", "b", "f"],
        ("Swimmer-v4", "nres, sigma 0.2"): ["c"],
        ("Swimmer-v4", "pes"): ["d"],
        ("Swimmer-v5", "nres"): ["e"],
    }
    assert notes == []


def test_a_name_given_by_the_user_makes_a_group(tmp_path: Path) -> None:
    first = read_curve(make_run(tmp_path / "a", [1.0], [10], seed=0, sigma=0.1))
    second = read_curve(make_run(tmp_path / "b", [1.0], [10], seed=1, sigma=0.2))
    groups, _ = group([first, second], ["ours", "ours"])
    assert [(g.label, len(g.curves)) for g in groups] == [("ours", 2)]
    groups, _ = group([first, second], ["ours", None])
    assert [g.label for g in groups] == ["ours", "nres"]


def test_a_repeated_seed_does_not_narrow_the_interval(tmp_path: Path) -> None:
    short = read_curve(make_run(tmp_path / "short", [1.0], [10], seed=3))
    long = read_curve(make_run(tmp_path / "long", [1.0, 2.0], [10, 20], seed=3))
    for order in ([short, long], [long, short]):
        (found,), (note,) = group(order)
        assert found.curves == [long]
        assert note == f"{short.run_dir} repeats seed 3 of {long.run_dir}: left out"


def test_evaluations_at_other_moments_count_until_the_next(tmp_path: Path) -> None:
    one = read_curve(make_run(tmp_path / "a", [1.0, 3.0, 5.0], [100, 200, 300], seed=0))
    two = read_curve(make_run(tmp_path / "b", [10.0, 20.0], [150, 250], seed=1))
    band = average([one, two])
    assert band is not None
    # the second run's last evaluation counts for as long as the interval before it, to 350
    assert band.x.tolist() == [150, 200, 250, 300]
    assert band.mean.tolist() == [(1 + 10) / 2, (3 + 10) / 2, (3 + 20) / 2, (5 + 20) / 2]
    assert band.n_runs == 2
    assert (band.low <= band.mean).all()
    assert (band.mean <= band.high).all()


def test_a_run_that_stopped_early_ends_the_mean(tmp_path: Path) -> None:
    one = read_curve(make_run(tmp_path / "a", [1.0, 2.0, 3.0], [100, 200, 900], seed=0))
    two = read_curve(make_run(tmp_path / "b", [5.0, 6.0], [100, 200], seed=1))
    band = average([one, two])
    assert band is not None
    assert band.x[-1] == 300
    late = read_curve(make_run(tmp_path / "c", [5.0], [5000], seed=2))
    assert average([one, late]) is None


def test_the_interval_is_the_bootstrap_of_the_mean_over_runs(tmp_path: Path) -> None:
    rewards = [1.0, 2.0, 4.0, 8.0, 16.0]
    curves = [
        read_curve(make_run(tmp_path / str(i), [r, -r], [10, 20], seed=i))
        for i, r in enumerate(rewards)
    ]
    band = average(curves, "sequential")
    assert band is not None
    # all 5**5 resamples: the exact distribution that 2000 draws of it approximate
    grid = np.array(np.meshgrid(*[rewards] * 5)).reshape(5, -1).mean(axis=0)
    low, high = np.quantile(grid, [0.025, 0.975])
    # the density there is at least 0.01 a unit, so quantiles of 2000 draws err by 0.35 (one sd)
    np.testing.assert_allclose([band.low[0], band.high[0]], [low, high], atol=1.0)
    np.testing.assert_allclose([-band.high[1], -band.low[1]], [low, high], atol=1.0)
    narrower = average(curves, "sequential", 0.5)
    assert narrower is not None
    assert (narrower.high - narrower.low < 0.6 * (band.high - band.low)).all()


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    band = average([read_curve(make_run(tmp_path / "a", [1.0, 2.0], [10, 20]))])
    assert band is not None
    assert band.low.tolist() == band.mean.tolist() == band.high.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("rewards", "totals", "reason"),
    [([], [], "was not evaluated yet"), ([float("nan")], [10], "not finite"),
     ([1.0, 2.0], [20, 10], "not in order")],
)  # fmt: skip
def test_what_is_no_curve_is_refused(
    tmp_path: Path, rewards: list[float], totals: list[int], reason: str
) -> None:
    path = make_run(tmp_path / "a", rewards, totals)
    with pytest.raises(ConfigError, match=rf"RUNS .*a: .*{reason}"):
        read_curve(path)
