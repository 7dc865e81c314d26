"""How the figures look: one colour for each method, means with bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reproductions.statistics import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["COLOURS", "STYLES", "legend_below", "new_picture", "plot_band", "tidy"]

COLOURS = {
    "NRES": "#0072B2", "PES": "#D55E00", "GPES": "#56B4E9", "TES": "#009E73", "FullES": "#CC79A7",
    "BPTT": "#000000", "TBPTT": "#E69F00", "RTRL": "#7F7F7F", "UORO": "#8C6D31",
    "DODGE": "#5E3C99",
}  # fmt: skip
"""Of each method; the first are Okabe and Ito's, which colour-blind readers can tell apart."""

STYLES = {"BPTT": "--", "TBPTT": "--", "RTRL": ":", "UORO": "--", "DODGE": "--"}
"""Of the methods that differentiate; those that do not are drawn in solid lines."""

_DPI = 130


def new_picture(
    n_rows: int = 1, n_columns: int = 1, *, width: float = 4.6, height: float = 3.5
) -> tuple[Picture, Any]:
    """Return (picture, axes) with `axes` an object array (n_rows, n_columns); sizes in inches."""
    from matplotlib.figure import Figure as NewPicture

    picture = NewPicture(
        figsize=(width * n_columns, 0.6 + height * n_rows), dpi=_DPI, layout="constrained"
    )
    return picture, picture.subplots(n_rows, n_columns, squeeze=False)


def plot_band(
    axes: Axes, x: NDArray[np.float64], band: Band, method: str, *, label: str | None = None
) -> None:
    """Draw a mean and, where there is one, its interval, in the method's colour."""
    colour = COLOURS[method]
    axes.plot(x, band.mean, STYLES.get(method, "-"), color=colour, label=label or method, lw=1.6)
    if np.isfinite(band.low).any():
        axes.fill_between(x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)


def tidy(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label axes and take away what is not needed."""
    axes.set(xlabel=x, ylabel=y)
    if title:
        axes.set_title(title, fontsize="medium")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(picture: Picture, caption: str, *, columns: int = 5) -> None:
    """Put one legend for all axes below the picture, with `caption` over it."""
    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    picture.legend(
        list(handles.values()), list(handles), loc="outside lower center", frameon=False,
        ncols=min(columns, max(1, len(handles))), title=caption, title_fontsize="small",
    )  # fmt: skip
