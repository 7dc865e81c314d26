"""Adaptive unroll length in whole runs and agents: threads, engines, interruptions, displays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents_toys import SWIMMER
from stable_baselines3.common.callbacks import BaseCallback
from test_run import tensorboard_points

from es_rl import load_policy, unroll_adaptation
from es_rl.agents import NRES
from es_rl.cli.display import LiveDisplay, PlainDisplay
from es_rl.config import TrainConfig
from es_rl.config_layers import continued, load_config, resolve
from es_rl.options import ConfigError
from es_rl.progress import COLUMNS, ProgressFile
from es_rl.run import resume, train

OPTIONS: dict[str, Any] = {
    "env": "Swimmer-v4", "algo": "nres", "n_pairs": 9, "unroll_length": 8, "unroll_range": "2:16",
    "env_kwargs": {"max_episode_steps": 40}, "sigma": 0.1, "optimizer": "sgd",
    "learning_rate": 0.5, "eval_every": 6, "eval_episodes": 1, "updates": 24, "seed": 5,
    "threads": 1,
}  # fmt: skip


def config(**given: Any) -> TrainConfig:
    values = {**OPTIONS, **given}
    if isinstance(values["unroll_range"], str):
        shortest, longest = values["unroll_range"].split(":")
        values["unroll_range"] = [int(shortest), int(longest)]
    return resolve(values).config


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let W change often, whatever is significant."""
    monkeypatch.setattr(unroll_adaptation, "_WAIT", 3)
    monkeypatch.setattr(unroll_adaptation, "_SURE", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unroll_adaptation, "_WAIT", 3)
        patch.setattr(unroll_adaptation, "_SURE", 0.0)
        train(config(adapt_sigma=0.1), str(path))
    return path


def _lengths(run_dir: Path) -> list[int]:
    """W of every update but the first, whose steps include the start-up."""
    steps = [row.sequential_steps for row in ProgressFile.read(str(run_dir / "progress.csv"))]
    return np.diff(steps).tolist()


def test_w_changes_and_the_table_has_the_columns_it_always_had(whole: Path) -> None:
    assert len(set(_lengths(whole))) > 1
    header = (whole / "progress.csv").read_text().partition("\n")[0]
    assert header == ",".join(COLUMNS)
    assert len(COLUMNS) == 10


@pytest.mark.parametrize("given", [{"threads": 2}, {"engine": "gymnasium"}])
def test_engines_and_threads_agree(whole: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    train(config(adapt_sigma=0.1, **given), str(tmp_path / "run"))
    assert _lengths(tmp_path / "run") == _lengths(whole)
    for name in ("policy.npz", "best_policy.npz"):
        mine, theirs = load_policy(tmp_path / "run" / name), load_policy(whole / name)
        np.testing.assert_array_equal(mine.theta, theirs.theta)


@pytest.mark.parametrize("updates", [5, 13])
def test_a_resumed_run_ends_as_if_it_had_not_stopped(
    whole: Path, tmp_path: Path, updates: int
) -> None:
    path = str(tmp_path / "run")
    train(config(adapt_sigma=0.1, updates=updates), path)
    stored, _ = load_config(tmp_path / "run" / "config.yaml")
    assert stored.unroll_range == (2, 16)
    resume(continued(stored, {"updates": 24}, path), path)
    for name in ("policy.npz", "best_policy.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    # one curve of W; that of σ begins with the last update of the session before
    points = tensorboard_points(tmp_path / "run")
    expected = tensorboard_points(whole)
    assert points["train/unroll_length"] == expected["train/unroll_length"]
    assert points["train/sigma"] == expected["train/sigma"][updates - 1 :]


def test_tensorboard_shows_every_w_and_sigma(whole: Path) -> None:
    points = tensorboard_points(whole)
    assert [value for _, value in points["train/unroll_length"]] == [8, *_lengths(whole)]
    assert len({value for _, value in points["train/sigma"]}) > 10


def test_without_the_option_tensorboard_has_no_curve_of_it(tmp_path: Path) -> None:
    train(resolve({**OPTIONS, "unroll_range": None, "updates": 2}).config, str(tmp_path / "run"))
    points = tensorboard_points(tmp_path / "run")
    assert not {"train/unroll_length", "train/sigma"} & set(points)


def test_the_displays_show_today_s_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(updates=6), str(tmp_path / "plain"), display=PlainDisplay())
    lines = [line for line in capsys.readouterr().out.splitlines() if "update" in line]
    assert lines[-1].endswith(f"W {_lengths(tmp_path / 'plain')[-1]}")
    with LiveDisplay() as live:
        train(config(updates=7, adapt_sigma=0.1), str(tmp_path / "live"), display=live)
        length = _lengths(tmp_path / "live")[-1]
        assert f"W {length}" in live._status.counts()
        assert "σ 0.1" in live._status.counts()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algo": "pes"}, "--unroll-range 2,16: does not apply to --algo pes, only to nres, gpes"),
        ({"engine": "ray"}, "--unroll-range 2:16: needs all pairs in one process; give another"),
        ({"n_pairs": 7}, "--unroll-range 2:16: needs 8 pairs at least; raise --n-pairs"),
        ({"unroll_range": "9:16"}, "--unroll-range 9:16: must contain the 8 steps of the first"),
        ({"unroll_range": "8:15"}, "--unroll-range 8:15: leaves a window of 8 steps no other"),
        (
            {"unroll_range": "8:32", "horizon": 40},
            "--unroll-range 8:32: windows of 32 steps could not be compared.* at most 20",
        ),
        ({"unroll_range": "16:2"}, "--unroll-range 16,2: must begin with the shorter one: 2:16"),
        ({"unroll_range": 8}, "--unroll-range 8: must be the shortest and the longest window"),
        (
            {"algo": "gpes", "noise_period": 40},
            "--unroll-range 2:16: the noise period of 40 steps is no multiple of windows of 16",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config(**given)


def test_the_environment_s_own_limit_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--unroll-range 2:32: windows of 32 .* at most 20"):
        train(config(unroll_range="2:32"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class _Steps(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.timesteps: list[int] = []

    def _on_step(self) -> bool:
        self.timesteps.append(self.num_timesteps)
        return True


def _agent() -> NRES:
    options = {**SWIMMER, "n_pairs": 9, "unroll_length": 16, "unroll_range": (1, 16)}
    return NRES("LinearPolicy", "Swimmer-v5", n_threads=1, **options)


def test_an_agent_announces_every_sequential_step_and_goes_on_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unroll_adaptation, "_SHORTEN_ABOVE", -1.0)
    agent, steps = _agent(), _Steps()
    agent.learn(1300, callback=steps)
    lengths = [agent._trainer.estimator.unroll_length_now]
    assert len(steps.timesteps) == agent.sequential_steps
    assert steps.timesteps[-1] == agent.num_timesteps
    assert (np.diff(steps.timesteps) >= 0).all()
    assert agent.unroll_range == (1, 16)  # type: ignore[attr-defined]
    agent.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent")
    for _ in range(6):
        for one in (agent, loaded):
            heard = steps if one is agent else None
            one.learn(200, callback=heard, reset_num_timesteps=False)
        np.testing.assert_array_equal(agent.policy.core.theta, loaded.policy.core.theta)
        mine, theirs = (one._trainer.estimator.adapted for one in (agent, loaded))
        assert mine == theirs
        lengths.append(mine["unroll_length"])
        assert agent.logger.name_to_value.get("train/unroll_length", lengths[-1]) == lengths[-1]
    assert len(set(lengths)) > 1
    assert len(steps.timesteps) == agent.sequential_steps
