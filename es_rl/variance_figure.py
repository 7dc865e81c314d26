"""Total variances as a picture: over the noise period, over the window, or side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from es_rl.plotting import COLOURS, DPI
from es_rl.variance_interval import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

__all__ = ["Line", "draw_variances"]


class Line(NamedTuple):
    """Variances to join.

    Attributes:
        label: for the legend.
        x: where each stands; empty for a single level that holds for every x.
        variances: one for each x, or one in all.
        closed: exact variances likewise; empty where there are none.
        names: a word to write at each point; empty for none.
    """

    label: str
    x: Sequence[float]
    variances: Sequence[Interval]
    closed: Sequence[float] = ()
    names: Sequence[str] = ()


def draw_variances(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str,
    caption: str,
    categories: Sequence[str] = (),
) -> Figure:
    """Draw variances with their intervals, and closed forms as lines, on logarithmic axes.

    Args:
        lines: what to draw.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        title: of the picture.
        caption: over the legend.
        categories: names for x = 0, 1, … instead of a logarithmic axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(lines):
        _draw_line(axes, line, COLOURS[i % len(COLOURS)])
    positive = all(v.low > 0 for line in lines for v in line.variances)
    if positive:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(_sparse_minor_labels(axes))
    else:
        axes.set_ylim(bottom=0.0)
    if categories:
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.5, len(categories) - 0.5)
    else:
        _label_places(axes, lines)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, fontsize="medium")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(figure, axes, lines, caption, needed=not categories)
    return figure


def _add_legend(
    figure: Figure, axes: Axes, lines: Sequence[Line], caption: str, *, needed: bool
) -> None:
    """Put the legend below; where the axis names everything, the caption and closed forms alone."""
    from matplotlib.lines import Line2D

    drawn, names = axes.get_legend_handles_labels()
    found = dict(zip(names, drawn, strict=True))
    handles = [(label, found[label]) for label in (line.label for line in lines)] if needed else []
    if any(line.closed for line in lines):
        grey = Line2D([], [], color="0.3", linestyle="--", linewidth=1.2)
        handles.append(("closed form", grey))
    widest = max((len(label) for label, _ in handles), default=0) * 0.09 + 0.7
    figure.legend(
        [handle for _, handle in handles], [label for label, _ in handles],
        loc="outside lower center", frameon=False, title=caption, title_fontsize="small",
        ncols=max(1, min(len(handles), int(6.4 / widest))),
    )  # fmt: skip


def _draw_line(axes: Axes, line: Line, colour: str) -> None:
    values = [v.value for v in line.variances]
    if not line.x:
        level = line.variances[0]
        axes.axhline(level.value, color=colour, linewidth=1.4, label=line.label)
        if math.isfinite(level.high):
            axes.axhspan(level.low, level.high, color=colour, alpha=0.18, linewidth=0)
        if line.closed:
            axes.axhline(line.closed[0], color=colour, linewidth=1, linestyle="--")
        return
    # an interval without an upper end is drawn as an arrow
    endless = [not math.isfinite(v.high) for v in line.variances]
    above = [
        v.value if e else v.high - v.value for v, e in zip(line.variances, endless, strict=True)
    ]
    below = [v.value - v.low for v in line.variances]
    join = "-" if len(line.x) > 1 and not line.closed else ""
    axes.errorbar(
        line.x, values, yerr=[below, above], lolims=endless, color=colour, linestyle=join,
        marker="o", markersize=4, capsize=3, linewidth=1.4, label=line.label,
    )  # fmt: skip
    if line.closed:
        marker = "_" if len(line.x) == 1 else None
        axes.plot(
            line.x, line.closed, "--", color=colour, linewidth=1.2, marker=marker, markersize=22,
        )  # fmt: skip
    for x, value, name in zip(line.x, values, line.names, strict=False):
        axes.annotate(
            name, (x, value), xytext=(6, 6), textcoords="offset points", fontsize="small",
            color="0.25",
        )  # fmt: skip


def _sparse_minor_labels(axes: Axes) -> Formatter:
    """Return labels at 2 and 5 between the powers of ten where there are few of these."""
    from matplotlib.ticker import LogFormatterSciNotation

    return LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(2, 0.4))


def _label_places(axes: Axes, lines: Sequence[Line]) -> None:
    """Put a logarithmic axis's ticks where something was measured."""
    from matplotlib.ticker import NullFormatter, NullLocator

    places = sorted({x for line in lines for x in line.x})
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    shown = [places[0]] if places else []
    for place in places[1:]:
        if place / shown[-1] >= 1.25:  # nearer ones would be written over one another
            shown.append(place)
    axes.set_xticks(shown, [f"{place:,g}" for place in shown])
