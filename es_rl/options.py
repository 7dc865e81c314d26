"""The options of a training run: which there are, and whether a value of one can be.

Importing this module is cheap: the command line builds its help from it.
"""

from __future__ import annotations

from typing import Any

from es_rl.option_messages import ConfigError, flag, shown
from es_rl.option_table import (
    ALGORITHMS,
    BUDGETS,
    DEFAULT_OBSERVATION_CLIP,
    DEFAULT_SHAPINGS,
    DEFAULT_UNROLL_LENGTH,
    INIT_SCALES,
    OPTIONS,
    POLICY_OPTIONS,
    RAY_OPTIONS,
    REQUIRED,
    WINDOWED,
    Option,
)

__all__ = [
    "ALGORITHMS",
    "BUDGETS",
    "DEFAULT_OBSERVATION_CLIP",
    "DEFAULT_SHAPINGS",
    "DEFAULT_UNROLL_LENGTH",
    "INIT_SCALES",
    "OPTIONS",
    "POLICY_OPTIONS",
    "RAY_OPTIONS",
    "REQUIRED",
    "WINDOWED",
    "ConfigError",
    "Option",
    "check_value",
    "flag",
    "inapplicable",
    "parse_value",
    "shown",
]


def inapplicable(name: str, algo: str, policy: str) -> str | None:
    """Return why an option does not apply to this algorithm and policy, or None if it does."""
    option = OPTIONS[name]
    if option.algos and algo not in option.algos:
        return f"does not apply to --algo {algo}, only to {', '.join(option.algos)}; leave it out"
    if option.policies and policy not in option.policies:
        return (
            f"does not apply to --policy {policy}, only to {', '.join(option.policies)}; "
            "leave it out"
        )
    return None


def parse_value(name: str, text: str) -> Any:
    """Return the value that `text` on the command line gives to an option.

    Raises:
        ConfigError: says what is wrong with it.
    """
    try:
        return OPTIONS[name].kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"{flag(name)} {shown(text)}: {error}") from None


def check_value(name: str, value: Any, source: str | None = None) -> Any:
    """Return an option's value in its normal form.

    Args:
        name: of the option.
        value: what it was given.
        source: where it was given, such as a file; None for the command line.

    Raises:
        ConfigError: says what is wrong with it, and where it was given.
    """
    if value is None and OPTIONS[name].optional:
        return None
    where = flag(name) if source is None else f"{source}: {name}"
    if value is None:
        raise ConfigError(
            f"{where} {'None' if source is None else 'null'}: is no value of this option; leave it "
            "out for the preset's or the default"
        )
    try:
        return OPTIONS[name].kind.check(value)
    except ValueError as error:
        raise ConfigError(f"{where} {shown(value)}: {error}") from None
