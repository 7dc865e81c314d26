"""Every option of the table with wrong types, ranges and combinations; new ones are covered too."""

from __future__ import annotations

import datetime
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from es_rl.config import TrainConfig
from es_rl.config_layers import continued, resolve
from es_rl.option_kinds import (
    Boolean,
    Choice,
    Integer,
    KeyValues,
    LearningRateSchedule,
    Names,
    Real,
    Text,
    Widths,
)
from es_rl.options import (
    ALGORITHMS,
    OPTIONS,
    REQUIRED,
    ConfigError,
    check_value,
    flag,
    inapplicable,
    parse_value,
)

SWIMMER = {"env": "Swimmer-v4", "algo": "nres"}

STRANGE = (
    object(),
    b"bytes",
    {1, 2},
    {1: 2},
    1j,
    math.nan,
    datetime.date(2001, 1, 1),
    [[]],
    [None],
)
"""Values that no option takes."""


def wrong_values(name: str) -> list[Any]:
    """Values of the wrong type or beyond the range, from the kind of the option."""
    kind = OPTIONS[name].kind
    if isinstance(kind, Integer):
        beyond = [kind.minimum - 1, kind.minimum + 0.5, True, "1", math.inf, -math.inf, [1]]
        if kind.maximum is not None:
            beyond += [kind.maximum + 1, 10**400]
        return [*STRANGE, *beyond]
    if isinstance(kind, Real):
        low = [bound for bound in (kind.above, kind.at_least) if bound is not None]
        below = [bound - 1e-3 for bound in low] + ([kind.above] if kind.above is not None else [])
        return [*STRANGE, *below, True, "1.0", math.inf, -math.inf, 10**400, [1.0]]
    if isinstance(kind, Boolean):
        return [*STRANGE, 0, 1, "true", "", []]
    if isinstance(kind, Choice):
        return [*STRANGE, "", kind.choices[0].upper() + "x", 0, True, [kind.choices[0]]]
    if isinstance(kind, LearningRateSchedule):
        return [
            *STRANGE,
            "",
            "linear",
            "linear:0",
            "cosine:5:nan",
            "piecewise:",
            "piecewise:1=-1",
            5,
        ]
    if isinstance(kind, Text):
        return [*STRANGE, "", " ", 5, True, ["a"]]
    if isinstance(kind, Widths):
        return [*STRANGE, [], [0], [64, -1], [1.5], ["64"], 64, "64", [True]]
    if isinstance(kind, Names):
        return [*STRANGE, "module", [""], ["a b"], [".."], ["a\0"], [5], 5]
    if isinstance(kind, KeyValues):
        return [*STRANGE, [], "a=1", {"a b": 1}, {"a": math.nan}, {"a": object()}, 5]
    return list(STRANGE)


