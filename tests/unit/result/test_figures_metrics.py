"""Quantities by layer as small multiples: every number where it belongs, unlike things apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from layerlens.analyses.measuring.joined_metrics import beside
from layerlens.errors import ResultError
from layerlens.figures import draw
from layerlens.figures.grid_data import MOST_NEURONS
from layerlens.figures.images import image_bytes
from layerlens.figures.metrics import metrics_figure
from layerlens.result import Check, Checks, Result

pytestmark = pytest.mark.filterwarnings("error")

N = 6


def measured(**attrs: Any) -> xr.Dataset:
    """Return a measurement by hand: two norms, a ratio, a matrix of two groups, heads, a rate."""
    layer = np.arange(N)
    about = {"units": "activation"}
    matrix = np.kron(np.eye(2), np.ones((3, 3))) * 0.9 + 0.1
    heads = np.linspace(0, 1, N * 4).reshape(N, 4)
    lines = np.outer(layer, [1.0, 2.0, 3.0])
    point = ["embed", *(f"{i}_post" for i in range(N - 1))]
    arrays: dict[str, Any] = {
        "attn_norm": ("layer", layer + 1.0, {**about, "long_name": "attention's norm of all"}),
        "attn_norm_low": ("layer", layer + 0.5),
        "attn_norm_high": ("layer", layer + 1.5),
        "mlp_norm": ("layer", layer + 2.0, {**about, "long_name": "MLP's norm of all"}),
        "block_ratio": ("layer", layer / N, {"units": "1", "long_name": "ratio of the block"}),
        "cka": (("point", "point_other"), matrix, {"units": "1", "long_name": "linear CKA"}),
        "sink_mass": (("layer", "head"), heads, {"units": "1", "long_name": "sinks"}),
        "massive": (("layer", "k"), lines, {**about, "long_name": "largest"}),
        "growth_rate": ((), 0.25, {"units": "1", "long_name": "rate"}),
    }
    coords: dict[str, Any] = {
        "layer": layer, "head": np.arange(4), "point": point, "point_other": point,
    }  # fmt: skip
    names = ["attn_norm", "mlp_norm", "block_ratio", "cka", "sink_mass", "massive", "growth_rate"]
    told = {
        "metrics": json.dumps(names), "variables": json.dumps(list(arrays)), "view": "metrics",
        "model": "hand-made", "texts": 2, "tokens_counted": 40,
    }  # fmt: skip
    return xr.Dataset(arrays, coords=coords, attrs={**told, **attrs})


def panels(figure: Figure) -> dict[str, Any]:
    """Return the panels by title, without colour bars."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def texts(figure: Figure, kind: str) -> str:
    found = figure.findobj(lambda artist: artist.get_gid() == kind)
    return " ".join(artist.get_text() for artist in found)


def test_like_quantities_share_a_panel_and_others_do_not() -> None:
    found = panels(draw("metrics", measured()))
    assert list(found) == [
        "Norm of all (activation)", "Ratio of the block", "Linear CKA", "Sinks",
        "Largest (activation)",
    ]  # fmt: skip
    norms = found["Norm of all (activation)"]
    lines = norms.findobj(lambda artist: artist.get_gid() == "curve")
    assert [line.get_label() for line in lines] == ["attention", "MLP"]
    assert np.array_equal(lines[1].get_xdata(), np.arange(N))
    assert np.array_equal(lines[1].get_ydata(), np.arange(N) + 2.0)
    (band,) = norms.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.5)
    largest = found["Largest (activation)"].get_legend().get_texts()
    assert [text.get_text() for text in largest] == ["rank 1", "rank 2", "rank 3"]


def test_a_matrix_has_its_groups_and_heads_their_cells() -> None:
    found = panels(draw("metrics", measured()))
    outlines = [p for p in found["Linear CKA"].patches if p.get_gid() == "group"]
    assert [(p.get_x(), p.get_y(), p.get_width()) for p in outlines] == [(0, 0, 3), (3, 3, 3)]
    assert [t.get_text() for t in found["Linear CKA"].get_yticklabels()][:2] == ["embed", "0"]
    mesh = found["Sinks"].collections[0]
    assert np.allclose(mesh.get_array(), measured()["sink_mass"].values)
    assert found["Sinks"].get_ylabel() == "layer"


