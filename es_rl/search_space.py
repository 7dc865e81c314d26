"""What `es-rl tune` searches, and how a trial draws from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from es_rl.config import TrainConfig
from es_rl.option_kinds import Real, did_you_mean
from es_rl.options import OPTIONS, ConfigError, check_value, inapplicable, parse_value

if TYPE_CHECKING:
    import optuna

__all__ = ["SEARCH_SPACE", "Dimension", "dimensions_of", "draw", "read_dimension"]


_FLAGS = {"true": True, "false": False}


class Dimension(NamedTuple):
    """One direction of the search space.

    Attributes:
        option: that is searched.
        choices: its values; empty for a range.
        low: lower end of a range, which is searched on a logarithmic scale.
        high: upper end.
        optimizer: the optimiser for which this is the option's range; None for all.
    """

    option: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    optimizer: str | None = None

    @property
    def name(self) -> str:
        """Name of the parameter in the study."""
        return self.option if self.optimizer is None else f"{self.option}.{self.optimizer}"

    def describe(self) -> str:
        """Return the values in words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}, logarithmic"


SEARCH_SPACE: tuple[Dimension, ...] = (
    Dimension("n_pairs", choices=(8, 16, 32, 64)),
    Dimension("unroll_length", choices=(20, 50, 100, 200)),
    Dimension("sigma", low=0.01, high=0.5),
    Dimension("optimizer", choices=("clipup", "sgd")),
    # ClipUp's and Adam's rates are lengths in θ; those of SGD also undo the scale of the reward
    Dimension("learning_rate", low=0.01, high=1.0, optimizer="clipup"),
    Dimension("learning_rate", low=0.001, high=0.3, optimizer="adam"),
    Dimension("learning_rate", low=0.001, high=10.0, optimizer="sgd"),
    Dimension("learning_rate", low=0.0001, high=1.0, optimizer="momentum"),
)
"""What is searched. An option that is fixed, or does not apply to the algorithm, is not; windows
that are longer than the episode are left out."""


def read_dimension(word: str) -> Dimension:
    """Read a direction as the command line writes it.

    Args:
        word: "sigma=0.05:0.5", a range on a logarithmic scale, or "n_pairs=8,16,32", choices;
            choices that hold commas are separated by semicolons.

    Raises:
        ConfigError: if it cannot be read.
    """
    left, equals, text = word.partition("=")
    name = left.strip().replace("-", "_")
    if not equals:
        raise ConfigError(f"--search {word}: write OPTION=LOW:HIGH or OPTION=A,B,C")
    if name not in OPTIONS:
        raise ConfigError(f"--search {word}: no such option{did_you_mean(name, OPTIONS)}")
    if isinstance(OPTIONS[name].kind, Real) and ":" in text:
        low, _, high = text.partition(":")
        dimension = Dimension(name, low=parse_value(name, low), high=parse_value(name, high))
        if not 0 < dimension.low < dimension.high:
            raise ConfigError(f"--search {word}: the ends must be positive, the lower one first")
        return dimension
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    choices = tuple(_FLAGS[p] if p in _FLAGS else parse_value(name, p) for p in parts)
    if len(set(choices)) < len(choices) or len(choices) < 2:
        raise ConfigError(
            f"--search {word}: give at least two different values; --set fixes one for all trials"
        )
    return Dimension(name, tuple(check_value(name, choice) for choice in choices))


def dimensions_of(
    config: TrainConfig, fixed: Collection[str], chosen: Sequence[Dimension] = ()
) -> list[Dimension]:
    """Return the dimensions of a study, those of options that apply and are not fixed.

    Args:
        config: what is not searched, with the horizon filled in.
        fixed: options with a value of their own.
        chosen: dimensions that replace those of `SEARCH_SPACE` for the same options, or add to
            them.

    Raises:
        ConfigError: if none is left, or one was chosen that is fixed or does not apply.
    """
    for dimension in chosen:
        name = dimension.option
        reason = inapplicable(name, config.algo, config.policy)
        if name in fixed:
            reason = "has a fixed value as well; leave out one of the two"
        if [d.option for d in chosen].count(name) > 1:
            reason = "is given twice"
        if reason is not None:
            raise ConfigError(f"--search {name}={dimension.describe()}: {reason}")
    replaced = {dimension.option for dimension in chosen}
    space = [*chosen, *(d for d in SEARCH_SPACE if d.option not in replaced)]
    optimizers: Collection[str] = (config.optimizer,)
    if "optimizer" not in fixed:
        optimizers = next(d for d in space if d.option == "optimizer").choices
    found = []
    # an optimiser is drawn before the ranges that are its own
    for dimension in sorted(space, key=lambda d: d.optimizer is not None):
        name = dimension.option
        if name in fixed or inapplicable(name, config.algo, config.policy) is not None:
            continue
        if dimension.optimizer is not None and dimension.optimizer not in optimizers:
            continue
        if name == "unroll_length":
            assert config.horizon is not None
            longest = max(
                (d.choices for d in chosen if d.option == "horizon"), default=(config.horizon,)
            )
            fitting = tuple(w for w in dimension.choices if w <= max(longest))
            dimension = dimension._replace(choices=fitting or (config.horizon,))
        found.append(dimension)
    if not found:
        raise ConfigError("--set: fixes every option of the search space; leave one out")
    return found


def draw(
    trial: optuna.Trial, dimensions: Sequence[Dimension], optimizer: str | None
) -> dict[str, Any]:
    """Return a trial's settings, by option.

    Args:
        trial: that suggests them.
        dimensions: of the study.
        optimizer: the one that is fixed; None if it is drawn.
    """
    settings: dict[str, Any] = {}
    for d in dimensions:
        if d.optimizer not in (None, settings.get("optimizer", optimizer)):
            continue
        if d.choices:
            settings[d.option] = trial.suggest_categorical(d.name, d.choices)
        else:
            # three digits are all that such a search can tell apart
            value = trial.suggest_float(d.name, d.low, d.high, log=True)
            settings[d.option] = float(f"{value:.3g}")
    return settings
