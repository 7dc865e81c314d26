"""Runs: their folder, what they record, how they end and how they go on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from es_rl import load_policy
from es_rl.config import TrainConfig
from es_rl.config_layers import continued, load_config, resolve
from es_rl.envs.mujoco.quiet import quiet
from es_rl.evaluation import evaluate
from es_rl.options import ConfigError
from es_rl.progress import COLUMNS, ProgressFile, Row
from es_rl.run import resume, train
from es_rl.run_checkpoints import Best
from es_rl.run_folder import RunFolder, default_run_dir
from es_rl.tasks import NonFiniteLossError

SMALL: dict[str, Any] = {
    "env": "Swimmer-v4",
    "algo": "nres",
    "n_pairs": 3,
    "unroll_length": 15,
    "env_kwargs": {"max_episode_steps": 50},  # short evaluations
    "eval_every": 3,
    "eval_episodes": 2,
    "updates": 8,
    "seed": 5,
    "threads": 1,
}


def config(**given: Any) -> TrainConfig:
    return resolve({**SMALL, **given}).config


def table(run_dir: Path, *, wall_time: bool = False) -> list[dict[str, str]]:
    with open(run_dir / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not wall_time:
            del row["wall_time"]
    return rows


def contents(run_dir: Path) -> dict[str, Any]:
    """Everything that must not depend on how a run was interrupted."""
    return {
        "progress": table(run_dir),
        "policy": (run_dir / "policy.npz").read_bytes(),
        "best": (run_dir / "best_policy.npz").read_bytes(),
    }


class Stop:
    """Asks a run to stop after so many questions; a run asks once before each update."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    result = train(config(), str(path))
    assert (result.reason, result.updates) == ("updates", 8)
    return path


def test_the_folder_holds_what_it_should(whole: Path) -> None:
    names = {p.name for p in whole.iterdir() if not p.name.startswith("events.out.tfevents.")}
    assert names == {
        "config.yaml", "progress.csv", "policy.npz", "best_policy.npz", "checkpoints",
    }  # fmt: skip
    assert len(list(whole.glob("events.out.tfevents.*"))) == 1
    assert 1 <= len(list((whole / "checkpoints").iterdir())) <= 3


def test_the_config_is_resolved_and_tells_the_versions(whole: Path) -> None:
    stored, about = load_config(whole / "config.yaml")
    assert (stored.horizon, stored.engine, stored.sigma) == (50, "native", config().sigma)
    assert stored.threads is not None
    versions = about["sessions"][0]["versions"]
    assert set(versions) == {"python", "es_rl", "mujoco", "gymnasium", "numpy", "numba"}
    assert versions["numpy"] == np.__version__


def test_progress_has_one_line_for_each_update(whole: Path) -> None:
    lines = (whole / "progress.csv").read_text().splitlines()
    assert lines[0] == (
        "update,sequential_steps,total_steps,evaluation_steps,wall_time,mean_loss,gradient_norm,"
        "episodes,eval_reward_mean,eval_reward_std"
    )
    rows = table(whole, wall_time=True)
    assert [int(row["update"]) for row in rows] == list(range(1, 9))
    evaluated = [bool(row["eval_reward_mean"]) for row in rows]
    assert evaluated == [False, False, True, False, False, True, False, True]
    assert [bool(row["eval_reward_std"]) for row in rows] == evaluated
    for name in ("total_steps", "sequential_steps", "wall_time"):
        values = [float(row[name]) for row in rows]
        assert values == sorted(values)
    # evaluations: two of 2 episodes, and the last of 20, each of 50 steps
    assert [int(row["evaluation_steps"]) for row in rows] == [
        0, 0, 100, 100, 100, 200, 200, 1200,
    ]  # fmt: skip


def test_the_counts_are_the_steps_really_taken(whole: Path) -> None:
    last = table(whole)[-1]
    start_positions = int(last["total_steps"]) - 8 * 2 * 3 * 15
    assert 0 <= start_positions <= 2 * 3 * 50
    assert int(last["sequential_steps"]) - 8 * 15 <= 50


def test_policies_evaluate_outside_as_they_did_inside(whole: Path) -> None:
    best = load_policy(whole / "best_policy.npz")
    rows = {int(row["update"]): row for row in table(whole)}
    update = best.metadata["update"]
    assert best.metadata["env"] == "Swimmer-v4"
    told = float(rows[update]["eval_reward_mean"])
    assert told == max(float(r["eval_reward_mean"]) for r in rows.values() if r["eval_reward_mean"])
    n = 20 if update == 8 else 2
    with quiet():
        outside = evaluate(
            best, "Swimmer-v4", n_episodes=n, seed=1_000_000_000,
            env_kwargs=best.metadata["env_kwargs"],
        )  # fmt: skip
    assert outside.mean == told