def test_a_control_lies_dotted_beside_its_curve_even_where_few_arrays_are_drawn() -> None:
    data = measured()
    data["attn_norm_chance"] = ("layer", np.ones(N), {"units": "activation", "long_name": "ch"})
    data.attrs["variables"] = json.dumps(list(data.data_vars))
    axes = panels(draw("metrics", data))["Norm of all (activation)"]
    (control,) = axes.findobj(lambda artist: artist.get_gid() == "chance")
    own = axes.findobj(lambda artist: artist.get_gid() == "curve")
    assert control.get_label() == "attention, chance"
    assert control.get_color() == own[0].get_color()
    assert control.get_linestyle() != own[0].get_linestyle()


def test_the_names_of_many_curves_stand_above_them() -> None:
    names = [f"{part}_{kind}" for part in ("attn", "mlp", "block") for kind in ("x", "x_chance")]
    array = {name: ("layer", np.full(N, 0.9), {"long_name": f"{name} one two"}) for name in names}
    axes = draw("metrics", xr.Dataset(array)).axes[0]
    assert len(axes.get_legend().get_texts()) == 6
    low, high = axes.get_ylim()
    assert (0.9 - low) / (high - low) < 0.4  # it would be half


def covered(axes: Any) -> bool:
    """Whether the names of curves cover a curve's points or an interval's corners."""
    axes.figure.canvas.draw()
    box = axes.get_legend().get_window_extent()
    curves = [line.get_xydata() for line in axes.findobj(lambda each: each.get_gid() == "curve")]
    bands = [path.vertices for band in axes.collections for path in band.get_paths()]
    return any(
        box.contains(*point)
        for points in (*curves, *bands)
        for point in axes.transData.transform(points)
    )


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_cover_neither_curves_nor_intervals(scale: str) -> None:
    layer = np.arange(40)
    wide = {"units": "activation"}
    middle = 10 + 8 * np.sin(layer)
    data = xr.Dataset(
        {
            "attn_norm": ("layer", middle, {**wide, "long_name": "attention's norm"}),
            "attn_norm_low": ("layer", np.full(40, 1.0)),
            "attn_norm_high": ("layer", np.full(40, 20.0)),
            "mlp_norm": ("layer", middle + 1, {**wide, "long_name": "MLP's norm"}),
            "gain": (("layer", "kind"), np.stack([layer + 1, layer + 2.0], 1), {"long_name": "g"}),
        },
        coords={"layer": layer, "kind": ["real", "control"]},
        attrs={"model": "hand-made"},
    )
    crowded, free = draw("panels", data, scale=scale).axes
    assert crowded.get_ylim()[1] > 23  # longer, so that there is room
    assert max(crowded.get_yticks()) <= 21
    assert not covered(crowded)
    assert free.get_ylim()[1] < 50  # a corner is free: no longer than the curves with a margin
    assert not covered(free)


def test_a_figure_has_the_checks_of_what_it_shows() -> None:
    checks = [
        Check(name, 0.0, 1.0, True, "what") for name in ("tokens", "cka: one", "attn_norm: two")
    ]
    data = measured(checks=Checks(checks).to_json())
    note = texts(draw("metrics", data, variable="cka"), "note")
    assert "cka: one" in note and "tokens" in note and "two" not in note


def test_what_has_no_value_anywhere_is_named_and_not_drawn() -> None:
    data = measured()
    data["block_ratio"][...] = np.nan
    figure = draw("metrics", data)
    assert "Ratio of the block" not in panels(figure)
    assert "without any value: Ratio of the block" in texts(figure, "note")


def test_what_has_no_axis_is_said() -> None:
    figure = draw("metrics", measured())
    assert "rate 0.25" in texts(figure, "note")
    assert texts(figure, "subtitle") == "hand-made, 2 texts, 40 tokens"


