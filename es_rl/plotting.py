"""Learning curves as pictures: a row for each environment, a column for each axis."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from es_rl.curves import Band, Curve, Group, average
from es_rl.files import write_bytes
from es_rl.options import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "DPI",
    "FORMATS",
    "Panel",
    "check_picture_name",
    "draw",
    "make_panels",
    "save_figure",
]

FORMATS = ("png", "svg", "pdf")
"""Kinds of pictures, by the extension of the file."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

DPI = 150
"""Dots per inch of pictures made of dots."""

_STYLES = ("-", "--", ":", "-.")
_X_LABELS = {"total": "environment steps in training", "sequential": "sequential steps"}
_FEW_LABELS = 6  # intervals of more lie over one another, and are drawn fainter
_MARKED_POINTS = 30  # curves of at most so many points show where they were evaluated
_DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        env: environment.
        axis: key of `es_rl.curves.AXES`.
        bands: by the label of a group, its mean and interval.
        thresholds: rewards to draw lines at.
        runs: by the label of a group, its single runs where they are drawn too.
    """

    env: str
    axis: str
    bands: dict[str, Band]
    thresholds: tuple[float, ...]
    runs: dict[str, Sequence[Curve]]

    @property
    def end(self) -> float:
        """Where the last curve ends."""
        ends = [float(band.x[-1]) for band in self.bands.values()]
        ends += [float(run.x[self.axis][-1]) for runs in self.runs.values() for run in runs]
        return max(ends, default=1.0)


def check_picture_name(option: str, path: str) -> None:
    """Refuse a picture of a format that cannot be written.

    Raises:
        ConfigError: names the formats.
    """
    extension = os.path.splitext(path)[1].lower().lstrip(".")
    if extension not in FORMATS:
        names = ", ".join("." + name for name in FORMATS)
        raise ConfigError(f"{option} {path}: give the file one of the extensions {names}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ConfigError(f"{option} {path}: there is no folder {folder}")


def make_panels(
    groups: Sequence[Group],
    axes: Sequence[str],
    thresholds: Mapping[str, Sequence[float]],
    confidence: float = 0.95,
    each_run: bool = False,
) -> tuple[list[Panel], list[str]]:
    """Average every group on every axis.

    Args:
        groups: as `es_rl.curves.group` makes them.
        axes: keys of `es_rl.curves.AXES`.
        thresholds: rewards to draw lines at, by environment.
        confidence: level of the intervals.
        each_run: whether the runs of groups of several are drawn too, also beyond what they have
            in common.

    Returns:
        The panels, environment by environment, and a note for each group that could not be
        averaged because its runs have no stretch in common.
    """
    panels, notes = [], []
    for env in dict.fromkeys(g.env for g in groups):
        for axis in axes:
            bands: dict[str, Band] = {}
            runs: dict[str, Sequence[Curve]] = {}
            for g in groups:
                if g.env != env:
                    continue
                band = average(g.curves, axis, confidence)
                if band is None:
                    notes.append(
                        f"{g.label} on {env}: its runs were evaluated over stretches that do not "
                        f"overlap (-x {axis}): not drawn"
                    )
                else:
                    bands[g.label] = band
                    if each_run and band.n_runs > 1:
                        runs[g.label] = g.curves
            panels.append(Panel(env, axis, bands, tuple(thresholds.get(env, ())), runs))
    return panels, notes


def draw(
    panels: Sequence[Panel],
    *,
    confidence: float = 0.95,
    log_x: bool = False,
    title: str | None = None,
) -> Figure:
    """Draw panels.

    Args:
        panels: from `make_panels`.
        confidence: level of the intervals, for the caption.
        log_x: whether the horizontal axes are logarithmic.
        title: of the picture; None for none but each panel's environment.
    """
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(panel.env for panel in panels))
    axes = list(dict.fromkeys(panel.axis for panel in panels))
    width = 6.4 if len(axes) == 1 else 4.6 * len(axes)
    figure = Figure(figsize=(width, 0.7 + 3.5 * len(envs)), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(envs), len(axes), squeeze=False, sharey="row")
    labels = list(dict.fromkeys(label for panel in panels for label in panel.bands))
    for panel in panels:
        row, column = envs.index(panel.env), axes.index(panel.axis)
        _draw_panel(
            grid[row, column], panel, labels, log_x=log_x, is_first=column == 0,
            is_last=column == len(axes) - 1,
        )  # fmt: skip
    if title is not None:
        figure.suptitle(title)
    handles: dict[str, Any] = {}
    for axes_object in grid.flat:
        for handle, label in zip(*axes_object.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", frameon=False,
            ncols=_legend_columns(list(handles), width),
            title=_caption(panels, confidence), title_fontsize="small",
        )  # fmt: skip
    return figure


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many labels fit beside one another, at 0.08 inches a letter."""
    widest = max(len(label) for label in labels) * 0.08 + 0.7
    return max(1, min(len(labels), int(width / widest)))


