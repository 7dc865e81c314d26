"""Which figures there are: every module of this folder that defines FIGURES is asked for them."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import reproductions
from reproductions.report import Report

__all__ = ["Figure", "Seeds", "choose", "find_figures"]


class Seeds(NamedTuple):
    """How many seeds a figure takes at each size."""

    quick: int
    default: int
    full: int


class Figure(NamedTuple):
    """One figure or table of the papers.

    Attributes:
        name: what the command line calls it, lower case with hyphens.
        title: what it shows, and where in the papers, in one line.
        make: computes, draws and judges it.
        seeds: of the runs that are reported.
    """

    name: str
    title: str
    make: Callable[[Report], None]
    seeds: Seeds


def find_figures() -> dict[str, Figure]:
    """Return all figures by name, in alphabetical order.

    Raises:
        ValueError: if two figures have one name.
    """
    figures: dict[str, Figure] = {}
    for found in pkgutil.iter_modules(reproductions.__path__):
        module = importlib.import_module(f"reproductions.{found.name}")
        for figure in getattr(module, "FIGURES", ()):
            if figure.name in figures:
                raise ValueError(f"two figures are called {figure.name!r}")
            figures[figure.name] = figure
    return dict(sorted(figures.items()))


def choose(names: Sequence[str], figures: dict[str, Figure]) -> list[Figure]:
    """Return the figures called `names`; "all" is all of them.

    Raises:
        ValueError: names the figure that there is not, and what there is.
    """
    for name in names:
        if name != "all" and name not in figures:
            near = difflib.get_close_matches(name, figures, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(figures)}, all"
            raise ValueError(f"FIGURE {name}: there is no such figure; {hint}")
    return [f for name, f in figures.items() if name in names or "all" in names]