@pytest.mark.parametrize("stops", [(0,), (1,), (3,), (2, 1, 4), (1,) * 7])
def test_interrupted_and_resumed_is_as_if_never_interrupted(
    whole: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    path = tmp_path / "run"
    result = train(config(), str(path), should_stop=Stop(stops[0]))
    assert (result.reason, result.updates, result.final) == ("interrupted", stops[0], None)
    for after in stops[1:]:
        assert resume(config(), str(path), should_stop=Stop(after)).reason == "interrupted"
    assert resume(config(), str(path)).updates == 8
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("algo", ["pes", "gpes", "tes", "fulles"])
def test_every_algorithm_resumes_bit_for_bit(tmp_path: Path, algo: str) -> None:
    given = {k: v for k, v in SMALL.items() if algo != "fulles" or k != "unroll_length"}
    small = resolve({**given, "algo": algo, "updates": 4, "optimizer": "adam"}).config
    train(small, str(tmp_path / "whole"))
    train(small, str(tmp_path / "parts"), should_stop=Stop(3))
    resume(small, str(tmp_path / "parts"))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_larger_budget_equals_having_had_it_from_the_start(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(config(updates=4), str(path))
    stored, _ = load_config(path / "config.yaml")
    result = resume(continued(stored, {"updates": 8}, str(path)), str(path))
    assert result.updates == 8
    assert contents(path) == contents(whole)
    assert load_config(path / "config.yaml")[0].updates == 8


def test_resuming_a_finished_run_changes_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    result = resume(config(), str(path))
    assert (result.reason, result.updates) == ("updates", 8)
    assert contents(path) == contents(whole)


@pytest.mark.parametrize(
    "changes", [{"threads": 2}, {"engine": "gymnasium", "threads": 2}, {"tensorboard": False}]
)
def test_results_do_not_depend_on_threads_or_engine(
    whole: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "run"
    train(config(**changes), str(path))
    assert contents(path) == contents(whole)


def test_what_a_crash_leaves_behind_is_put_right(whole: Path, tmp_path: Path) -> None:
    # a run killed after its checkpoint at update 3, with later lines, a torn one, and a policy
    # and events that were ahead of the checkpoint
    path = tmp_path / "run"
    train(config(), str(path), should_stop=Stop(3))
    lines = (whole / "progress.csv").read_text().splitlines(keepends=True)
    (path / "progress.csv").write_text("".join(lines[:6]) + "6,1234,5")
    shutil.copy(whole / "policy.npz", path)
    shutil.copy(whole / "best_policy.npz", path)
    (path / "events.out.tfevents.1.es_rl").write_bytes(b"torn")
    resume(config(), str(path))
    assert contents(path) == contents(whole)
    assert len(list(path.glob("events.out.tfevents.*"))) == 1


def test_a_run_without_checkpoint_starts_from_the_beginning(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    small = config()
    RunFolder.create(str(path), small, {}).close()
    assert [p.name for p in path.iterdir()] == ["config.yaml"]
    resume(small, str(path))
    assert contents(path) == contents(whole)


def test_a_changed_progress_is_told(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "progress.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(ConfigError, match="does not hold the updates 1 to 7"):
        resume(config(), str(path))


def test_a_checkpoint_of_other_settings_is_refused(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    with pytest.raises(ConfigError, match=r"--resume: .*other settings"):
        resume(config(n_pairs=4, updates=9), str(path))


@pytest.mark.parametrize(
    ("budget", "updates"),
    [({"total_steps": 500}, 4), ({"sequential_steps": 100}, 5), ({"stop_at": -1e9}, 3)],
)
def test_a_run_stops_at_the_first_update_that_reaches_its_budget(
    tmp_path: Path, budget: dict[str, Any], updates: int
) -> None:
    result = train(config(**{"updates": None, **budget}), str(tmp_path / "run"))
    ((name, limit),) = budget.items()
    assert result.reason == name
    if name != "stop_at":
        rows = table(tmp_path / "run")
        assert int(rows[-1][name]) >= limit > int(rows[-2][name])
    else:
        assert result.updates == updates


def test_a_run_stopped_by_reward_stays_stopped_when_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(config(stop_at=-1e9), str(path))
    again = resume(config(stop_at=-1e9), str(path))
    assert (again.reason, again.updates) == ("stop_at", 3)
    assert resume(config(), str(path)).updates == 8


def test_max_time_ends_a_run_and_counts_all_sessions(tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = train(config(updates=None, max_time=0.4), str(path))
    assert result.reason == "max_time"
    assert 0.4 <= result.wall_time < 10
    again = resume(config(updates=None, max_time=0.4), str(path))
    assert again.updates == result.updates


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run would never end; give one of --updates"):
        train(config(updates=None, total_steps=None), str(tmp_path / "run"))
    assert not os.listdir(tmp_path)


def test_the_best_policy_is_that_of_the_highest_evaluation(tmp_path: Path) -> None:
    result = train(config(), str(tmp_path / "run"))
    rows = [row for row in table(tmp_path / "run") if row["eval_reward_mean"]]
    best = max(rows, key=lambda row: float(row["eval_reward_mean"]))
    assert result.best is not None
    assert result.best.update == int(best["update"])
    policy = load_policy(tmp_path / "run" / "best_policy.npz")
    assert np.array_equal(policy.theta, result.best.theta)


def test_the_final_evaluation_has_twenty_episodes(whole: Path, tmp_path: Path) -> None:
    assert resume(config(), str(shutil.copytree(whole, tmp_path / "run"))).final is not None
    result = train(config(eval_every=0, updates=1), str(tmp_path / "other"))
    assert result.final is not None
    assert result.final.rewards.size == 20
    assert result.best is not None
    assert table(tmp_path / "other")[0]["eval_reward_mean"] == repr(result.final.mean)


def test_a_folder_in_use_is_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    with (
        RunFolder.create(path, config(), {}),
        pytest.raises(ConfigError, match="another process is training in it"),
    ):
        RunFolder.open(path)
    RunFolder.open(path).close()


def test_a_full_or_unusable_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already; add --resume"):
        train(config(), str(whole))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(ConfigError, match="is full already"):
        train(config(), str(tmp_path / "full"))
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        train(config(), str(tmp_path / "full" / "note"))
    with pytest.raises(ConfigError, match=r"--run-dir .*: cannot be written \("):
        train(config(), str(tmp_path / "full" / "note" / "run"))
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.open(str(tmp_path / "full"))
    assert sorted(os.listdir(tmp_path)) == ["full"]


def test_an_empty_folder_can_be_used(tmp_path: Path) -> None:
    RunFolder.create(str(tmp_path), config(), {}).close()
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_default_folders_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20250101-000000")
    root = str(tmp_path)
    first = default_run_dir(config(env="ns/Env-v0"), root)
    assert os.path.basename(first) == "ns-Env-v0-nres-seed5-20250101-000000"
    os.mkdir(first)
    assert default_run_dir(config(env="ns/Env-v0"), root) == first + "-2"


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises((NonFiniteLossError, FloatingPointError)):
        train(config(optimizer="sgd", learning_rate=1e300, updates=20), str(path))
    assert list((path / "checkpoints").iterdir())
    assert np.isfinite(load_policy(path / "policy.npz").theta).all()


def test_rows_round_trip_exactly(tmp_path: Path) -> None:
    rows = [Row(1, 2, 3, 4, 0.1, 1 / 3, 1e-17, 0), Row(2, 3, 4, 5, 0.2, -5e300, 2.0, 1, 0.1, 0.2)]
    path = str(tmp_path / "progress.csv")
    file = ProgressFile(path, rows[:1])
    file.append(rows[1])
    file.close()
    assert ProgressFile.read(path) == rows
    with open(path, "a") as torn:
        torn.write("3,4")
    assert ProgressFile.read(path) == rows
    with open(path, "a") as torn:
        torn.write("\n")
    with pytest.raises(ValueError, match="2 columns where 10 belong"):
        ProgressFile.read(path)


def tensorboard_points(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    code = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "a = EventAccumulator(sys.argv[1]); a.Reload()\n"
        "print(json.dumps({t: [(e.step, e.value) for e in a.Scalars(t)]"
        " for t in a.Tags()['scalars']}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True, check=True
    )
    points: dict[str, list[tuple[int, float]]] = json.loads(done.stdout)
    return points


def test_tensorboard_shows_one_curve_after_a_resume(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(config(), str(path), should_stop=Stop(4))
    resume(config(), str(path))
    points = tensorboard_points(path)
    assert points == tensorboard_points(whole)
    rows = table(whole)
    assert [step for step, _ in points["train/mean_loss"]] == [int(r["total_steps"]) for r in rows]
    evaluated = [row for row in rows if row["eval_reward_mean"]]
    assert [value for _, value in points["eval/mean_reward"]] == [
        np.float32(row["eval_reward_mean"]) for row in evaluated
    ]
    assert [step for step, _ in points["eval/mean_reward"]] == [
        int(row["total_steps"]) for row in evaluated
    ]


def test_training_loads_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from es_rl.config_layers import resolve\n"
        "from es_rl.run import train\n"
        f"train(resolve({ {**SMALL, 'updates': 1}!r}).config, {str(tmp_path / 'run')!r})\n"
        "print([m for m in ('torch', 'tensorflow', 'stable_baselines3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_checkpoint_keeps_the_best_policy(tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = train(config(), str(path), should_stop=Stop(4))
    with RunFolder.open(str(path)) as folder:
        checkpoint = folder.latest_checkpoint()
    assert checkpoint is not None
    assert isinstance(checkpoint.best, Best)
    assert result.best is not None
    assert checkpoint.best[:4] == result.best[:4]
    assert np.array_equal(checkpoint.best.theta, result.best.theta)
    assert checkpoint.update == 4