CASES = [
    pytest.param(name, value, id=f"{name}-{i}")
    for name in OPTIONS
    for i, value in enumerate(wrong_values(name))
]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_wrong_value_is_refused_with_its_option_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_value(name, value)
    text = str(caught.value)
    assert text.startswith(f"{flag(name)} ")
    assert "\n" not in text
    assert len(text) < 1000


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_value_in_a_file_is_refused_with_the_file_and_the_option(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    tried = 0
    for value in wrong_values(name):
        try:
            path.write_text(yaml.safe_dump({name: value}))
        except yaml.YAMLError:
            continue  # nothing that YAML can say
        tried += 1
        with pytest.raises(ConfigError) as caught:
            resolve(SWIMMER, config_file=path)
        assert str(caught.value).startswith(f"--config {path}: ")
        assert "\n" not in str(caught.value)
    assert tried >= 5


@pytest.mark.parametrize("name", [n for n, o in OPTIONS.items() if not isinstance(o.kind, Boolean)])
def test_text_that_means_nothing_is_refused_on_the_command_line(name: str) -> None:
    taken = []
    for text in ("", "\0", "0x", "--", "[", "{", "'", "=", ",", "1e", "nan nan", "\N{SNOWMAN}" * 9):
        message = f"{flag(name)} "
        try:
            value = parse_value(name, text)
        except ConfigError as error:
            message = str(error)
        else:
            taken.append(text)
            assert check_value(name, value) == value
        assert message.startswith(f"{flag(name)} ")
        assert "\n" not in message
    # words alone may be almost anything
    assert not taken or isinstance(OPTIONS[name].kind, Text)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_ends_of_each_range_are_taken(name: str) -> None:
    kind = OPTIONS[name].kind
    if isinstance(kind, Integer):
        assert check_value(name, kind.minimum) == kind.minimum
        if kind.maximum is not None:
            assert check_value(name, kind.maximum) == kind.maximum
            assert parse_value(name, str(kind.maximum)) == kind.maximum
    if isinstance(kind, Real) and kind.at_least is not None:
        assert check_value(name, kind.at_least) == kind.at_least
    if isinstance(kind, Real) and kind.above is not None:
        assert check_value(name, kind.above + 5e-324) > kind.above
    default = OPTIONS[name].default
    if default not in (None, REQUIRED):
        assert check_value(name, default) == default


def applicable(name: str, algo: str, policy: str) -> bool:
    return inapplicable(name, algo, policy) is None


def some_value(name: str) -> Any:
    """A value that the option takes and is not its default."""
    kind, default = OPTIONS[name].kind, OPTIONS[name].default
    candidates: list[Any] = [1, 2, 0.5, 0.25, True, False, "Hopper-v4", "linear:9", [7], ["os"]]
    candidates += [
        {"frame_skip": 2},
        [25, 400],
        *(kind.choices if isinstance(kind, Choice) else ()),
    ]
    for value in candidates:
        try:
            if check_value(name, value) != default:
                return check_value(name, value)
        except ConfigError:
            continue
    raise AssertionError(f"no value found for {name}")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_does_not_apply_is_refused_and_says_where_it_does(name: str) -> None:
    for algo in ALGORITHMS:
        for policy in OPTIONS["policy"].kind.choices:  # type: ignore[attr-defined]
            if applicable(name, algo, policy) or name in ("algo", "policy"):
                continue
            given = {"env": "Swimmer-v4", "algo": algo, "policy": policy, name: some_value(name)}
            with pytest.raises(ConfigError) as caught:
                resolve(given)
            assert str(caught.value).startswith(f"{flag(name)} ")
            assert "does not apply to" in str(caught.value)
            assert "leave it out" in str(caught.value)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_takes_what_does_not_change_it_and_refuses_the_rest(name: str) -> None:
    for algo in ALGORITHMS:
        stored = resolve({"env": "Swimmer-v4", "algo": algo, "updates": 3}).config
        value = some_value(name)
        same = getattr(stored, name) == value
        if not applicable(name, algo, stored.policy) or same:
            continue
        if OPTIONS[name].resumable:
            reason = ""
            try:
                assert getattr(continued(stored, {name: value}, "run"), name) == value
            except ConfigError as error:
                reason = str(error)
            # one that goes with another option says with which
            assert re.fullmatch(rf"|{flag(name)} \S+: applies to .* alone; .*", reason)
        else:
            with pytest.raises(ConfigError, match=r"--resume continues that run"):
                continued(stored, {name: value}, "run")


@pytest.mark.parametrize("name", [n for n, o in OPTIONS.items() if o.default is REQUIRED])
def test_an_option_without_a_default_must_be_there(name: str) -> None:
    values = resolve({**SWIMMER, "updates": 3}).config.to_dict()
    values[name] = None
    with pytest.raises(ConfigError, match=flag(name)):
        TrainConfig.of(values)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"unroll_length": 51, "horizon": 50}, "--unroll-length 51: longer than the episode"),
        ({"algo": "gpes", "unroll_length": 10, "noise_period": 25}, "must be a multiple of"),
        ({"algo": "gpes", "unroll_length": 10, "noise_period": 9}, "such as 10"),
        ({"policy": "mlp", "bias": True}, "--bias true: does not apply to --policy mlp"),
        ({"env": ["a"]}, "ENV "),
    ],
)
def test_combinations_that_cannot_be_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({**SWIMMER, **given})
    assert reason in str(caught.value)
