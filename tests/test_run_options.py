"""Runs with observation normalisation and shaping: saved, evaluated, resumed, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from es_rl import load_policy
from es_rl.config import TrainConfig
from es_rl.config_layers import continued, load_config, preset_entries, resolve
from es_rl.evaluation import evaluate
from es_rl.noise_designs import NOISES
from es_rl.options import ALGORITHMS, ConfigError
from es_rl.run import resume, train
from es_rl.shaping import SHAPINGS

OPTIONS: dict[str, Any] = {
    "env": "Hopper-v4",
    "algo": "nres",
    "n_pairs": 5,
    "unroll_length": 15,
    "env_kwargs": {"max_episode_steps": 40},
    "sigma": 0.1,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "shaping": "std",
    "top_pairs": 4,
    "reward_offset": 1.0,
    "noise": "orthogonal",
    "normalize_observations": True,
    "observation_clip": 5.0,
    "squash_actions": True,
    "clip_actions": False,
    "eval_every": 2,
    "eval_episodes": 2,
    "updates": 6,
    "seed": 5,
    "threads": 1,
}


def config(**given: Any) -> TrainConfig:
    return resolve({**OPTIONS, **given}).config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(config(), str(path))
    return path


def test_policy_files_hold_the_statistics_and_evaluate_to_what_the_run_reported(
    whole: Path,
) -> None:
    for name in ("policy.npz", "best_policy.npz"):
        policy = load_policy(whole / name)
        assert policy.options() == {
            "bias": False,
            "clip_actions": False,
            "squash_actions": True,
            "normalize_observations": True,
            "observation_clip": 5.0,
        }
        assert policy.normalizer is not None
        assert (policy.normalizer.mean != 0).any()
    # the run's evaluations start from this seed, the final one has 20 episodes
    found = evaluate(
        policy, "Hopper-v4", n_episodes=2, seed=1_000_000_000, env_kwargs=OPTIONS["env_kwargs"]
    )
    assert policy.metadata["eval_reward_mean"] in (found.mean, _final_mean(whole))


def _final_mean(run_dir: Path) -> float:
    policy = load_policy(run_dir / "policy.npz")
    found = evaluate(
        policy, "Hopper-v4", n_episodes=20, seed=1_000_000_000, env_kwargs=OPTIONS["env_kwargs"]
    )
    return found.mean


def test_best_and_latest_policies_have_statistics_of_their_own(whole: Path, tmp_path: Path) -> None:
    # a run whose evaluations fall: the best policy stays the first one evaluated
    train(config(learning_rate=1.0, updates=8, seed=6), str(tmp_path / "run"))
    best, latest = (load_policy(tmp_path / "run" / f"{n}.npz") for n in ("best_policy", "policy"))
    assert best.normalizer is not None
    assert latest.normalizer is not None
    same = best.metadata["update"] == latest.metadata["update"]
    assert (best.normalizer.mean == latest.normalizer.mean).all() == same


@pytest.mark.parametrize("updates", [1, 3, 5])
def test_a_resumed_run_ends_as_if_it_had_not_stopped(
    whole: Path, tmp_path: Path, updates: int
) -> None:
    path = str(tmp_path / "run")
    train(config(updates=updates), path)
    stored, _ = load_config(tmp_path / "run" / "config.yaml")
    resume(continued(stored, {"updates": 6}, path), path)
    for name in ("policy.npz", "best_policy.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_engines_and_threads_agree_on_a_whole_run(whole: Path, tmp_path: Path) -> None:
    for number, given in enumerate(({"engine": "gymnasium"}, {"threads": 2})):
        train(config(**given), str(tmp_path / f"{number}"))
        mine, theirs = (
            load_policy(tmp_path / f"{number}" / "policy.npz"),
            load_policy(whole / "policy.npz"),
        )
        np.testing.assert_array_equal(mine.theta, theirs.theta)
        assert mine.normalizer is not None
        assert theirs.normalizer is not None
        np.testing.assert_array_equal(mine.normalizer.scale, theirs.normalizer.scale)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapt_sigma": 0.1}, "--adapt-sigma 0.1: compares pairs whose noises are independent"),
        (
            {"adapt_sigma": 0.1, "noise": "gaussian", "n_pairs": 3, "top_pairs": None},
            "--adapt-sigma 0.1: needs four pairs",
        ),
        (
            {"adapt_sigma": 0.1, "noise": "gaussian", "engine": "ray"},
            "--adapt-sigma 0.1: needs all pairs in one process",
        ),
        ({"top_pairs": 6}, r"--top-pairs 6: there are only 5"),
        ({"shaping": "returns"}, "--shaping returns: does not apply to --algo nres"),
        ({"shaping": "rank"}, "--shaping rank: choose one of none, std, ranks"),
        ({"clip_actions": True}, "--squash-actions: squashed actions are within their bounds"),
        (
            {"normalize_observations": False},
            "--observation-clip 5: only normalised observations are clipped",
        ),
        ({"observation_clip": -1}, "--observation-clip -1: must be zero or a positive number"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config(**given)


def test_squashing_where_there_are_no_bounds_is_refused(tmp_path: Path) -> None:
    given = {"env": "CartPole-v1", "normalize_observations": False, "observation_clip": None}
    with pytest.raises(ConfigError, match=r"^--squash-actions: discrete actions"):
        train(config(**given, env_kwargs={}), str(tmp_path / "run"))


def test_options_are_off_by_default_and_in_the_papers_presets() -> None:
    plain = resolve({"env": "Acrobot-v1", "algo": "nres"}).config
    off = {
        "shaping": "none",
        "top_pairs": None,
        "reward_offset": 0.0,
        "noise": "gaussian",
        "adapt_sigma": 0.0,
        "refresh_drift": 0.0,
        "unroll_range": None,
        "normalize_observations": False,
        "squash_actions": False,
        "observation_clip": None,
    }
    assert {name: getattr(plain, name) for name in off} == off
    for algo in ALGORITHMS:
        for entry, values in preset_entries(algo).items():
            if entry.startswith("paper-"):
                assert not set(values) & set(off)


def test_the_command_line_offers_what_the_library_has() -> None:
    from es_rl.options import OPTIONS as known

    assert set(known["shaping"].kind.choices) == set(SHAPINGS)  # type: ignore[attr-defined]
    assert set(known["noise"].kind.choices) == set(NOISES)  # type: ignore[attr-defined]