def test_one_metric_one_array_and_what_is_not_there() -> None:
    result = Result("layer_metrics", measured())
    alone = result.figure("cka")
    assert texts(alone, "title") == "Linear CKA" and not panels(alone)
    assert len(panels(result.figure(variable=["attn_norm", "sink_mass"]))) == 2
    with pytest.raises(ResultError, match="no 'ckaa' here; choose one of attn_norm"):
        result.figure("ckaa")
    with pytest.raises(ResultError, match="no scale 'cubic'"):
        result.figure(scale="cubic")
    with pytest.raises(ResultError, match="nothing over layers"):
        result.figure("growth_rate")


def test_a_second_model_is_dashed_in_the_same_colour() -> None:
    other = measured(model="second")
    other["attn_norm"] = other["attn_norm"] * 2
    both = beside(Result("layer_metrics", measured()), other, "step 7")
    figure = draw("metrics", both.data)
    found = panels(figure)
    norms = found["Norm of all (activation)"]
    own = norms.findobj(lambda artist: artist.get_gid() == "curve")
    dashed = norms.findobj(lambda artist: artist.get_gid() == "other")
    assert [line.get_color() for line in own] == [line.get_color() for line in dashed]
    assert np.array_equal(dashed[0].get_ydata(), 2 * (np.arange(N) + 1.0))
    assert dashed[0].get_label() == "attention, step 7"
    assert dashed[0].get_linestyle() != own[0].get_linestyle()
    titles = list(found)
    assert titles.index("Linear CKA: step 7") == titles.index("Linear CKA") + 1
    assert "dashed: step 7" in texts(figure, "subtitle")


def test_numbers_a_little_below_zero_need_no_second_colour() -> None:
    data = measured()
    data["cka"][0, 5] = -0.01
    mesh = draw("metrics", data, variable="cka").axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax, mesh.cmap.name) == (0, 1, "viridis")
    data["cka"][0, 5] = -0.9
    mesh = draw("metrics", data, variable="cka").axes[0].collections[0]
    assert mesh.norm.vmin == -1


def test_an_unfinished_measurement_can_be_drawn() -> None:
    data = measured()
    for array in data.values():
        array[...] = np.nan
    found = panels(draw("metrics", data, theme="dark"))
    assert not [p for p in found["Linear CKA"].patches if p.get_gid() == "group"]
    assert image_bytes(draw("metrics", data), "svg") == image_bytes(draw("metrics", data), "svg")


def test_results_of_other_analyses_have_a_panel_for_each_quantity() -> None:
    """Unlike quantities of one unit, a chance beside a length, have no common axis."""
    layer = np.arange(N)
    data = xr.Dataset(
        {
            "auc": ("layer", layer / 5, {"long_name": "chance"}),
            "fisher": ("layer", layer * 9.0, {"long_name": "Fisher ratio"}),
            "change": (("layer", "coefficient"), np.ones((N, 2)), {"long_name": "change"}),
            "gain": ("layer", layer * 1.0, {"long_name": "gain"}),
            "gain_mean": ("layer", layer * 2.0, {"long_name": "mean gain"}),
            "gain_low": ("layer", layer * 1.0),
            "gain_high": ("layer", layer * 3.0),
            "direction": (("layer", "channel"), np.ones((N, 40))),
        },
        coords={"layer": layer, "coefficient": [-0.5, 0.5]},
        attrs={"question": "Does it steer?", "model": "hand-made"},
    )
    figure = draw("panels", data)
    found = panels(figure)
    assert list(found) == ["Chance", "Fisher ratio", "Change", "Mean gain"]
    labels = [text.get_text() for text in found["Change"].get_legend().get_texts()]
    assert labels == ["coefficient -0.5", "coefficient 0.5"]
    assert len(found["Mean gain"].collections) == 1
    assert texts(figure, "title") == "Does it steer?"


