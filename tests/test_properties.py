"""What must hold for any task, N, W, K, T, way of ending, optimiser and seed (hypothesis)."""

from __future__ import annotations

import tempfile
from typing import Any

import fuzzing
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.checkpoint import load_checkpoint, save_checkpoint
from es_rl.estimators import ESTIMATORS
from es_rl.optimizers import OPTIMIZERS, make_optimizer
from es_rl.trainer import Trainer

ONLINE = {name for name, estimator in ESTIMATORS.items() if not estimator.whole_episodes}
"""Estimators with windows; the others unroll whole episodes and keep no state."""


class BriefSystem(EndingSystem):
    """Ends at its first step, always."""

    def step(self, theta: Any) -> tuple[float, bool]:
        loss, _ = super().step(theta)
        return loss, True


class CountingTask(LoopTask):
    """Counts the episodes that are begun, too."""

    begun = 0

    def reset(self, rows: Any, seeds: Any) -> None:
        super().reset(rows, seeds)
        self.begun += rows.size


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """Everything that makes a training run, at random."""
    estimator = draw(st.sampled_from(sorted(ESTIMATORS)))
    unroll_length = draw(st.integers(1, 7))
    system = draw(st.sampled_from([EndingSystem, LastingSystem, BriefSystem]))
    is_online = estimator in ONLINE
    horizon = draw(st.integers(1, 19) | (st.none() if is_online else st.nothing()))
    options: dict[str, Any] = {"n_pairs": draw(st.integers(1, 20))}
    options["sigma"] = draw(st.sampled_from([1e-3, 0.1, 0.7]))
    options["seed"] = draw(st.integers(0, 2**64 - 1))
    if is_online:
        options["unroll_length"] = unroll_length
        options["staggering"] = draw(st.sampled_from(["stratified", "iid", "lockstep"]))
    if estimator == "gpes":
        options["noise_period"] = unroll_length * draw(st.integers(1, 4))
    return {
        "estimator": estimator,
        "system": system,
        "horizon": horizon,
        "options": options,
        "optimizer": draw(st.sampled_from(sorted(OPTIMIZERS))),
        "updates": draw(st.integers(1, 9)),
    }


def made(case: dict[str, Any]) -> tuple[Trainer, CountingTask]:
    task = CountingTask(case["system"], case["horizon"])
    estimator = ESTIMATORS[case["estimator"]](task, **case["options"])
    optimizer = make_optimizer(case["optimizer"], 3, 0.01)
    return Trainer(estimator, optimizer, np.array([0.6, -0.2, 0.5])), task


@fuzzing.cases(40)
@given(cases())
def test_counters_are_exact(case: dict[str, Any]) -> None:
    trainer, task = made(case)
    records: list[Any] = []
    trainer.run(updates=case["updates"], callback=lambda _, record: records.append(record))
    assert trainer.total_steps == task.executed == records[-1].total_steps
    assert trainer.updates == len(records) == case["updates"]
    estimator, n_pairs = trainer.estimator, case["options"]["n_pairs"]
    rows = 1 if case["estimator"] == "tes" else 2
    # what was begun has ended, but for those that are running
    assert task.begun % rows == 0
    state = estimator.state_dict()
    is_online = case["estimator"] in ONLINE
    running = int((~state["finished"]).sum()) if is_online else 0
    assert trainer.episodes == task.begun // rows - running
    at_most = {"tes": 3}.get(case["estimator"], 2) * n_pairs
    before = None
    for record in records:
        if before is not None:
            steps = record.total_steps - before.total_steps
            sequential = record.sequential_steps - before.sequential_steps
            window = case["options"].get("unroll_length", case["horizon"])
            assert steps <= at_most * window
            assert sequential == window if is_online else 1 <= sequential <= window
            if case["system"] is LastingSystem:
                assert steps == at_most * window
        before = record


@fuzzing.cases(40)
@given(cases(), st.data())
def test_resuming_is_exact(case: dict[str, Any], data: Any) -> None:
    trace: list[Any] = []

    def keep(trainer: Trainer, record: Any) -> None:
        trace.append((*record, *trainer.theta.tolist()))

    trainer, _ = made(case)
    trainer.run(updates=case["updates"], callback=keep)
    whole, trace = trace, []
    stops = sorted(data.draw(st.sets(st.integers(0, case["updates"]), max_size=3)))
    trainer, _ = made(case)
    with tempfile.TemporaryDirectory() as folder:
        for stop in stops:
            trainer.run(updates=max(stop, trainer.updates), callback=keep)
            save_checkpoint(f"{folder}/state.npz", trainer)
            trainer, _ = made(case)
            trainer.load_state_dict(load_checkpoint(f"{folder}/state.npz")[1])
    trainer.run(updates=case["updates"], callback=keep)
    assert trace == whole


