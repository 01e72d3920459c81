"""Grids and curves: what is drawn is what the result holds, and what is missing is marked."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from layerlens.errors import ResultError
from layerlens.figures import draw
from layerlens.figures.grid import short_number
from layerlens.figures.images import image_bytes
from layerlens.figures.palette import ink_on, palette

pytestmark = pytest.mark.filterwarnings("error")

CLEAN = ["The", " $x$", " of", " France", " is"]
CORRUPT = ["The", " $x$", " of", " Italy", " is"]


def sweep(n_layers: int = 6, **attrs: Any) -> xr.Dataset:
    """Return a sweep whose cell (l, t) recovered l / 5 - t / 4; one cell is missing."""
    recovered = (np.arange(n_layers)[:, None] / 5 - np.arange(5) / 4).astype(np.float32)
    recovered[2, 1] = np.nan
    recovered[5, 0] = 1.2
    cell = ("layer", "position")
    return xr.Dataset(
        {
            "metric": (cell, 4 * recovered, {"units": "logit", "long_name": "metric"}),
            "recovered": (cell, recovered, {"units": "1", "long_name": "recovered fraction"}),
        },
        coords={
            "layer": np.arange(n_layers),
            "position": np.arange(5),
            "token": ("position", CORRUPT),
        },
        attrs={
            "view": "patch",
            "model": "hand-made",
            "site": "resid_pre",
            "direction": "clean activations into the corrupted run",
            "metric_words": "logit of ' a' minus logit of ' b'",
            "clean_tokens": json.dumps(CLEAN),
            "corrupt_tokens": json.dumps(CORRUPT),
            **attrs,
        },
    )


def texts(figure: Figure, kind: str) -> list[str]:
    found = figure.findobj(lambda artist: artist.get_gid() == kind)
    return [artist.get_text() for artist in found]


def marks(figure: Figure, kind: str) -> list[Any]:
    return figure.findobj(lambda artist: artist.get_gid() == kind)


def test_every_cell_is_there_with_layer_0_at_the_bottom() -> None:
    data = sweep()
    figure = draw("patch", data)
    axes = figure.axes[0]
    mesh = axes.collections[0]
    assert np.allclose(mesh.get_array(), data["recovered"], equal_nan=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == list("012345")
    assert axes.get_ylim() == (0, 6)
    figure.canvas.draw()
    colors = mesh.get_facecolor().reshape(6, 5, 4)
    assert np.allclose(colors[5, 0, :3], to_rgb(palette("light").base), atol=0.01)  # above 1
    assert np.allclose(colors[0, 4, :3], to_rgb(palette("light").negative), atol=0.01)  # -1
    assert np.allclose(colors[0, 0, :3], (1, 1, 1), atol=0.01)  # 0 is the page
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-1, 1)
    assert "1.20" in texts(figure, "cell")
    assert len(texts(figure, "cell")) == 29


def test_missing_cells_are_hatched_and_those_beyond_are_marked() -> None:
    figure = draw("patch", sweep())
    (hatched,) = marks(figure, "missing")
    assert hatched.get_xy() == (1, 2)
    assert hatched.get_hatch()
    (past,) = marks(figure, "past")
    assert np.allclose(past.get_xydata(), [[0.94, 5.85]])
    notes = " ".join(texts(figure, "note"))
    assert "1 cell lies above 1" in notes
    assert "1 cell has no value" in notes


def test_small_values_of_the_other_sign_are_marked_where_they_have_no_colour() -> None:
    data = sweep()[["recovered"]] * 0 - 1
    data["recovered"][2, 3] = 0.06
    data["recovered"][4, 1] = 0.004  # as good as 0
    figure = draw("grid", data)
    mesh = figure.axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-1, 0)
    (past,) = marks(figure, "past")
    assert np.allclose(past.get_xydata(), [[3.94, 2.85]])
    assert past.get_marker() == "^"
    assert past.get_color() == ink_on((1, 1, 1), palette("light"))  # on the page
    assert "1 cell lies above 0" in " ".join(texts(figure, "note"))


def test_the_title_states_direction_and_metric_and_both_prompts_are_there() -> None:
    figure = draw("patch", sweep())
    above = " ".join(texts(figure, "title") + texts(figure, "subtitle"))
    for words in ("Recovered fraction", "resid_pre", "clean activations into the corrupted run",
                  "logit of ' a' minus", "hand-made"):  # fmt: skip
        assert words in above
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[3] == "␣France\n␣Italy"
    assert labels[1] == "␣$x$\n␣$x$"
    many = draw("grid", sweep().isel(position=[0, 1, 2, 3, 4] * 16).drop_vars("position"))
    assert "␣Italy" in [label.get_text() for label in many.axes[0].get_xticklabels()]
    image_bytes(many)


def test_a_metric_that_tells_nothing_is_drawn_as_it_is() -> None:
    data = sweep()
    data["recovered"] = data["recovered"] * np.nan
    figure = draw("patch", data)
    assert "Metric" in texts(figure, "title")[0]
    assert figure.axes[0].collections[0].norm.vmax == pytest.approx(4.8)


def test_more_axes_are_cut_where_it_is_strongest_or_where_asked() -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 2, 3] = -7
    data = xr.Dataset(
        {"effect": (("position", "layer", "head"), values, {"units": "logit"})},
        coords={"position": [10, 11, 12], "token": ("position", ["a", "b", "c"])},
    )
    figure = draw("grid", data)
    assert np.array_equal(figure.axes[0].collections[0].get_array(), values[1])
    assert "drawn at position b (the strongest)" in " ".join(texts(figure, "note"))
    assert figure.axes[0].get_xlabel() == "head"
    asked = draw("grid", data, at={"position": 12})
    assert np.array_equal(asked.axes[0].collections[0].get_array(), values[2])
    swapped = draw("grid", data.transpose("position", "head", "layer"))
    assert np.array_equal(swapped.axes[0].collections[0].get_array(), values[1])


def test_the_mean_over_pairs_comes_first() -> None:
    data = sweep().assign(recovered_mean=(("layer", "position"), np.full((6, 5), 0.5)))
    figure = draw("patch", data)
    assert np.allclose(figure.axes[0].collections[0].get_array(), 0.5)
    one = draw("patch", data, variable="recovered")
    assert np.allclose(one.axes[0].collections[0].get_array(), data["recovered"], equal_nan=True)


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        ("patch", {"variable": "nothing"}, "choose one of metric, recovered"),
        ("patch", {"at": {"head": 3}}, "'head'"),
        ("patch", {"limit": -1}, "above 0"),
        ("patch", {"theme": "pink"}, "no theme"),
        ("curves", {"scale": "cubic"}, "no scale"),
        ("curves", {"variables": []}, "empty"),
        ("curves", {"at": {"position": 77}}, "There is no position 77"),
    ],
)
def test_wrong_options(view: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        draw(view, sweep(), **options)


@pytest.mark.parametrize("view", ["grid", "curves"])
def test_nothing_to_draw_is_said(view: str) -> None:
    data = xr.Dataset({"name": ("layer", ["a", "b"])})
    with pytest.raises(ResultError, match="no variable of numbers"):
        draw(view, data)


def test_short_numbers() -> None:
    values = [0.001, -0.5, 1.0, 12.34, -123.4, 1e6]
    assert [short_number(value) for value in values] == [
        "0", "−0.50", "1.00", "12.3", "−123", "1e+06",
    ]  # fmt: skip


def test_the_chosen_cell_and_the_listed_ones_are_marked() -> None:
    figure = draw("patch", sweep(), selected=(2, 1), listed={1: (2, 1), 4: (5, 3)})
    patches = figure.axes[0].patches
    chosen = {(p.get_x(), p.get_y()) for p in patches if p.get_gid() == "selected"}
    assert chosen == {(1, 2)}
    numbers = [t for t in figure.axes[0].texts if t.get_gid() == "listed"]
    found = {t.get_text(): tuple(np.floor(t.get_position()).astype(int)) for t in numbers}
    assert found == {"1": (1, 2), "4": (3, 5)}


def test_doses_lie_where_their_numbers_are() -> None:
    values = np.arange(7.0)

    def curve(doses: list[float]) -> Any:
        data = xr.Dataset({"effect": ("dose", values)}, {"dose": doses})
        return draw("curves", data).axes[0]

    axes = curve([-8.0, -4.0, -1.0, 0.0, 1.0, 4.0, 8.0])
    assert axes.lines[0].get_xdata().tolist() == [-8, -4, -1, 0, 1, 4, 8]
    assert axes.get_xticks().tolist() == [-8, -4, -1, 0, 1, 4, 8]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "-8",
        "-4",
        "-1",
        "0",
        "1",
        "4",
        "8",
    ]
    decades = curve([-10.0, 0.0, 0.1, 10.0, 1e3, 1e4, 1e5]).lines[0].get_xdata()
    assert np.allclose(decades[:4], [-np.log1p(100), 0, np.log(2), np.log1p(100)])
    for even in ([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [3, 1, 4, 1.5, 9, 2, 6]):  # in their order
        assert curve(even).lines[0].get_xdata().tolist() == list(range(7))


def test_curves_have_lines_bands_and_dashes() -> None:
    layer = np.arange(8)
    data = xr.Dataset(
        {
            "kl": ("layer", layer / 2, {"units": "nats", "long_name": "KL"}),
            "kl_low": ("layer", layer / 2 - 0.1),
            "kl_high": ("layer", layer / 2 + 0.1),
            "other": ("layer", -layer / 4, {"units": "nats"}),
            "rank": ("layer", layer, {"units": "1"}),
        },
        coords={"layer": layer},
        attrs={"model": "hand-made"},
    )
    figure = draw("curves", data, variables=["kl", "other"])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 8]
    assert [line.get_label() for line in lines] == ["KL", "other"]
    assert texts(figure, "title") == ["KL and other"]
    assert np.allclose(lines[0].get_ydata(), layer / 2)
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    (band,) = figure.axes[0].collections
    points = band.get_paths()[0].vertices
    assert points[:, 1].min() == pytest.approx(-0.1)
    assert points[:, 1].max() == pytest.approx(3.6)
    assert figure.axes[0].get_ylabel() == "nats"
    first = draw("curves", data)
    assert first.axes[0].get_ylabel() == "KL (nats)" and texts(first, "title") == ["KL"]
    with pytest.raises(ResultError, match="kl, rank have no common unit"):
        draw("curves", data, variables=["kl", "rank"])
    alone = draw("curves", data, variables="rank", title="mine", theme="dark")
    assert len(alone.axes[0].lines) == 1
    assert texts(alone, "title") == ["mine"]


def test_a_title_that_is_wider_than_the_figure_has_lines() -> None:
    words = "share of the examples that are told right of texts that nobody has seen before"
    figure = draw("curves", sweep(), variables="metric", title=words)
    lines = figure.findobj(lambda one: one.get_gid() == "title")
    assert " ".join(one.get_text() for one in lines) == words and len(lines) > 1
    figure.canvas.draw()
    boxes = [one.get_window_extent() for one in lines]
    assert all(box.x1 < figure.bbox.x1 for box in boxes)
    assert all(above.y0 > below.y0 for above, below in pairwise(boxes))
    assert boxes[-1].y0 > figure.axes[0].get_window_extent().y1


def test_curves_of_a_grid_are_a_line_an_entry() -> None:
    figure = draw("curves", sweep(), variables="metric")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 6]
    assert [line.get_label() for line in lines][3] == " Italy"
    assert figure.axes[0].get_legend().get_title().get_text() == "position"
    assert np.allclose(lines[2].get_ydata(), sweep()["metric"][:, 2], equal_nan=True)


def test_all_names_of_many_lines_have_room() -> None:
    parts = [f"a rather long name of a part that has the number {i}" for i in range(12)]
    data = xr.Dataset({"accuracy": (("layer", "part"), np.ones((4, 12)))}, coords={"part": parts})
    figure = draw("curves", data)
    figure.canvas.draw()
    names = figure.axes[0].get_legend()
    assert len(names.get_texts()) == 12
    assert names.get_window_extent().y0 >= 0
    assert figure.axes[0].get_window_extent().y0 <= names.get_window_extent().y0


def test_no_half_of_a_colour_bar_is_empty() -> None:
    data = sweep().isel(layer=[1, 2, 3])
    for sign, ends in ((1, (0, 1)), (-1, (-1, 0))):
        one = data.assign(recovered=sign * np.abs(data["recovered"]))
        norm = draw("patch", one).axes[0].collections[0].norm
        assert (norm.vmin, norm.vmax) == ends
    figure = draw("patch", data.assign(recovered=-np.abs(data["recovered"])))
    figure.canvas.draw()
    cells = figure.axes[0].collections[0].get_facecolor().reshape(3, 5, 4)
    assert np.allclose(cells[0, 4, :3], to_rgb(palette("light").negative), atol=0.25)
    assert figure.axes[1].get_ylabel() == ""  # the title has said it, and there is no unit


def test_a_grid_fits_on_a_page_and_names_both_models() -> None:
    point = ["embed", *(f"{i}_post" for i in range(29))]
    data = xr.Dataset(
        {"similarity": (("point", "point_other"), np.eye(30), {"long_name": "linear CKA"})},
        coords={"point": point, "point_other": point},
        attrs={"model": "mine", "other": "theirs"},
    )
    figure = draw("grid", data)
    axes = figure.axes[0]
    assert figure.get_size_inches()[0] < 9.5 and not texts(figure, "cell")
    assert axes.get_ylabel() == "after layer, mine"
    assert axes.get_xlabel() == "after layer, theirs"
    assert [tick.get_text() for tick in axes.get_xticklabels()][:3] == ["embed", "0", "1"]
    assert texts(figure, "title") == ["Linear CKA"]
    assert texts(figure, "subtitle") == ["mine and theirs"]


def test_rows_and_columns_without_any_value_are_left_out_where_all_is_done() -> None:
    values = np.full((4, 6), np.nan)
    values[2, 5] = 0.5
    array = (("layer", "head"), values, {"long_name": "share"})
    figure = draw("grid", xr.Dataset({"share": array}, attrs={"complete": 1}))
    assert figure.axes[0].collections[0].get_array().shape == (1, 1)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["5"]
    assert "head: the 1 of 6 that have" in " ".join(texts(figure, "note"))
    going_on = draw("grid", xr.Dataset({"share": array}, attrs={"complete": 0}))
    assert going_on.axes[0].collections[0].get_array().shape == (4, 6)


def test_the_same_figure_is_the_same_bytes() -> None:
    first, second = (image_bytes(draw("patch", sweep()), "svg") for _ in range(2))
    assert first == second


def test_what_a_stopped_sweep_only_estimated_is_marked() -> None:
    data = sweep(estimate_pearson=0.875, estimate_cells=28)
    estimate = data["recovered"] * 0 + 0.5
    estimate[2, 1] = -0.25
    estimate[0, 0] = np.nan
    data["recovered"][3, 2] = np.nan
    data["recovered"][0, 0] = np.nan
    data["estimate"] = estimate
    data["estimate"][3, 2] = 0.75
    figure = draw("patch", data)
    places = {(box.get_y(), box.get_x()) for box in marks(figure, "estimate")}
    assert places == {(2, 1), (3, 2)}
    assert all(box.get_hatch() for box in marks(figure, "estimate"))
    assert len(marks(figure, "missing")) == 1  # neither run nor estimated
    shown = texts(figure, "cell")
    assert [text for text in shown if "≈" in text] == ["≈−0.25", "≈0.75"]
    words = " ".join(text.get_text() for text in reversed(figure.texts))  # lines from below
    assert "2 cells are estimates by attribution patching, hatched and pale" in words
    assert "on 28 true cells estimates correlate with the truth at 0.88" in words
    assert not marks(draw("patch", data, variable="metric"), "estimate")
