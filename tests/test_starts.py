"""Several starts: the best goes on bit for bit, all steps count, interruptions change nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from es_rl import run as runs
from es_rl.assembly import assemble
from es_rl.config import TrainConfig
from es_rl.config_layers import continued, load_config, resolve
from es_rl.evaluation import Evaluation, evaluate_on_task
from es_rl.optimizers import SGD
from es_rl.options import ConfigError
from es_rl.policies import load_policy
from es_rl.progress import ProgressFile
from es_rl.schedules import parse_schedule
from es_rl.starts import Judgement, SeveralStarts, config_under_way, start_seed
from es_rl.tasks import State
from es_rl.trainer import Trainer
from es_rl.window import GradientEstimate

PRESET = "default"
GIVEN: dict[str, Any] = {
    "env": "InvertedPendulum-v4",
    "n_pairs": 3,
    "horizon": 40,
    "threads": 1,
    "seed": 4,
    "starts": 3,
    "start_steps": 300,
    "normalize_observations": True,
    "lr_schedule": "linear:900steps:0.1",
}


def config_of(algo: str = "nres", **changes: Any) -> TrainConfig:
    window = {} if algo in ("fulles", "ars") else {"unroll_length": 10}
    given = {**GIVEN, "algo": algo, "updates": 60, **window, **changes}
    return resolve(given, preset=PRESET).config


class Constant:
    """An estimator of known gradient whose updates take ten steps."""

    normalizer = None

    def __init__(self, gradient: float) -> None:
        self.gradient, self.updates = gradient, 0

    def reset(self, theta: NDArray[np.float64]) -> GradientEstimate:
        return self._estimate(0.0, 3)

    def estimate(self, theta: NDArray[np.float64]) -> GradientEstimate:
        self.updates += 1
        return self._estimate(self.gradient, 10)

    def _estimate(self, gradient: float, steps: int) -> GradientEstimate:
        return GradientEstimate(np.array([gradient]), 0.0, steps, steps, 0)

    def state_dict(self) -> State:
        return {"updates": np.array(self.updates)}

    def load_state_dict(self, state: Any) -> None:
        self.updates = int(state["updates"])


def known_starts(
    gradients: list[float],
    start_steps: int = 20,
    schedule: str = "constant",
    good_reward: float | None = None,
) -> SeveralStarts:
    """Starts of which number k walks by -gradients[k] an update and is judged by θ."""

    def make(start: int) -> Trainer:
        optimizer = SGD(1, parse_schedule(schedule, 1.0))
        return Trainer(Constant(gradients[start]), optimizer, np.zeros(1))

    def judge(theta: NDArray[np.float64], normalizer: object) -> Evaluation:
        return Evaluation(np.array([theta[0]]), np.array([7]))

    return SeveralStarts(make, judge, len(gradients), start_steps, good_reward=good_reward)


def test_the_start_with_the_highest_reward_goes_on_and_all_steps_count() -> None:
    trainer = known_starts([-1.0, -3.0, -2.0])
    heard: list[Judgement] = []
    trainer.on_judgement = heard.append
    thetas = [float((trainer.update(), trainer.theta)[1][0]) for _ in range(8)]
    # a start costs 3 steps and has its 20 after two updates
    assert thetas == [1, 2, 3, 6, 2, 4, 9, 12]
    assert trainer.total_steps == 3 * 3 + 8 * 10
    assert trainer.sequential_steps == trainer.total_steps
    assert trainer.updates == 8
    assert heard == [
        Judgement(0, 2.0, 7, 0, 2.0, False),
        Judgement(1, 6.0, 7, 1, 6.0, False),
        Judgement(2, 4.0, 7, 1, 6.0, True),
    ]
    assert trainer.start_number == 1
    assert not trainer.is_choosing


def test_a_schedule_over_steps_counts_those_of_its_own_start() -> None:
    trainer = known_starts([-4.0, -8.0], schedule="piecewise:13steps=0.5,24steps=0.25")
    thetas = [float((trainer.update(), trainer.theta)[1][0]) for _ in range(6)]
    # a start stands at 3 steps before its first update, at 13 before its second, at 23, at 33
    assert thetas == [4, 6, 8, 12, 16, 18]


@pytest.mark.parametrize(
    ("good_reward", "thetas"),
    [
        (6.0, [1, 2, 3, 6, 9, 12]),  # the second is as good as that, and the last of them
        (6.5, [1, 2, 3, 6, 2, 4, 9, 12]),  # none is
        (2.0, [1, 2, 3, 4]),
        (-1.0, [1, 2, 3, 4]),
    ],
)
def test_a_start_that_is_good_goes_on_at_once(good_reward: float, thetas: list[float]) -> None:
    trainer = known_starts([-1.0, -3.0, -2.0], good_reward=good_reward)
    heard: list[Judgement] = []
    trainer.on_judgement = heard.append
    assert [float((trainer.update(), trainer.theta)[1][0]) for _ in thetas] == thetas
    assert [one.is_last for one in heard] == [False] * (len(heard) - 1) + [True]
    assert not trainer.is_choosing
    assert trainer.start_number == heard[-1].best


def test_of_equal_starts_the_first_goes_on() -> None:
    trainer = known_starts([-1.0, -1.0])
    trainer.run(updates=5)
    assert trainer.start_number == 0


def test_the_first_start_has_the_seed_of_the_run_and_no_two_have_the_same() -> None:
    seeds = {start_seed(seed, start) for seed in range(50) for start in range(20)}
    assert len(seeds) == 50 * 20
    assert [start_seed(seed, 0) for seed in range(3)] == [0, 1, 2]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert start_seed(2**64 - 1, 1) != start_seed(2**64 - 2, 1)


@pytest.mark.parametrize("algo", ["nres", "pes", "tes", "fulles", "ars"])
def test_the_start_that_goes_on_is_a_run_of_its_own_to_the_bit(algo: str) -> None:
    config = config_of(algo)
    with assemble(config) as made:
        trainer = made.trainer
        assert isinstance(trainer, SeveralStarts)
        judged: list[Judgement] = []
        trainer.on_judgement = judged.append
        own_updates = [0] * 3
        while len(judged) < 3 or own_updates[judged[-1].best] < 12:
            trainer.update()
            own_updates[trainer.start_number] += 1
            if trainer.is_choosing:
                assert len(judged) == trainer.start_number
        best = judged[-1].best
        assert trainer.start_number == best
        assert judged[-1].best_reward == max(one.reward for one in judged)
        total, theta = trainer.total_steps, trainer.theta.copy()
        state = trainer.estimator.state_dict()
    spent = 0
    for start in range(3):
        alone = replace(config, seed=start_seed(config.seed, start), starts=None, start_steps=None)
        with assemble(alone) as made:
            twin = made.trainer
            assert type(twin) is Trainer
            while twin.total_steps < 300:
                twin.update()
            reward = evaluate_on_task(
                made.eval_task, twin.theta, n_episodes=20, seed=2_000_000_000,
                normalizer=twin.estimator.normalizer,
            )  # fmt: skip
            assert judged[start][:3] == (start, reward.mean, reward.steps)
            if start == best:
                twin.run(updates=own_updates[best])
                assert_array_equal(twin.theta, theta)
                for name, value in twin.estimator.state_dict().items():
                    assert_array_equal(value, state[name])
            spent += twin.total_steps
    assert total == spent


@pytest.mark.parametrize("algo", ["nres", "fulles"])
def test_a_run_resumed_anywhere_ends_alike(algo: str, tmp_path: Path) -> None:
    config = config_of(algo, updates=25, eval_every=4, eval_episodes=1, integrator="euler",
                       integrator_steps=1000)  # fmt: skip
    whole = runs.train(config, str(tmp_path / "whole"))
    truth = (tmp_path / "whole" / "policy.npz").read_bytes()
    folder = str(tmp_path / "parts")
    runs.train(replace(config, updates=1), folder)
    for updates in range(2, 26):
        stored, _ = load_config(f"{folder}/config.yaml")
        runs.resume(continued(stored, {"updates": updates}, folder), folder)
    parts = runs.resume(continued(config, {}, folder), folder)
    assert (tmp_path / "parts" / "policy.npz").read_bytes() == truth
    for name in ("updates", "total_steps", "sequential_steps", "evaluation_steps"):
        assert getattr(parts, name) == getattr(whole, name)


def test_a_run_that_ends_while_it_chooses_leaves_the_policy_of_the_start_under_way(
    tmp_path: Path,
) -> None:
    config = config_of(updates=9, eval_every=2, eval_episodes=2)
    with assemble(config) as made:
        trainer, last = made.trainer, 0
        assert isinstance(trainer, SeveralStarts)
        for update in range(9):
            before = trainer.start_number
            trainer.update()
            last = last if trainer.start_number == before else update
        assert trainer.is_choosing
        assert trainer.start_number == 1
    runs.train(config, str(tmp_path / "r"))
    seed = start_seed(config.seed, 1)
    alone = replace(config, seed=seed, starts=None, start_steps=None)
    with assemble(alone) as made:
        made.trainer.run(updates=9 - last)
        theta = made.trainer.theta
    assert_array_equal(load_policy(tmp_path / "r" / "policy.npz").theta, theta)
    rows = ProgressFile.read(tmp_path / "r" / "progress.csv")
    judged = [row for row in rows if row.eval_reward_mean is not None]
    rewards = {row.eval_reward_mean: row.update for row in reversed(judged)}
    best = load_policy(tmp_path / "r" / "best_policy.npz").metadata
    assert best["update"] == rewards[best["eval_reward_mean"]]
    assert best["eval_reward_mean"] == max(rewards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts/clock": None}, "not of several starts"),
        ({"starts/clock": np.array([1, 0], np.int64)}, "'clock' of a saved state"),
        ({"starts/clock": np.array([3, 0, 0])}, "more than 3 starts"),
        ({"starts/best": np.array(9)}, "more than 3 starts"),
        ({"starts/best": None}, "lacks starts/best"),
        ({"starts/parts/theta": None}, "lacks starts/parts/theta"),
        ({"starts/reward": np.array(np.nan)}, "'reward' of a saved state"),
    ],
)
def test_a_state_that_none_saved_is_refused(change: dict[str, Any], message: str) -> None:
    trainer = known_starts([-1.0, -3.0, -2.0])
    trainer.run(updates=3)
    state = {**trainer.state_dict(), **change}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        known_starts([-1.0, -3.0, -2.0]).load_state_dict(state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_steps": None}, "--starts 3: give --start-steps"),
        ({"starts": None}, "--start-steps 300: there is one start alone.*add --starts"),
        ({"starts": 1}, "--start-steps 300: there is one start alone"),
        (
            {"starts": None, "start_steps": None, "start_reward": 9.5},
            "--start-reward 9.5: there is one start alone.*add --starts",
        ),
        ({"start_reward": float("nan")}, "--start-reward nan: must be"),
        ({"engine": "ray"}, "--starts 3: needs all pairs in one process"),
        ({"starts": 0}, "--starts 0: must be"),
    ],
)
def test_starts_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**given)


def test_one_start_puts_a_presets_starts_away(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "InvertedPendulum-v4: {starts: 3, start_steps: 300, start_reward: 9, n_pairs: 3,"
        " sigma: 0.1, optimizer: sgd, learning_rate: 0.1, updates: 5}\n"
    )
    given = {"env": "InvertedPendulum-v4", "algo": "nres"}
    assert resolve(given, preset=str(preset)).config.has_starts
    alone = resolve({**given, "starts": 1}, preset=str(preset)).config
    assert not alone.has_starts
    with assemble(alone) as made:
        assert type(made.trainer) is Trainer


WORDS = (
    "train InvertedPendulum-v4 --algo nres --preset default --n-pairs 3 --unroll-length 10 "
    "--horizon 40 --starts 2 --start-steps 200 --eval-episodes 1 --no-tensorboard --run-dir r "
    "--total-steps"
)


def test_a_run_tells_how_its_starts_were_judged(run: Run) -> None:
    outcome = run(*f"{WORDS} 600".split())
    assert outcome.code == 0, outcome.err
    shown = " ".join((outcome.out + outcome.err).split())
    assert "note: start 1 of 2: reward " in shown
    assert "; training goes on with start " in shown
    assert "ends before" not in shown


def test_a_run_goes_on_with_its_first_start_if_that_is_good(run: Run) -> None:
    outcome = run(*f"{WORDS} 400 --start-reward 1".split())
    assert outcome.code == 0, outcome.err
    shown = " ".join((outcome.out + outcome.err).split())
    assert re.search(r"note: start 1 of 2: reward [\d.]+.*?training goes on with start 1", shown)
    assert "may end before 2 starts have had 200 steps each" in shown


def test_a_run_that_will_end_while_it_chooses_says_so(run: Run) -> None:
    outcome = run(*f"{WORDS} 400".split())
    assert outcome.code == 0, outcome.err
    shown = " ".join((outcome.out + outcome.err).split())
    assert "--total-steps 400: ends before 2 starts have had 200 steps each" in shown


@pytest.mark.parametrize("total_steps", ["300", "700"], ids=["choosing", "chosen"])
def test_hysteresis_is_that_of_the_start_under_way(total_steps: str, run: Run) -> None:
    assert run(*f"{WORDS} {total_steps}".split()).code == 0
    outcome = run("hysteresis", "r", "--windows", "2", "--json")
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["windows"]) == 2


def test_the_state_of_a_run_is_that_of_a_plain_run_of_the_start_under_way() -> None:
    config = config_of()
    assert config_under_way(config, {}) == config
    with assemble(config) as made:
        made.trainer.run(updates=12)
        state = made.trainer.state_dict()
        number = made.trainer.start_number  # type: ignore[attr-defined]
        assert number > 0
        theta = (made.trainer.update(), made.trainer.theta)[1].copy()
    with assemble(config_under_way(config, state)) as made:
        assert type(made.trainer) is Trainer
        made.trainer.load_state_dict(state)
        made.trainer.update()
        assert_array_equal(made.trainer.theta, theta)