@st.composite
def systems(draw: Any) -> tuple[type[EndingSystem], int, dict[str, Any]]:
    """A system, a number of windows, and options that estimators share."""
    system = draw(st.sampled_from([EndingSystem, LastingSystem, BriefSystem]))
    options = {
        "n_pairs": draw(st.integers(1, 12)),
        "unroll_length": draw(st.integers(1, 6)),
        "sigma": draw(st.sampled_from([1e-3, 0.1, 0.7])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "staggering": draw(st.sampled_from(["stratified", "iid", "lockstep"])),
    }
    return system, draw(st.integers(1, 5)), options


def gradients(name: str, system: type[EndingSystem], horizon: int, n: int, **options: Any) -> Any:
    estimator = ESTIMATORS[name](LoopTask(system, horizon), **options)
    theta = np.array([0.6, -0.2, 0.5])
    estimator.reset(theta)
    return [estimator.estimate(theta) for _ in range(n)]


def assert_same(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.gradient, other.gradient)
        assert one[1:] == other[1:]


@fuzzing.cases(40)
@given(systems(), st.integers(0, 20))
def test_gpes_is_pes_and_nres_at_the_ends_of_its_noise_period(case: Any, more: int) -> None:
    system, n_windows, options = case
    length = options["unroll_length"]
    horizon = n_windows * length - more % length  # not always a multiple of W
    pes = gradients("pes", system, horizon, 6, **options)
    assert_same(gradients("gpes", system, horizon, 6, noise_period=length, **options), pes)
    nres = gradients("nres", system, horizon, 6, **options)
    whole = gradients("gpes", system, horizon, 6, **options)
    assert_same(whole, nres)
    longer = length * (n_windows + more)
    assert_same(gradients("gpes", system, horizon, 6, noise_period=longer, **options), nres)


@fuzzing.cases(40)
@given(systems())
def test_a_window_of_the_whole_episode_makes_every_estimator_full_es(case: Any) -> None:
    _, _, options = case
    horizon = options["unroll_length"]
    shared = {name: options[name] for name in ("n_pairs", "sigma", "seed")}
    full = gradients("fulles", LastingSystem, horizon, 3, **shared)
    for name in ("nres", "pes", "gpes", "tes"):
        ours = gradients(name, LastingSystem, horizon, 3, **{**options, "staggering": "lockstep"})
        for one, other in zip(ours, full, strict=True):
            # the same differences; a mean of two sums is not always that of the other order
            np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-9, atol=1e-12)
            assert one.sequential_steps == other.sequential_steps


@fuzzing.cases(40)
@given(systems())
def test_the_windows_of_a_frozen_nres_episode_have_full_es_as_their_mean(case: Any) -> None:
    _, n_windows, options = case
    shared = {name: options[name] for name in ("n_pairs", "sigma", "seed")}
    horizon = n_windows * options["unroll_length"]
    (full,) = gradients("fulles", LastingSystem, horizon, 1, **shared)
    ours = gradients(
        "nres", LastingSystem, horizon, n_windows, **{**options, "staggering": "lockstep"}
    )
    mean = np.mean([one.gradient for one in ours], axis=0)
    # rounding of sums over at most 30 steps, divided by σ of 1e-3 at least
    scale = np.abs([one.gradient for one in ours]).max()
    np.testing.assert_allclose(mean, full.gradient, rtol=1e-7, atol=1e-10 * (1 + scale))


@fuzzing.cases(40)
@given(systems(), st.integers(1, 5))
def test_pairs_do_not_depend_on_how_many_there_are(case: Any, more: int) -> None:
    """What a pair meets is a function of its own number: pairs can be spread over machines."""
    system, n_windows, options = case
    options = {**options, "staggering": "lockstep"}
    horizon = n_windows * options["unroll_length"]
    rows = []
    for n_pairs in (options["n_pairs"], options["n_pairs"] + more):
        estimator = ESTIMATORS["nres"](LoopTask(system, horizon), **{**options, "n_pairs": n_pairs})
        estimator.reset(np.zeros(3))
        for _ in range(4):
            estimator.estimate(np.zeros(3))
        state = estimator.state_dict()
        rows.append({k: v[: 2 * options["n_pairs"]] for k, v in state.items() if "task/" in k})
    for name, value in rows[0].items():
        np.testing.assert_array_equal(value, rows[1][name])
