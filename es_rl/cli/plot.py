"""`es-rl plot`: learning curves of runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from es_rl.cli.completion import complete_list
from es_rl.cli.extras import need_extra
from es_rl.cli.policy_source import read
from es_rl.option_kinds import Choice, Real
from es_rl.options import ConfigError

if TYPE_CHECKING:
    from es_rl.curves import Group

__all__ = ["plot", "read_axes", "read_confidence", "read_thresholds", "thresholds_of"]

_AXES = ("total", "sequential", "time")


def plot(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS...",
            help="Folders of runs, or folders that hold them; LABEL=FOLDER names a curve.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help="Picture: .png, .svg or .pdf."),
    ] = "curves.png",
    x: Annotated[
        str,
        typer.Option(
            "-x",
            metavar="total|sequential|time",
            help="What to draw over; several, joined by commas, stand side by side.",
            autocompletion=complete_list(_AXES),
        ),
    ] = "total",
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD|none",
            help="Draw a line at this reward, may be repeated; default: the environment's own "
            "threshold in Gymnasium's registry, if it has one.",
        ),
    ] = None,
    confidence: Annotated[
        str, typer.Option(metavar="NUMBER", help="Level of the bootstrap intervals.")
    ] = "0.95",
    each_run: Annotated[
        bool,
        typer.Option(
            "--each-run", help="Draw every run too, thinly, also where the others have ended."
        ),
    ] = False,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic horizontal axis.")] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title.")] = None,
) -> None:
    """Plot the evaluations of runs: mean and confidence interval over seeds.

    Runs that differ in nothing but their seeds make one curve. Runs of several algorithms, or
    with different options, make several; several environments stand below one another.
    """
    axes = read_axes(x)
    level = read_confidence(confidence)
    given = read_thresholds(threshold)
    need_extra("plot", "plot")

    from es_rl.curves import find_runs, group, read_curve
    from es_rl.plotting import check_picture_name, draw, make_panels, save_figure

    check_picture_name("-o", output)
    curves, labels = [], []
    for word in runs:
        label, path = _split_label(word)
        for folder in find_runs(path):
            curves.append(read_curve(folder))
            labels.append(label)
    groups, notes = group(curves, labels)
    panels, more_notes = make_panels(groups, axes, thresholds_of(groups, given), level, each_run)
    for note in [*notes, *more_notes]:
        print(f"note: {note}", file=sys.stderr)
    if not any(panel.bands for panel in panels):
        raise ConfigError("RUNS: none of the runs can be drawn; see the notes")
    save_figure(draw(panels, confidence=level, log_x=log_x, title=title), output)
    print(output)


def read_axes(text: str) -> list[str]:
    """Return the axes that -x lists.

    Raises:
        ConfigError: if there is no such axis.
    """
    return list(dict.fromkeys(read("-x", Choice(_AXES), word.strip()) for word in text.split(",")))


def read_confidence(text: str) -> float:
    """Return the level of the intervals.

    Raises:
        ConfigError: if it is not between 0 and 1.
    """
    level: float = read("--confidence", Real(above=0), text)
    if level >= 1:
        raise ConfigError(f"--confidence {text}: must lie between 0 and 1, such as 0.95")
    return level


def read_thresholds(words: list[str] | None) -> tuple[float, ...] | None:
    """Return the rewards to draw lines at; None if the registry shall say.

    Raises:
        ConfigError: if one is no number.
    """
    if not words:
        return None
    if words == ["none"]:
        return ()
    return tuple(dict.fromkeys(read("--threshold", Real(), word) for word in words))


def thresholds_of(
    groups: list[Group], given: tuple[float, ...] | None
) -> dict[str, tuple[float, ...]]:
    """Return the rewards to draw lines at, by environment."""
    envs = list(dict.fromkeys(g.env for g in groups))
    if given is not None:
        return dict.fromkeys(envs, given)
    import gymnasium as gym

    found: dict[str, tuple[float, ...]] = {}
    for env in envs:
        spec = gym.registry.get(env)
        if spec is not None and spec.reward_threshold is not None:
            found[env] = (float(spec.reward_threshold),)
    return found


def _split_label(word: str) -> tuple[str | None, str]:
    label, equals, path = word.partition("=")
    if not equals or os.path.exists(word):
        return None, word
    if not label or not path:
        raise ConfigError(f"RUNS {word}: write LABEL=FOLDER, or a folder alone")
    return label, path
