"""The figure of attention: every head small, one large, and the right one."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import layerlens as ll
from layerlens.errors import ResultError
from layerlens.figures.images import image_bytes

TEXT = "cat dog owl fox cat dog owl fox cat"


@pytest.fixture(scope="module")
def result() -> ll.Result:
    return ll.attention(ll.load("toy:induction"), TEXT, other="owl fox", weighting="scores")


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def heads(figure: Figure) -> list[np.ndarray]:
    small = [axes for axes in figure.axes if axes.get_gid() == "head"]
    return [np.asarray(axes.images[0].get_array()) for axes in small]


def large(figure: Figure) -> np.ndarray:
    axes = [axes for axes in figure.axes if axes.images and axes.get_gid() != "head"]
    return np.asarray(axes[0].images[0].get_array())


def test_every_head_is_drawn_and_the_most_telling_one_large(result: ll.Result) -> None:
    figure = result.figure()
    data = result.data
    best = int(data["induction"].values[1].argmax())
    assert np.allclose(heads(figure), data["pattern"].values[1])
    assert np.allclose(large(figure), data["pattern"].values[1, best])
    assert f"Layer 1, head {best} (induction) of toy:induction" in words(figure)
    assert any(word.startswith("checks ok") for word in words(figure))


def test_what_is_asked_for_is_drawn(result: ll.Result) -> None:
    figure = result.figure(layer=0, head=3, theme="dark", title="mine")
    assert np.allclose(large(figure), result.data["pattern"].values[0, 3])
    assert "mine" in words(figure)
    second = result.figure(layer=0, compare="second")
    assert np.allclose(heads(second), result.data["other_pattern"].values[0])
    labels = [label.get_text() for axes in second.axes for label in axes.get_yticklabels()]
    assert labels[:3] == ["<bos>", "owl", "fox"]


def test_two_texts_are_drawn_beside_each_other_or_as_their_difference(result: ll.Result) -> None:
    both = large(result.figure(layer=0, head=1, compare="beside"))
    one, two = (result.data[name].values[0, 1] for name in ("pattern", "other_pattern"))
    length = len(one)
    assert np.allclose(both[:, :length], one)
    assert np.allclose(both[: len(two), length + 1 :], two)
    with pytest.raises(ResultError, match="10 and 3 tokens"):
        result.figure(compare="difference")
    alike = ll.attention(ll.load("toy:induction"), "cat dog owl", other="cat fox owl")
    figure = alike.figure(layer=1, head=0, compare="difference")
    one, two = (alike.data[name].values[1, 0] for name in ("pattern", "other_pattern"))
    assert np.allclose(large(figure), two - one, atol=1e-6)
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert labels[:4] == ["<bos>", "cat", "dog/fox", "owl"]
    assert any("less the first" in word for word in words(figure))


def test_masked_scores_have_no_colour(result: ll.Result) -> None:
    axes = [one for one in result.figure(weighting="scores").axes if one.get_gid() == "head"]
    mask = np.ma.getmaskarray(axes[0].images[0].get_array())
    assert np.array_equal(mask, np.triu(np.ones_like(mask), 1))


def test_it_becomes_a_file(result: ll.Result) -> None:
    assert image_bytes(result.figure(), "png").startswith(b"\x89PNG")


def test_a_variable_is_drawn_by_its_name(result: ll.Result) -> None:
    named = result.figure("scores", layer=0, head=1)
    assert np.allclose(large(named), result.data["scores"].values[0, 1], atol=1e-6)
    grid = result.figure("induction")
    assert any("followed" in word or "after" in word for word in words(grid))


def test_what_is_not_there_is_said(result: ll.Result) -> None:
    for options, said in (
        ({"layer": 7}, "no layer 7; there are"),
        ({"head": 9}, "no head 9; layer"),
        ({"weighting": "norm"}, "no weighting 'norm'"),
        ({"part": "cross"}, "no part 'cross'"),
        ({"compare": "both"}, "compare is 'both'"),
    ):
        with pytest.raises(ResultError, match=said):
            result.figure(**options)