def _caption(panels: Sequence[Panel], confidence: float) -> str:
    counts = sorted({band.n_runs for panel in panels for band in panel.bands.values()})
    if counts[-1] == 1:
        return "one run each"
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    thin = "; thin: each run" if any(panel.runs for panel in panels) else ""
    return f"mean of {seeds} seeds, {100 * confidence:g} % bootstrap interval{thin}"


def _draw_panel(
    axes: Axes,
    panel: Panel,
    labels: Sequence[str],
    *,
    log_x: bool,
    is_first: bool,
    is_last: bool,
) -> None:
    for label, band in panel.bands.items():
        i = labels.index(label)
        colour = COLOURS[i % len(COLOURS)]
        style = _STYLES[i // len(COLOURS) % len(_STYLES)]
        marker = "o" if band.x.size <= _MARKED_POINTS else None
        axes.plot(
            band.x, band.mean, color=colour, linestyle=style, marker=marker, markersize=3.5,
            label=label, linewidth=1.6,
        )  # fmt: skip
        for run in panel.runs.get(label, ()):
            axes.plot(
                run.x[panel.axis], run.reward, color=colour, linestyle=style, linewidth=0.7,
                alpha=0.6,
            )  # fmt: skip
        if band.n_runs > 1:
            axes.fill_between(
                band.x, band.low, band.high, color=colour, linewidth=0,
                alpha=0.18 if len(labels) <= _FEW_LABELS else 0.08,
            )  # fmt: skip
    for threshold in panel.thresholds:
        axes.axhline(threshold, color="0.35", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if is_last:  # beside the axes, where no curve is
            axes.annotate(
                f"threshold {threshold:g}", (1, threshold), xycoords=axes.get_yaxis_transform(),
                xytext=(3, 0), textcoords="offset points", ha="left", va="center",
                color="0.35", fontsize="small", annotation_clip=False,
            )  # fmt: skip
    axes.set_title(panel.env, fontsize="medium")
    if is_first:
        axes.set_ylabel("mean reward of evaluation")
    _label_x(axes, panel, log_x)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_x(axes: Axes, panel: Panel, log_x: bool) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator

    last = panel.end
    first = min((float(band.x[0]) for band in panel.bands.values()), default=0.0)
    if log_x and first > 0:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0, right=last * 1.02 or 1.0)
    if panel.axis == "time":
        # ticks of a logarithmic axis are powers of ten, of seconds
        is_linear = axes.get_xscale() == "linear"
        unit, seconds = (
            ("s", 1) if last < 300 or not is_linear
            else ("min", 60) if last < 18_000
            else ("h", 3600)
        )  # fmt: skip
        axes.set_xlabel(f"wall time, {unit}")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / seconds:g}"))
        if is_linear:  # round numbers of the unit, not of seconds
            ticks = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, last / seconds)
            axes.xaxis.set_major_locator(FixedLocator([seconds * float(tick) for tick in ticks]))
        return
    axes.set_xlabel(_X_LABELS[panel.axis])
    axes.xaxis.set_major_formatter(EngFormatter(sep="" if last < 1e9 else " "))


def save_figure(figure: Figure, path: str) -> None:
    """Write a figure, whole or not at all, in the format of the file's extension.

    Raises:
        ConfigError: if the file cannot be written.
    """
    extension = os.path.splitext(path)[1].lower().lstrip(".")
    buffer = io.BytesIO()
    metadata: dict[str, Any] = dict(_DATES[extension])
    figure.savefig(buffer, format=extension, metadata=metadata)
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
