"""From presets, a configuration file and explicit options to one `TrainConfig`; later layers win.

The layers, first to last: the algorithm's preset for any environment (`default`), the preset's
entry for this one, the configuration file, the explicit options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from es_rl.config import TrainConfig
from es_rl.option_kinds import did_you_mean
from es_rl.options import (
    ALGORITHMS,
    BUDGETS,
    OPTIONS,
    POLICY_OPTIONS,
    RAY_OPTIONS,
    ConfigError,
    check_value,
    flag,
    inapplicable,
    shown,
)
from es_rl.yaml_mapping import read_mapping

__all__ = [
    "ABOUT",
    "Resolved",
    "continued",
    "dump_config",
    "load_config",
    "preset_entries",
    "requeued",
    "resolve",
]

ABOUT = "about"
"""Key of a run's config.yaml whose contents inform and set nothing."""

_DEFAULT = "default"
_NOT_IN_PRESETS = ("env", "algo", "import_modules", "seed")


class Resolved(NamedTuple):
    """What `resolve` returns.

    Attributes:
        config: all options.
        preset: where the tuned settings came from, for the record.
    """

    config: TrainConfig
    preset: str


def _checked(
    values: Mapping[str, Any], source: str | None, forbidden: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return `values` with every key known and every value in its normal form."""
    known = [name for name in OPTIONS if name not in forbidden]
    result = {}
    for key, value in values.items():
        if key not in known:
            where = "" if source is None else f"{source}: "
            if key in forbidden:
                raise ConfigError(f"{where}{key}: is no setting of a preset; leave it out")
            near = did_you_mean(str(key), known)
            raise ConfigError(f"{where}{shown(key)}: no such option{near}")
        result[key] = check_value(key, value, source)
    return result


def _preset_name(algo: str) -> str:
    """Return the file of the algorithm's presets; GPES is NRES unless it is given a period."""
    return "nres.yaml" if algo == "gpes" else f"{algo}.yaml"


def preset_entries(algo: str) -> dict[str, dict[str, Any]]:
    """Return the presets that come with the library for one algorithm, by entry."""
    name = _preset_name(algo)
    source = f"preset {name}"
    with resources.as_file(resources.files("es_rl.presets") / name) as path:
        content = read_mapping(path, source)
    return {
        entry: _checked(values, f"{source}: {entry}", _NOT_IN_PRESETS)
        for entry, values in content.items()
    }


def _preset_file(path: Path, env: str) -> tuple[str, dict[str, Any]]:
    """Return (entry, settings) of a user's preset file for `env`."""
    source = f"--preset {path}"
    content = read_mapping(path, source)
    for entry in (env, _DEFAULT):
        if entry in content:
            if not isinstance(content[entry], dict):
                raise ConfigError(f"{source}: {entry}: must hold 'option: value' lines")
            return entry, _checked(content[entry], f"{source}: {entry}", _NOT_IN_PRESETS)
    raise ConfigError(
        f"{source}: has no entry {env} and no entry {_DEFAULT}; it has "
        f"{', '.join(map(str, content)) or 'none at all'}"
    )


def _is_path(preset: str) -> bool:
    return preset.endswith((".yaml", ".yml")) or Path(preset).is_file()


class _Layer(NamedTuple):
    values: Mapping[str, Any]
    source: str | None = None  # a file to name in errors; None: the command line
    explicit: bool = True  # whether the user asked for it


def _preset_layers(
    algo: str, env: str, preset: str | None, policy: str | None
) -> tuple[list[_Layer], str]:
    packaged = preset_entries(algo)
    layers = [_Layer(packaged[_DEFAULT], explicit=False)]
    if preset is not None and _is_path(preset):
        entry, values = _preset_file(Path(preset), env)
        layers.append(_Layer(values, f"--preset {preset}: {entry}"))
        return layers, f"{preset}: {entry}"
    if preset is not None:
        entry = preset
    else:
        # what was tuned for one kind of policy does not serve another
        entry = next((e for e in (f"{policy}-{env}", env) if e in packaged), _DEFAULT)
    if entry not in packaged:
        near = did_you_mean(entry, packaged) or f"; there are {', '.join(packaged)}"
        raise ConfigError(f"--preset {entry}: no such preset for --algo {algo}{near}")
    layers.append(_Layer(packaged[entry], explicit=False))
    return layers, f"{_preset_name(algo)}: {entry}"


def _merge(layers: list[_Layer], algo: str) -> dict[str, Any]:
    """Return the values of all layers, later ones winning; refuse what does not apply."""
    values: dict[str, Any] = {}
    origin: dict[str, _Layer] = {}
    policy = "linear"
    for layer in layers:
        if any(layer.values.get(name) is not None for name in BUDGETS):
            for name in BUDGETS:
                values.pop(name, None)
        if layer.values.get("policy", policy) != policy:
            policy = layer.values["policy"]
            for name in POLICY_OPTIONS:
                if name in values and not origin[name].explicit:
                    del values[name]
        optimizer = values.get("optimizer")
        if layer.values.get("optimizer", optimizer) != optimizer:
            for name in ("momentum", "weight_decay"):
                values.pop(name, None)
        if "integrator" in layer.values:
            values.pop("integrator_steps", None)
        if layer.values.get("starts") == 1:
            for name in ("start_steps", "start_reward"):
                values.pop(name, None)
        values.update(layer.values)
        origin.update(dict.fromkeys(layer.values, layer))
    for name in list(values):
        reason = inapplicable(name, algo, policy)
        if reason is not None and values[name] is not None:
            source = origin[name].source
            where = flag(name) if source is None else f"{source}: {name}"
            raise ConfigError(f"{where} {shown(values[name])}: {reason}")
    return values


def resolve(
    given: Mapping[str, Any],
    *,
    config_file: str | os.PathLike[str] | None = None,
    preset: str | None = None,
) -> Resolved:
    """Make the config of a run.

    Args:
        given: explicit options by their key, such as {"env": "Swimmer-v4", "algo": "nres"}.
        config_file: YAML with the keys of a run's config.yaml.
        preset: an entry of the algorithm's presets, or a YAML file with entries; None for the
            entry of the environment, or `default` if it has none. Where a kind of policy is asked
            for and has an entry of its own, such as mlp-Hopper-v4, that goes first.

    Raises:
        ConfigError: names the option, its value, where it was given, and the way out.
    """
    explicit = _Layer(_checked(given, None))
    layers = [explicit]
    if config_file is not None:
        source = f"--config {os.fspath(config_file)}"
        content = read_mapping(Path(config_file), source)
        content.pop(ABOUT, None)
        layers.insert(0, _Layer(_checked(content, source), source))
    required = {}
    for name in ("env", "algo"):
        found = [layer.values[name] for layer in layers if name in layer.values]
        if not found:
            choices = f": choose one of {', '.join(ALGORITHMS)}" if name == "algo" else ""
            raise ConfigError(f"{flag(name)}: missing{choices or '; name an environment'}")
        required[name] = found[-1]
    policies = [layer.values["policy"] for layer in layers if "policy" in layer.values]
    policy = policies[-1] if policies else None
    tuned, label = _preset_layers(required["algo"], required["env"], preset, policy)
    config = TrainConfig.of(_merge([*tuned, *layers], required["algo"]))
    return Resolved(config, label)


def continued(stored: TrainConfig, given: Mapping[str, Any], run_dir: str) -> TrainConfig:
    """Return the config with which a run goes on: budgets may change, the run itself may not.

    A budget in updates or steps replaces the stored ones of that kind. The engine may change to
    ray and back, as checkpoints are the same.

    Args:
        stored: the run's config.
        given: explicit options.
        run_dir: the run's folder, for errors.

    Raises:
        ConfigError: if an option would make it another run.
    """
    values = {name: getattr(stored, name) for name in OPTIONS}
    explicit = _checked(given, None)
    engine = explicit.get("engine", "auto")
    if engine != "auto" and engine != stored.engine and "ray" in (engine, stored.engine):
        # how it is spread there says nothing about here
        values.update({"engine": engine, "threads": None, **dict.fromkeys(RAY_OPTIONS)})
    for name, value in explicit.items():
        if (name, value) == ("engine", "auto"):
            continue
        if value != values[name] and not OPTIONS[name].resumable:
            raise ConfigError(
                f"{flag(name)} {shown(value)}: the run in {run_dir} has {shown(values[name])}, and "
                "--resume continues that run; leave the option out, or start a new run"
            )
    if any(given.get(name) is not None for name in BUDGETS):
        values.update(dict.fromkeys(BUDGETS))
    values.update({n: v for n, v in explicit.items() if OPTIONS[n].resumable})
    return TrainConfig(**values)


def requeued(
    stored: TrainConfig,
    given: Mapping[str, Any],
    run_dir: str,
    *,
    config_file: str | os.PathLike[str] | None,
    preset: str | None,
) -> TrainConfig:
    """Return the config with which a run goes on that the same words may have begun.

    A file and a preset are read as they were at the beginning, and must give the run's own
    settings. Of what may change, such as budgets, only explicit options do.

    Args:
        stored: the run's config.
        given: explicit options.
        run_dir: the run's folder, for errors.
        config_file: as in `resolve`.
        preset: as in `resolve`.

    Raises:
        ConfigError: if they would make it another run.
    """
    if config_file is None and preset is None:
        return continued(stored, given, run_dir)
    fresh = resolve(given, config_file=config_file, preset=preset).config
    settings = {
        name: getattr(fresh, name)
        for name, option in OPTIONS.items()
        if not option.resumable and getattr(fresh, name) is not None
    }
    return continued(stored, {**settings, **given}, run_dir)


def dump_config(config: TrainConfig, about: Mapping[str, Any]) -> str:
    """Return the text of a run's config.yaml."""
    content = {**config.to_dict(), ABOUT: dict(about)}
    text: str = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def load_config(path: str | os.PathLike[str]) -> tuple[TrainConfig, dict[str, Any]]:
    """Return (config, about) of a run's config.yaml.

    Raises:
        ConfigError: if the file is missing or is no config of a run.
    """
    source = os.fspath(path)
    content = read_mapping(Path(path), source)
    about = content.pop(ABOUT, {})
    values = _checked(content, source)
    if not {"env", "algo"} <= set(values):
        raise ConfigError(f"{source}: env or algo is missing; the file is no run's config.yaml")
    return TrainConfig.of(values), about if isinstance(about, dict) else {}