def test_of_thousands_of_neurons_the_strongest_are_drawn() -> None:
    values = np.zeros((3, 2000))
    values[1, 1500] = -4.0
    values[0, 7] = 1.0
    data = xr.Dataset({"contribution": (("layer", "neuron"), values)})
    figure = draw("grid", data)
    assert figure.get_size_inches()[0] < 14
    mesh = figure.axes[0].collections[0]
    assert mesh.get_array().shape == (3, MOST_NEURONS)
    assert mesh.get_array().min() == -4
    assert "of 2000 neurons the 64" in texts(figure, "note")
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert {"7", "1500"} <= set(ticks)


def test_hidden_arrays_are_left_out_and_the_chosen_layer_is_marked() -> None:
    figure = draw("metrics", measured(), hidden=["mlp_norm", "cka"], layer=3)
    named = panels(figure)
    assert not any("CKA" in title for title in named)
    marks = [line for axes in figure.axes for line in axes.lines if line.get_gid() == "layer"]
    assert marks and all(set(line.get_xdata()) == {3} for line in marks)
    drawn = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert "mlp_norm" not in drawn


def test_controls_stand_beside_what_they_are_controls_of_and_long_lists_are_not_drawn() -> None:
    names = [f"a {i}" for i in range(20)]
    curve = [0.5, 0.4, 0.2]
    data = xr.Dataset(
        {
            "clear": ("groups", curve, {"long_name": "silhouette of this"}),
            "clear_baseline": ("groups", curve, {"long_name": "silhouette of places"}),
            "random_clear": ("groups", curve, {"long_name": "silhouette of others"}),
            "strength": ("example", np.arange(20.0), {"long_name": "strength"}),
        },
        {"groups": [2, 3, 4], "example": names},
    )
    figure = metrics_figure(data)
    assert len(figure.axes) == 1 and len(figure.axes[0].get_lines()) == 3
    assert len(metrics_figure(data[["strength"]]).axes) == 1  # there is nothing else


def test_numbers_before_the_names_of_many_things_stand_for_them() -> None:
    names = [f"{i}: word" for i in range(1, 21)]
    data = xr.Dataset({"size": ("thing", np.arange(20.0))}, {"thing": names})
    (axes,) = metrics_figure(data).axes
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["1", "3", "5"]
    assert axes.get_lines()[0].get_linestyle() == "None"  # nothing lies between two of them


def answered(**arrays: tuple[tuple[str, ...], list[Any], str]) -> xr.Dataset:
    """An answer of an analysis: axes, values and words of each array."""
    data = xr.Dataset(
        {name: (dims, np.array(values, dtype=float), {"long_name": words, "units": "1"})
         for name, (dims, values, words) in arrays.items()},
        coords={"kept": [1, 10, 1000], "thing": ["a", "b"], "label": ["x", "y"]},
    )  # fmt: skip
    return data.assign_attrs(question="?", variables=json.dumps(list(arrays)))


def test_a_control_of_an_analysis_has_the_words_that_the_analysis_gave_it() -> None:
    data = answered(
        loss=(("kept",), [3, 2, 1], "loss added"),
        loss_chance=(("kept",), [3, 3, 3], "loss added by other directions"),
    )
    (axes,) = draw("panels", data).axes
    [control] = [line for line in axes.get_lines() if line.get_gid() == "chance"]
    assert control.get_label() == "other directions"
    # Numbers that span decades stand by their logarithm, under their own names.
    assert np.ptp(np.diff(control.get_xdata())) < 3
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10", "1000"]


def test_what_two_axes_of_things_have_is_drawn_for_each_of_the_first() -> None:
    data = answered(
        both=(("label", "thing"), [[1, 2], [3, 4]], "amount of a thing"),
        curves=(("kept", "thing"), [[1, 2], [3, 4], [5, 6]], "share that is kept"),
    )
    first, second = draw("panels", data).axes
    labels = [[line.get_label() for line in axes.get_lines()[:2]] for axes in (first, second)]
    assert labels == [["label x", "label y"], ["thing a", "thing b"]]
    assert np.asarray(first.get_lines()[1].get_ydata()).tolist() == [3, 4]
    assert np.asarray(second.get_lines()[1].get_ydata()).tolist() == [2, 4, 6]
