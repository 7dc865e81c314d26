"""Options, and how presets, files and flags become one config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from es_rl.assembly import assemble
from es_rl.config import TrainConfig
from es_rl.config_layers import continued, dump_config, load_config, resolve
from es_rl.estimators import ESTIMATORS
from es_rl.optimizers import OPTIMIZERS
from es_rl.options import ALGORITHMS, OPTIONS, ConfigError, parse_value
from es_rl.policies import POLICIES
from es_rl.policy_kernels import ACTIVATIONS
from es_rl.staggering import STAGGERINGS

SWIMMER = {"env": "Swimmer-v4", "algo": "nres"}


def config(**given: Any) -> TrainConfig:
    return resolve({**SWIMMER, **given}).config


def message(given: dict[str, Any], **layers: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(given, **layers)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_choices_are_those_that_the_library_has() -> None:
    def choices(name: str) -> tuple[str, ...]:
        return OPTIONS[name].kind.choices  # type: ignore[attr-defined, no-any-return]

    assert set(ALGORITHMS) == set(choices("algo")) == set(ESTIMATORS)
    assert set(choices("optimizer")) == set(OPTIMIZERS)
    assert set(choices("policy")) == set(POLICIES)
    assert set(choices("activation")) == set(ACTIVATIONS)
    assert set(choices("staggering")) == set(STAGGERINGS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("updates", "12", 12),
        ("total_steps", "3e5", 300_000),
        ("total_steps", "300_000", 300_000),
        ("sigma", "3e-5", 3e-5),
        ("stop_at", "-100", -100.0),
        ("hidden", "64,32", (64, 32)),
        ("hidden", "7", (7,)),
        ("algo", "tes", "tes"),
        ("lr_schedule", "linear:100:0.1", "linear:100:0.1"),
        ("env_kwargs", '{"frame_skip": 2}', {"frame_skip": 2}),
        ("env_kwargs", "frame_skip=2,terminate_when_unhealthy=False", {
            "frame_skip": 2, "terminate_when_unhealthy": False}),
        ("env_kwargs", "healthy_z_range=[0.2,1.0],xml_file=ant.xml", {
            "healthy_z_range": [0.2, 1.0], "xml_file": "ant.xml"}),
    ],
)  # fmt: skip
def test_text_is_read(name: str, text: str, value: Any) -> None:
    read = parse_value(name, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("updates", "0", "must be a positive integer"),
        ("updates", "1.5", "must be a positive integer"),
        ("updates", "ten", "must be a positive integer"),
        ("updates", "nan", "must be a positive integer"),
        ("updates", "inf", "must be a positive integer"),
        ("unroll_length", "-100", "must be a positive integer"),
        ("n_pairs", "", "must be a positive integer"),
        ("seed", "-1", "must be an integer from 0 to 18446744073709551615"),
        ("seed", str(2**64), "must be an integer from 0 to 18446744073709551615"),
        ("eval_every", "-1", "must be an integer of at least 0"),
        ("sigma", "0", "must be a positive number"),
        ("sigma", "-0.1", "must be a positive number"),
        ("sigma", "inf", "must be a positive number"),
        ("learning_rate", "nan", "must be a positive number"),
        ("init_scale", "-1", "must be zero or a positive number"),
        ("stop_at", "nan", "must be a finite number"),
        ("algo", "nre", "choose one of nres, pes, gpes, tes, fulles, ars; did you mean nres"),
        ("policy", "cnn", "choose one of linear, mlp"),
        ("staggering", "stratifed", "did you mean stratified?"),
        ("optimizer", "adm", "did you mean adam?"),
        ("hidden", "64,", "write positive integers"),
        ("hidden", "64,0", "write positive integers"),
        ("lr_schedule", "lineer:5", "write constant, piecewise:WHEN=FACTOR"),
        ("lr_schedule", "linear:0", "write constant, piecewise:WHEN=FACTOR"),
        ("env_kwargs", "frame_skip", "write a JSON object"),
        ("env_kwargs", '{"frame_skip": }', "write a JSON object"),
        ("env_kwargs", "a=1,a=2", "write a JSON object"),
        ("env_kwargs", '{"a": NaN}', "values must be finite numbers"),
    ],
)  # fmt: skip
def test_bad_text_is_refused_with_the_option_and_the_reason(
    name: str, text: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_value(name, text)
    shown = "--import" if name == "import_modules" else "--" + name.replace("_", "-")
    assert str(caught.value).startswith(f"{shown} {text}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sigma": "0.3"}, "--sigma 0.3: must be a positive number"),
        ({"updates": True}, "--updates true: must be a positive integer"),
        ({"bias": 1}, "--bias 1: must be true or false"),
        ({"hidden": 64, "policy": "mlp"}, "--hidden 64: write positive integers"),
        ({"env_kwargs": [1]}, "--env-kwargs 1: write a JSON object"),
        ({"n_pairs": None}, "--n-pairs None: is no value of this option"),
        ({"sigm": 0.3}, "sigm: no such option; did you mean sigma?"),
        ({"env": "  "}, "ENV   : must be a word"),
        ({"noise_period": 100}, "--noise-period 100: does not apply to --algo nres, only to gpes"),
        ({"hidden": (8,)}, "--hidden 8: does not apply to --policy linear, only to mlp"),
        ({"activation": "relu"}, "--activation relu: does not apply to --policy linear"),
        ({"policy": "mlp", "bias": True}, "--bias true: does not apply to --policy mlp"),
        ({"horizon": 50, "unroll_length": 60}, "--unroll-length 60: longer than the episode"),
        ({"horizon": 50}, "--unroll-length 100: longer than the episode, which has 50 steps"),
    ],
)
def test_bad_values_are_refused_with_the_option_and_the_reason(
    given: dict[str, Any], reason: str
) -> None:
    assert reason in message({**SWIMMER, **given})


@pytest.mark.parametrize("name", ["unroll_length", "staggering", "noise_period"])
def test_fulles_takes_no_option_of_windows(name: str) -> None:
    value = "iid" if name == "staggering" else 100
    flag = "--" + name.replace("_", "-")
    expected = f"{flag} {value}: does not apply to --algo fulles"
    assert expected in message({"env": "Swimmer-v4", "algo": "fulles", name: value})


def test_noise_period_must_be_a_multiple_of_the_window() -> None:
    given = {"env": "Swimmer-v4", "algo": "gpes", "unroll_length": 100}
    assert resolve({**given, "noise_period": 300}).config.noise_period == 300
    assert "--noise-period 250: must be a multiple of --unroll-length 100, such as 200" in message(
        {**given, "noise_period": 250}
    )


def test_env_and_algo_must_be_given() -> None:
    assert message({"algo": "nres"}).startswith("ENV: missing")
    assert message({"env": "Swimmer-v4"}).startswith("--algo: missing: choose one of nres")


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("sigma: 0.5\nn_pairs: 7\n")
    tuned = config()
    merged = resolve({**SWIMMER, "n_pairs": 9}, config_file=file).config
    assert (merged.n_pairs, merged.sigma) == (9, 0.5)
    assert merged.learning_rate == tuned.learning_rate
    assert tuned.sigma != 0.5
    assert tuned.n_pairs == 20


def test_a_step_budget_replaces_those_of_earlier_layers(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("Swimmer-v4: {updates: 7}\n")
    assert resolve(SWIMMER, preset=str(preset)).config.updates == 7
    merged = resolve({**SWIMMER, "total_steps": 10**6}, preset=str(preset)).config
    assert (merged.updates, merged.total_steps) == (None, 10**6)
    file = tmp_path / "c.yaml"
    file.write_text("updates: 3\n")
    merged = resolve({**SWIMMER, "sequential_steps": 500}, config_file=file).config
    assert (merged.updates, merged.sequential_steps) == (None, 500)


def test_a_time_limit_is_one_more_limit() -> None:
    assert config(max_time=5).updates == config().updates


def test_another_optimizer_drops_the_preset_momentum(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("Swimmer-v4: {optimizer: clipup, momentum: 0.8}\n")
    assert resolve(SWIMMER, preset=str(preset)).config.momentum == 0.8
    assert resolve({**SWIMMER, "optimizer": "sgd"}, preset=str(preset)).config.momentum is None
    given = {**SWIMMER, "optimizer": "sgd", "momentum": 0.5}
    with pytest.raises(ConfigError, match=r"--momentum 0\.5: sgd has none"):
        assemble(resolve(given, preset=str(preset)).config)


def test_weight_decay_is_the_optimizers_and_dropped_with_the_presets_optimizer(
    tmp_path: Path,
) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("Swimmer-v4: {optimizer: clipup, learning_rate: 0.1, weight_decay: 0.4}\n")
    config = resolve(SWIMMER, preset=str(preset)).config
    with assemble(config) as made:
        assert made.trainer.optimizer.weight_decay == 0.4
    other = resolve({**SWIMMER, "optimizer": "adam"}, preset=str(preset)).config
    with assemble(other) as made:
        assert made.trainer.optimizer.weight_decay == 0.0
    with pytest.raises(ConfigError, match=r"--weight-decay 10.0: with a learning rate of 0.1 must"):
        assemble(resolve({**SWIMMER, "weight_decay": 10}, preset=str(preset)).config)


def test_another_policy_drops_the_preset_settings_of_the_first(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("Swimmer-v4: {policy: mlp, hidden: [8], init_scale: 0.5, sigma: 0.2}\n")
    taken = resolve(SWIMMER, preset=str(preset)).config
    assert (taken.hidden, taken.init_scale, taken.sigma) == ((8,), 0.5, 0.2)
    mlp = resolve({**SWIMMER, "policy": "mlp"}, preset="Swimmer-v4").config
    assert (mlp.init_scale, mlp.hidden, mlp.bias) == (1.0, (64, 64), None)
    assert config().init_scale == 0.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sgima: 0.3", "sgima: no such option; did you mean sigma?"),
        ("sigma: wide", "sigma wide: must be a positive number"),
        ("sigma: [0.3]", "sigma 0.3: must be a positive number"),
        ("updates: 3.5", "updates 3.5: must be a positive integer"),
        ("sigma: 0.3\nsigma: 0.4", "'sigma' stands there twice"),
        ("noise_period: 5", "noise_period 5: does not apply to --algo nres"),
        ("- 1", "must hold 'option: value' lines"),
        ("sigma: {", "not valid YAML"),
        ("1: 2", "key 1 is not a word"),
        ("sigma: !!python/object:os.system 1", "not valid YAML"),
    ],
)
def test_a_bad_config_file_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    told = message(SWIMMER, config_file=file)
    assert told.startswith(f"--config {file}: ")
    assert reason in told


def test_a_missing_or_binary_config_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in message(SWIMMER, config_file=tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in message(SWIMMER, config_file=tmp_path / "b.yaml")
    assert "cannot be read" in message(SWIMMER, config_file=tmp_path)


def test_a_float_without_a_point_is_a_number_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("sigma: 3e-5\ntotal_steps: 1e6\n")
    read = resolve(SWIMMER, config_file=file).config
    assert (read.sigma, read.total_steps) == (3e-5, 1_000_000)


def test_the_config_of_a_run_can_be_fed_back(tmp_path: Path) -> None:
    first = config(
        policy="mlp", hidden=(5, 4), env_kwargs={"frame_skip": 2}, sigma=0.1, seed=7, threads=2,
        import_modules=("math",), max_time=3.5, stop_at=-2,
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(first, {"versions": {"numpy": "2"}}))
    assert resolve({}, config_file=file).config == first
    assert load_config(file) == (first, {"versions": {"numpy": "2"}})


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_config_holds_every_option_that_applies_and_no_other(algo: str) -> None:
    keys = set(config(algo=algo).to_dict())
    assert ("unroll_length" in keys) == (algo not in ("fulles", "ars"))
    assert ("noise_period" in keys) == (algo == "gpes")
    assert keys >= {"env", "algo", "sigma", "n_pairs", "bias", "updates", "threads"}
    assert not keys & {"hidden", "activation"}


def test_the_horizon_settles_what_was_left_open() -> None:
    free = resolve({"env": "Reacher-v5", "algo": "nres"}).config
    filled = free.with_horizon(50)
    assert (filled.horizon, filled.unroll_length) == (50, min(free.unroll_length or 100, 50))
    with pytest.raises(ConfigError, match="--unroll-length 100: longer than the episode"):
        config().with_horizon(99)
    assert config(horizon=200).with_horizon(1000).horizon == 200


def test_a_resumed_run_takes_budgets_and_nothing_that_changes_it() -> None:
    stored = config(updates=10, stop_at=300.0, sigma=0.3)
    longer = continued(stored, {"total_steps": 5000, "threads": 1, "seed": 0}, "run")
    assert (longer.updates, longer.total_steps, longer.threads) == (None, 5000, 1)
    assert continued(stored, {}, "run") == stored
    assert continued(stored, {"stop_at": 320.0}, "run").updates == 10
    with pytest.raises(ConfigError, match=r"--sigma 0\.7: the run in run has 0\.3, and"):
        continued(stored, {"sigma": 0.7}, "run")
    with pytest.raises(ConfigError, match="ENV Hopper-v5: the run in run has Swimmer-v4"):
        continued(stored, {"env": "Hopper-v5"}, "run")


def test_yaml_written_by_hand_reads_like_safe_yaml(tmp_path: Path) -> None:
    text = "a: 1\nb: .5\nc: 1e3\nd: -2.5E-3\ne: 1.0\nf: x1e3\n"
    from es_rl.yaml_mapping import _Loader

    ours = yaml.load(text, _Loader)
    assert ours == {"a": 1, "b": 0.5, "c": 1000.0, "d": -0.0025, "e": 1.0, "f": "x1e3"}


def test_null_for_an_option_that_has_none_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("sigma: null\nupdates: null\n")
    with pytest.raises(ConfigError) as caught:
        resolve({"env": "Swimmer-v4", "algo": "nres"}, config_file=path)
    assert str(caught.value) == (
        f"--config {path}: sigma null: is no value of this option; leave it out for the preset's "
        "or the default"
    )


@pytest.mark.parametrize("value", [1e308, -1e308, 2e12])
def test_an_offset_beside_which_no_reward_is_seen_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"--reward-offset .*: must be a number from -1e\+12 to"):
        resolve({"env": "Swimmer-v4", "algo": "nres", "reward_offset": value})
