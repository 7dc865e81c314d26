"""Kinds of option values: how each is read from text, checked, and described when it is wrong.

Nothing here imports more than the standard library, so that `--help` stays quick.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from es_rl.schedules import parse_schedule
from es_rl.unroll_range import check_range

__all__ = [
    "Boolean",
    "Choice",
    "Integer",
    "KeyValues",
    "Kind",
    "LearningRateSchedule",
    "Names",
    "Real",
    "Span",
    "Text",
    "Widths",
    "did_you_mean",
]


def did_you_mean(name: str, names: Iterable[str], n: int = 3) -> str:
    """Return "; did you mean A or B?" with the `n` nearest names, or "" if none is near."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[match] for match in near)}?" if near else ""


class Kind:
    """One kind of value. Both methods raise ValueError with the reason alone."""

    _metavar = "TEXT"

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        return self._metavar

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for on the command line."""
        return self.check(text)

    def check(self, value: Any) -> Any:
        """Return `value` in its normal form."""
        raise NotImplementedError


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number in a range; 1e6 and 1_000_000 are ways to write one."""

    minimum: int
    maximum: int | None = None
    _metavar = "INTEGER"

    @property
    def _range(self) -> str:
        if self.minimum == 1:
            most = "" if self.maximum is None else f" of at most {self.maximum}"
            return f"must be a positive integer{most}"
        if self.maximum is not None:
            return f"must be an integer from {self.minimum} to {self.maximum}"
        return f"must be an integer of at least {self.minimum}"

    def parse(self, text: str) -> int:
        """Return the number that `text` stands for."""
        try:
            return self.check(int(text))
        except ValueError:
            pass
        try:
            number = float(text)
        except ValueError:
            raise ValueError(self._range) from None
        return self.check(number)

    def check(self, value: Any) -> int:
        """Return `value` as an int."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError(self._range) from None
        if isinstance(value, bool) or number < self.minimum:
            raise ValueError(self._range)
        if self.maximum is not None and number > self.maximum:
            raise ValueError(self._range)
        return number


@dataclass(frozen=True)
class Real(Kind):
    """A finite number, optionally bounded from below, or in size."""

    above: float | None = None
    at_least: float | None = None
    within: float | None = None
    _metavar = "NUMBER"

    @property
    def _range(self) -> str:
        if self.above == 0:
            return "must be a positive number"
        if self.at_least == 0:
            return "must be zero or a positive number"
        if self.within is not None:
            return f"must be a number from {-self.within:g} to {self.within:g}"
        return "must be a finite number"

    def parse(self, text: str) -> float:
        """Return the number that `text` stands for."""
        try:
            return self.check(float(text))
        except ValueError:
            raise ValueError(self._range) from None

    def check(self, value: Any) -> float:
        """Return `value` as a float."""
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise ValueError(self._range)
        try:
            number = float(value)
        except (OverflowError, TypeError):
            raise ValueError(self._range) from None
        if not math.isfinite(number):
            raise ValueError(self._range)
        if self.above is not None and number <= self.above:
            raise ValueError(self._range)
        if self.at_least is not None and number < self.at_least:
            raise ValueError(self._range)
        if self.within is not None and abs(number) > self.within:
            raise ValueError(self._range)
        return number


class Boolean(Kind):
    """Yes or no; a pair of flags on the command line."""

    def check(self, value: Any) -> bool:
        """Return `value`."""
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few names."""

    choices: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The names."""
        return "|".join(self.choices)

    def check(self, value: Any) -> str:
        """Return `value`."""
        if not isinstance(value, str) or value not in self.choices:
            near = did_you_mean(str(value), self.choices)
            raise ValueError(f"choose one of {', '.join(self.choices)}{near}")
        return value


class Text(Kind):
    """A word that is not empty."""

    def check(self, value: Any) -> str:
        """Return `value`."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError("must be a word")
        return value


class LearningRateSchedule(Text):
    """A learning-rate schedule as `es_rl.schedules.parse_schedule` reads it."""

    _metavar = "SCHEDULE"

    def check(self, value: Any) -> str:
        """Return `value`."""
        text = super().check(value)
        try:
            parse_schedule(text, 1.0)
        except ValueError as error:
            raise ValueError(str(error).partition(": ")[2]) from None
        return text


class Widths(Kind):
    """Widths of hidden layers: 64,64."""

    _metavar = "64,64"
    _most = 100_000  # the weights of two such layers take 80 GB
    _rule = f"write positive integers of at most {_most} joined by commas, such as 64,64"

    def parse(self, text: str) -> tuple[int, ...]:
        """Return the widths that `text` lists."""
        try:
            return self.check([int(part) for part in text.split(",")])
        except ValueError:
            raise ValueError(self._rule) from None

    def check(self, value: Any) -> tuple[int, ...]:
        """Return `value` as a tuple."""
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(self._rule)
        try:
            return tuple(Integer(1, self._most).check(width) for width in value)
        except ValueError:
            raise ValueError(self._rule) from None


class Span(Kind):
    """Two lengths, the shorter one first: 10:200."""

    _metavar = "10:200"

    def parse(self, text: str) -> tuple[int, int]:
        """Return the lengths that `text` gives, joined by a colon or, as in messages, a comma."""
        try:
            ends = [Integer(1).parse(part) for part in text.replace(",", ":").split(":")]
        except ValueError:
            ends = []
        return self.check(ends)

    def check(self, value: Any) -> tuple[int, int]:
        """Return `value` as a tuple."""
        return check_range(value)


class Names(Kind):
    """Some names, such as modules to import."""

    _metavar = "MODULE"

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the one name that `text` is."""
        return self.check([text])

    def check(self, value: Any) -> tuple[str, ...]:
        """Return `value` as a tuple."""
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
            for name in value
        ):
            raise ValueError("must be a list of modules' names")
        return tuple(value)


class KeyValues(Kind):
    """Keyword arguments: a JSON object, or key=value pairs joined by commas."""

    _metavar = "JSON|K=V,..."
    _rule = """write a JSON object such as '{"frame_skip": 2}', or pairs such as frame_skip=2"""

    def parse(self, text: str) -> dict[str, Any]:
        """Return the arguments that `text` lists; a value that is no JSON is taken as a word."""
        if text.lstrip().startswith("{"):
            try:
                return self.check(json.loads(text))
            except (json.JSONDecodeError, RecursionError):
                raise ValueError(self._rule) from None
        pairs: dict[str, Any] = {}
        for item in _split_outside_brackets(text):
            key, equals, value = item.partition("=")
            if not equals or not key.strip().isidentifier() or key.strip() in pairs:
                raise ValueError(self._rule)
            pairs[key.strip()] = _json_or_word(value.strip())
        return self.check(pairs)

    def check(self, value: Any) -> dict[str, Any]:
        """Return `value` as a dict of its own."""
        if not isinstance(value, Mapping) or not all(
            isinstance(key, str) and key.isidentifier() for key in value
        ):
            raise ValueError(self._rule)
        try:
            own = json.loads(json.dumps(dict(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                "values must be finite numbers, words, true, false, null, or lists of these"
            ) from None
        assert isinstance(own, dict)
        return own


def _json_or_word(text: str) -> Any:
    """Read one value; Python's True, False and None are understood as JSON's."""
    text = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _split_outside_brackets(text: str) -> list[str]:
    """Split at commas, but not at those inside [], {} or ()."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return parts
