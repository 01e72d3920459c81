"""The strip: live, from a result, frozen, as a figure, and of answers that are no relevance."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import layerlens as ll
from layerlens.errors import ResultError
from layerlens.export.pack import unpack
from layerlens.export.strip_meta import strip_meta_of
from layerlens.export.twins import frames_for, traits_of
from layerlens.figures.strip import strip_figure
from layerlens.result.strip import tokens_of_row
from layerlens.views import StripView, view_of

TEXT = "cat dog owl cat dog"


@pytest.fixture(scope="module")
def found() -> ll.Result:
    return ll.relevance(ll.load("toy:induction"), TEXT, rule="cp", draws=2)


def drawn(figure: Figure) -> list[tuple[float, ...]]:
    """The colours of tokens, in the order of drawing."""
    patches = figure.axes[0].patches
    return [to_rgb(one.get_facecolor()) for one in patches if one.get_gid() == "token"]


def test_relevance_has_a_row_and_its_control_and_says_what_adds_up(found: ll.Result) -> None:
    view = StripView.from_result(found, layer=1)
    about = view.meta["strip"]
    assert about["steps"] == "point" and about["items"] == "position"
    assert about["rows"] == ["relevance", "relevance_chance"]
    assert about["start"] == 0  # what it says of the input, and not where the answer is read
    assert {"total", "constant", "missing", "likeness_chance"} == set(about["beside"])
    meta, frames = unpack(view.snapshot)
    assert meta["strip"] == about
    header = {array["name"]: array for frame, _ in frames for array in frame["arrays"]}
    assert header["relevance"]["shape"] == list(found.data.relevance.shape)
    figure = found.figure(**view._figure_options())
    assert len(drawn(figure)) == 2 * found.data.relevance.size
    view.close()


def test_its_twin_has_its_traits(found: ll.Result) -> None:
    assert isinstance(view_of(found), ll.StripView)
    data = found.data
    traits = traits_of(data, found.checks)
    own = {name: traits[name] for name in ("view", "step", "colors")}
    assert own == {"view": "strip", "step": -1, "colors": "one"}
    assert traits["meta"]["strip"] == strip_meta_of(data)["strip"]
    assert len(frames_for(data)) > 0


def strips(values: np.ndarray) -> xr.Dataset:
    """Two layers of three tokens, with axes the other way round."""
    dims = ("position", "layer")
    arrays = {
        "share": (dims, values.T, {"long_name": "share"}),
        "rank": (dims, values.T.astype(int)),
    }
    coords = {"layer": [0, 1], "position": [0, 1, 2], "token": ("position", ["a", " b\n", " c"])}
    return xr.Dataset(arrays, coords)


def test_colours_say_the_numbers() -> None:
    data = strips(np.array([[2.0, -1.0, 0.0], [0.0, 0.0, -4.0]]))
    assert strip_meta_of(data)["strip"]["rows"] == ["share"]
    page = to_rgb("#ffffff")
    first, second = np.split(np.array(drawn(strip_figure(data))), 2)
    np.testing.assert_allclose(first[0], to_rgb("#1565c0"), atol=0.01)  # 2 of 2
    assert first[1][0] > first[1][2]  # red
    np.testing.assert_allclose(first[2], page, atol=0.01)
    np.testing.assert_allclose(second[2], to_rgb("#b3261e"), atol=0.01)
    every = np.array(drawn(strip_figure(data, steps=[0], reach="all")))
    # 2 of 4: half as strong
    np.testing.assert_allclose(every[0], (np.array(to_rgb("#1565c0")) + page) / 2, atol=0.02)


def test_a_slight_number_below_zero_has_its_colour() -> None:
    first, second, third = drawn(strip_figure(strips(np.array([[9.0, -0.9, 0.0]] * 2)), steps=[0]))
    assert second[0] > second[2] and first[0] < first[2]
    np.testing.assert_allclose(third, (1, 1, 1), atol=0.01)


def test_tokens_are_set_as_a_text_is() -> None:
    figure = strip_figure(strips(np.ones((2, 3))), steps=[0], position=2)
    tokens = [one for one in figure.axes[0].patches if one.get_gid() == "token"]
    first, second, third = (one.get_xy() for one in tokens)
    assert second[0] > first[0] and second[1] == first[1]
    assert third[1] < first[1] and third[0] == first[0]  # after the line's end
    assert [one.get_edgecolor()[3] > 0 for one in tokens] == [False, False, True]


def test_what_is_no_strip_says_so(found: ll.Result) -> None:
    with pytest.raises(ResultError, match="a number for each token at each layer"):
        strip_figure(strips(np.ones((2, 3))).isel(layer=0))
    with pytest.raises(ResultError, match="no depth 9"):
        strip_figure(found.data, steps=[9])
    with pytest.raises(ResultError, match="no reach 'some'"):
        strip_figure(found.data, reach="some")


def test_each_text_has_its_own_tokens() -> None:
    model = ll.load("toy:induction")
    other = "cat fox owl cat dog"
    view = StripView(model, "relevance", TEXT, rule="cp", draws=0, other=other)
    both = view.wait(60)
    assert [token["text"] for token in view.meta["theirs"]] == ["<bos>", *other.split()]
    strip = view.meta["strip"]
    view.close()
    tokens = {row: tokens_of_row(both.data, strip, row)[2] for row in strip["rows"]}
    assert tokens == {
        "relevance": "dog", "other.relevance": "fox", "change_relevance": "dog→fox",
    }  # fmt: skip
    assert strip_meta_of(both.data)["theirs"] == view.meta["theirs"]
    words = [text.get_text() for text in strip_figure(both.data, steps=[0]).axes[0].texts]
    assert {"dog", "fox", "dog→fox"} <= set(words)
    assert any(f"token · {other} (colours" in line for line in words)
    assert any(line.startswith(f"{other.capitalize()}: relevance of all") for line in words)


def test_it_runs_live() -> None:
    view = StripView(ll.load("toy:induction"), "relevance", TEXT, rule="cp", draws=0)
    result = view.wait(60)
    assert view.meta["strip"]["rows"] == ["relevance"] and result.checks.ok
    view.colors, view.position = "all", 2
    options = view._figure_options()
    assert options["kind"] == "strip" and options["reach"] == "all" and options["position"] == 2
    view.close()
