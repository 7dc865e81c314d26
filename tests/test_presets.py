"""The presets that come with the library."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest

from es_rl.assembly import assemble
from es_rl.config_layers import preset_entries, resolve
from es_rl.options import ALGORITHMS, BUDGETS, ConfigError
from es_rl.step_budgets import steps_per_update

# presets for one aim, looked for with some algorithms alone
AIMS = ("quick-", "parallel-", "best-")


def entries() -> list[tuple[str, str]]:
    return [(algo, entry) for algo in ALGORITHMS for entry in preset_entries(algo)]


def environment_of(entry: str) -> str:
    for prefix in ("paper-", "mlp-", *AIMS):
        entry = entry.removeprefix(prefix)
    return entry


@pytest.mark.parametrize(("algo", "entry"), entries())
def test_every_entry_makes_a_config_that_ends(algo: str, entry: str) -> None:
    env = "Swimmer-v4" if entry not in gym.registry else entry
    config = resolve({"env": env, "algo": algo}, preset=entry).config
    assert any(getattr(config, name) is not None for name in BUDGETS)
    config.with_horizon(gym.registry[env].max_episode_steps)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_has_the_same_entries(algo: str) -> None:
    others = [entry for entry in preset_entries("nres") if not entry.startswith(AIMS)]
    if algo == "ars":  # not among what the NRES paper ran
        others = [entry for entry in others if not entry.startswith("paper-")]
    own = [entry for entry in preset_entries(algo) if not entry.startswith(AIMS)]
    assert own == others
    assert "default" in preset_entries(algo)


@pytest.mark.parametrize("algo", ["nres", "pes", "tes"])
def test_rates_have_fallen_before_the_steps_are_used_up(algo: str) -> None:
    """Windows alone: how many episodes fit into a budget depends on how soon they end."""
    seen = 0
    for entry in preset_entries(algo):
        if entry == "default":
            continue
        config = resolve({"env": environment_of(entry), "algo": algo}, preset=entry).config
        when = re.fullmatch(r"linear:(\d+):.*", config.lr_schedule)
        if when is None or config.total_steps is None:
            continue
        assert int(when[1]) <= config.total_steps / steps_per_update(config), entry
        seen += 1
    assert seen >= 8


def test_gpes_without_a_period_of_its_own_is_nres_and_has_its_entries() -> None:
    assert preset_entries("gpes") == preset_entries("nres")
    resolved = resolve({"env": "Swimmer-v4", "algo": "gpes"})
    assert resolved.preset == "nres.yaml: Swimmer-v4"
    assert resolved.config.algo == "gpes"
    assert resolved.config.noise_period is None


def preset_file(algo: str) -> str:
    return "nres.yaml" if algo == "gpes" else f"{algo}.yaml"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_environment_without_an_entry_takes_the_default(algo: str) -> None:
    resolved = resolve({"env": "Nowhere-v0", "algo": algo})
    assert resolved.preset == f"{preset_file(algo)}: default"


def test_entries_are_environments_default_or_papers() -> None:
    for _, entry in entries():
        assert entry == "default" or environment_of(entry) in gym.registry


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_mlp_takes_the_entry_that_was_tuned_for_it(algo: str) -> None:
    for entry, values in preset_entries(algo).items():
        assert entry.startswith("mlp-") <= (values.get("policy") == "mlp")
    chosen = {"env": "HalfCheetah-v4", "algo": algo}
    assert resolve(chosen).preset == f"{preset_file(algo)}: HalfCheetah-v4"
    mlp = resolve({**chosen, "policy": "mlp"})
    assert mlp.preset == f"{preset_file(algo)}: mlp-HalfCheetah-v4"
    assert mlp.config.hidden == preset_entries(algo)["mlp-HalfCheetah-v4"]["hidden"]
    linear = resolve({**chosen, "policy": "linear"})
    assert linear.preset == f"{preset_file(algo)}: HalfCheetah-v4"
    default = resolve({**chosen, "policy": "mlp"}, preset="default")
    assert default.preset == f"{preset_file(algo)}: default"


def test_a_mistyped_preset_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"--preset Swimer-v4: .* did you mean Swimmer-v4"):
        resolve({"env": "Swimmer-v4", "algo": "nres"}, preset="Swimer-v4")


def test_a_preset_file_must_know_the_environment(tmp_path: pytest.TempPathFactory) -> None:
    file = f"{tmp_path}/p.yaml"
    with open(file, "w") as stream:
        stream.write("Hopper-v5: {sigma: 0.2}\n")
    with pytest.raises(ConfigError, match="has no entry Swimmer-v4 and no entry default; it has H"):
        resolve({"env": "Swimmer-v4", "algo": "nres"}, preset=file)
    assert resolve({"env": "Hopper-v5", "algo": "nres"}, preset=file).config.sigma == 0.2
    with open(file, "w") as stream:
        stream.write("default: {seed: 3}\n")
    with pytest.raises(ConfigError, match="seed: is no setting of a preset"):
        resolve({"env": "Hopper-v5", "algo": "nres"}, preset=file)


@pytest.mark.parametrize(
    ("aim", "staggering"),
    [("quick-", "lockstep"), ("parallel-", "lockstep"), ("best-", "stratified")],
)
def test_an_entry_for_one_aim_is_taken_by_its_name_alone(aim: str, staggering: str) -> None:
    chosen = {"env": "Swimmer-v4", "algo": "nres"}
    assert resolve(chosen).preset == "nres.yaml: Swimmer-v4"
    taken = resolve(chosen, preset=f"{aim}Swimmer-v4")
    assert taken.preset == f"nres.yaml: {aim}Swimmer-v4"
    assert (taken.config.staggering, taken.config.noise) == (staggering, "orthogonal")
    assert resolve(chosen).config.noise == "gaussian"


def test_the_entry_for_many_cores_needs_fewer_steps_one_after_another() -> None:
    chosen = {"env": "Swimmer-v4", "algo": "nres"}
    quick, parallel = (resolve(chosen, preset=f"{aim}Swimmer-v4").config for aim in AIMS[:2])
    assert parallel.unroll_length < quick.unroll_length
    assert parallel.n_pairs > quick.n_pairs


@pytest.mark.parametrize("policy", ["linear", "mlp"])
def test_reachers_presets_of_nres_pes_and_fulles_are_the_same_training(policy: str) -> None:
    # an episode is one window
    thetas = []
    for algo in ("nres", "pes", "fulles"):
        given = {"env": "Reacher-v4", "algo": algo, "policy": policy, "seed": 3, "updates": 3}
        with assemble(resolve(given).config) as made:
            made.trainer.run(updates=3)
            assert made.trainer.total_steps == 3 * 2 * 50 * 50
            thetas.append(made.trainer.theta.copy())
    assert np.abs(thetas[0]).max() > 0
    np.testing.assert_array_equal(thetas[1], thetas[0])
    np.testing.assert_array_equal(thetas[2], thetas[0])
