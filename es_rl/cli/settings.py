"""Options that several subcommands share: declared once, and how their words are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from es_rl.cli.completion import complete_from
from es_rl.cli.policy_source import CHECKPOINTS
from es_rl.option_kinds import did_you_mean
from es_rl.options import OPTIONS, ConfigError, parse_value

__all__ = ["Checkpoint", "EnvKwargs", "ImportModules", "read_presets", "read_settings"]

EnvKwargs = Annotated[
    str | None,
    typer.Option(metavar="JSON|K=V,...", help="Keyword arguments of the environment."),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="|".join(CHECKPOINTS),
        help="Which policy of a run's folder.",
        autocompletion=complete_from(CHECKPOINTS),
    ),
]
ImportModules = Annotated[
    list[str] | None, typer.Option("--import", metavar="MODULE", help="Module to import first.")
]

_FLAGS_ON = {"true": True, "yes": True, "false": False, "no": False}


def read_settings(
    words: Sequence[str], algos: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read words such as sigma=0.1 and nres.sigma=0.1.

    Args:
        words: values of --set.
        algos: algorithms that may be named before the dot.

    Returns:
        The options for all, and by algorithm those for one.

    Raises:
        ConfigError: if one cannot be read.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for word in words:
        left, equals, text = word.partition("=")
        algo, dot, name = left.strip().rpartition(".")
        name = name.replace("-", "_")
        if not equals:
            raise ConfigError(f"--set {word}: write OPTION=VALUE, such as sigma=0.1")
        if dot and algo not in algos:
            known = ", ".join(algos)
            raise ConfigError(f"--set {word}: {algo} is not among the algorithms ({known})")
        if name not in OPTIONS:
            raise ConfigError(f"--set {word}: no such option{did_you_mean(name, OPTIONS)}")
        (own.setdefault(algo, {}) if dot else common)[name] = _value(name, text)
    return common, own


def _value(name: str, text: str) -> Any:
    value: Any = _FLAGS_ON.get(text.strip().lower(), text)
    if isinstance(value, bool):
        try:
            return OPTIONS[name].kind.check(value)
        except ValueError as error:
            raise ConfigError(f"--set {name}={text}: {error}") from None
    return parse_value(name, text)


def read_presets(words: Sequence[str], algos: Sequence[str]) -> dict[str, str]:
    """Read words such as paper-Swimmer-v4 and nres=tuned.yaml; the key "" is for all algorithms.

    Args:
        words: values of --preset.
        algos: algorithms that may be named before the equals sign.

    Raises:
        ConfigError: if a word is empty.
    """
    presets = {}
    for word in words:
        algo, equals, name = word.partition("=")
        if not equals or algo not in algos:
            algo, name = "", word
        if not name:
            raise ConfigError(f"--preset {word}: names no preset; write NAME, FILE or ALGO=NAME")
        presets[algo] = name
    return presets
