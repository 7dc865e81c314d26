"""Pictures of learning curves: what is drawn, and that it can be opened."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_runs import make_run
from matplotlib.collections import PolyCollection
from PIL import Image

from es_rl.curves import group, read_curve
from es_rl.options import ConfigError
from es_rl.plotting import check_picture_name, draw, make_panels, save_figure


@pytest.fixture
def panels(tmp_path: Path) -> list:  # type: ignore[type-arg]
    curves = []
    for algo, scale in (("nres", 1.0), ("pes", 2.0)):
        for seed in range(3):
            rewards = [scale * (seed + 1), scale * 10]
            path = make_run(tmp_path / f"{algo}{seed}", rewards, [1000, 3000], algo=algo, seed=seed)
            curves.append(read_curve(path))
    curves.append(read_curve(make_run(tmp_path / "x", [7.0], [500], env="Hopper-v5")))
    groups, _ = group(curves)
    found, notes = make_panels(groups, ["total", "sequential"], {"Swimmer-v4": [360.0, 5.0]})
    assert notes == []
    return found


def test_means_intervals_and_thresholds_are_drawn(panels: list) -> None:  # type: ignore[type-arg]
    figure = draw(panels, title="A title")
    assert [axes.get_title() for axes in figure.axes] == ["Swimmer-v4"] * 2 + ["Hopper-v5"] * 2
    total, sequential = figure.axes[:2]
    assert total.get_xlabel() == "environment steps in training"
    assert sequential.get_xlabel() == "sequential steps"
    for axes, x in ((total, [1000, 3000]), (sequential, [100, 300])):
        curves = {line.get_label(): line for line in axes.lines}
        for name, scale in (("nres", 1.0), ("pes", 2.0)):
            assert np.asarray(curves[name].get_xdata()).tolist() == x
            assert np.asarray(curves[name].get_ydata()).tolist() == [2 * scale, 10 * scale]
        levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert levels == [360.0, 5.0]
        told = {"threshold 360", "threshold 5"} if axes is sequential else set()
        assert {text.get_text() for text in axes.texts} == told
        bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
        assert len(bands) == 2
        for band, scale in zip(bands, (1.0, 2.0), strict=True):
            heights = band.get_paths()[0].vertices[:, 1]
            # at the first point the three seeds lie at 1, 2 and 3 scales; at the last they agree
            assert heights.min() == scale * 1.0
            assert scale * 2.5 < np.sort(heights[heights < 10 * scale])[-1] <= scale * 3.0
            assert heights.max() == scale * 10
    assert len([c for c in figure.axes[2].collections if isinstance(c, PolyCollection)]) == 0
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["nres", "pes"]
    assert legend.get_title().get_text() == "mean of 1 to 3 seeds, 95 % bootstrap interval"


def test_each_run_is_drawn_to_its_own_end(tmp_path: Path) -> None:
    ends = {0: 2000, 1: 9000, 2: 3000}
    curves = [
        read_curve(make_run(tmp_path / f"{seed}", [1.0, seed], [1000, end], seed=seed))
        for seed, end in ends.items()
    ]
    curves.append(read_curve(make_run(tmp_path / "x", [7.0, 8.0], [500, 900], env="Hopper-v5")))
    groups, _ = group(curves)
    plain, _ = make_panels(groups, ["total"], {})
    (axes, alone) = draw(plain).axes
    assert [len(a.lines) for a in (axes, alone)] == [1, 1]
    assert axes.get_xlim()[1] < 9000
    panels, _ = make_panels(groups, ["total"], {}, each_run=True)
    figure = draw(panels)
    axes, alone = figure.axes
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    drawn = [np.asarray(line.get_xydata()).tolist() for line in thin]
    assert drawn == [[[1000, 1.0], [end, seed]] for seed, end in ends.items()]
    assert axes.get_xlim()[1] > 9000
    assert len(alone.lines) == 1  # a single run is its own mean
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 1
    assert legend.get_title().get_text().endswith("interval; thin: each run")


@pytest.mark.parametrize("extension", ["png", "svg", "pdf"])
def test_pictures_can_be_opened(panels: list, tmp_path: Path, extension: str) -> None:  # type: ignore[type-arg]
    path = tmp_path / f"picture.{extension}"
    check_picture_name("-o", str(path))
    save_figure(draw(panels), str(path))
    if extension == "png":
        with Image.open(path) as image:
            assert image.size[0] > 1000
            colours = {colour for _, colour in image.convert("RGB").getcolors(2**24) or ()}
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
    elif extension == "svg":
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    else:
        data = path.read_bytes()
        assert data.startswith(b"%PDF-")
        assert data.rstrip().endswith(b"%%EOF")
    first = path.read_bytes()
    with matplotlib.rc_context({"svg.hashsalt": "x"}):
        save_figure(draw(panels), str(path))
    if extension != "svg":  # whose ids are random
        assert path.read_bytes() == first  # no date, so that a picture can be compared


def test_everything_lies_within_the_picture(panels: list) -> None:  # type: ignore[type-arg]
    figure = draw(panels)
    figure.draw_without_rendering()
    whole = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert box.x0 >= whole.x0
        assert box.x1 <= whole.x1
        assert box.y1 <= whole.y1
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.y0 >= whole.y0
    assert all(not box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_a_logarithmic_axis_and_time(tmp_path: Path) -> None:
    curve = read_curve(make_run(tmp_path / "a", [1.0, 2.0], [1_000, 1_200_000]))
    groups, _ = group([curve])
    (total,), _ = make_panels(groups, ["total"], {})
    assert draw([total], log_x=True).axes[0].get_xscale() == "log"
    (time,), _ = make_panels(groups, ["time"], {})
    axes = draw([time]).axes[0]
    assert axes.get_xlabel() == "wall time, min"
    assert axes.xaxis.get_major_formatter()(600, 0) == "10"
    logarithmic = draw([time], log_x=True).axes[0]
    assert logarithmic.get_xlabel() == "wall time, s"
    assert logarithmic.xaxis.get_major_formatter()(100, 0) == "100"
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert len(texts) > 3
    assert all(text.isdecimal() for text in texts)


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"-o a\.bmp: give the file one of .*\.png, \.svg, \.pdf"):
        check_picture_name("-o", "a.bmp")
    with pytest.raises(ConfigError, match="there is no folder"):
        check_picture_name("-o", str(tmp_path / "none" / "a.png"))
