"""Two answers on one grid: their numbers, what is said of them, and what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from matplotlib.text import Text

import layerlens as ll
from layerlens.errors import ResultError
from layerlens.export.setup import setup_code
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from tests.unit.views.tiny import tiny_llama

ONE, TWO = "w1 w2 w3 w2", "w1 w9 w3 w9"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def changed() -> LensModel:
    """The same model, of which one head writes nothing."""
    whole = tiny_llama()
    hf = copy.deepcopy(whole.hf)
    hf.get_submodule("model.layers.1.self_attn.o_proj").weight.data[:, :8] = 0
    return LensModel.wrap(hf, whole.tokenizer, name="without", prove=False)


def ablated(model: LensModel, text: str = ONE, **options: object) -> Result:
    return ll.ablate_sweep(model, text, **{"how": "zero", "answer": "w5", **options})


def test_the_same_answer_twice_differs_nowhere(model: LensModel) -> None:
    both = ll.beside(ablated(model), ablated(model))
    assert both.data.attrs["other_label"] == "the second"
    assert (both.data["change_effect"] == 0).all()
    assert both.data["other.effect"].equals(both.data["effect"].rename("other.effect"))


def test_two_texts_are_subtracted(model: LensModel) -> None:
    one, two = ablated(model), ablated(model, TWO)
    both = ll.beside(one, two)
    assert np.array_equal(both.data["effect"], one.data["effect"])
    assert np.array_equal(both.data["other.effect"], two.data["effect"])
    expected = two.data["effect"].values - one.data["effect"].values
    assert np.array_equal(both.data["change_effect"], expected)
    assert np.abs(expected).max() > 1e-3
    assert both.data["change_effect"].attrs["signed"]
    assert both.data.attrs["other_label"] == both.data.attrs["other_text"] == TWO
    names = [check.name for check in both.checks]
    assert names == [c.name for c in one.checks] + [f"other.{c.name}" for c in two.checks]
    spent = one.data.attrs["seconds"] + two.data.attrs["seconds"]
    assert both.data.attrs["seconds"] == pytest.approx(spent)


def test_a_head_that_writes_nothing_has_lost_its_effect(
    model: LensModel, changed: LensModel
) -> None:
    one, two = ablated(model), ablated(changed)
    assert ll.beside(one, two).data.attrs["other_label"] == "without"
    both = ll.beside(one, two, "without it")
    assert abs(float(one.data["effect"].sel(layer=1, head=0))) > 1e-3
    assert abs(float(two.data["effect"].sel(layer=1, head=0))) < 1e-5
    lost = both.data["change_effect"].sel(layer=1, head=0)
    assert float(lost) == pytest.approx(-float(one.data["effect"].sel(layer=1, head=0)), abs=1e-5)
    assert both.data.attrs["other_label"] == "without it"


def test_the_code_gives_it_again(model: LensModel, changed: LensModel) -> None:
    both = ll.beside(ablated(model), ablated(changed))
    names = {"ll": ll, "model": model, "other": changed}
    *lines, last = both.code.split("\n")
    exec("\n".join(lines), names)
    again = eval(last, names)
    assert again.data.equals(both.data)
    assert again.code == both.code
    assert "other = ll.load(hf, tokenizer)" in setup_code(both.data.attrs)
    weights = ll.beside(ll.spectrum(model), ll.spectrum(changed))
    assert "ll.spectrum(other" in weights.code
    assert "other = ll.load(hf, tokenizer)" in setup_code(weights.data.attrs)


def test_answers_that_differ_are_told(model: LensModel) -> None:
    one, two = (ll.ablate_sweep(model, text, how="zero") for text in (ONE, "w8 w9 w7 w40"))
    assert one.data.attrs["answer"] != two.data.attrs["answer"]
    both = ll.beside(one, two)
    words = [result.data.attrs["metric_words"] for result in (one, two)]
    said = f"The metric is {words[0]} in the first and {words[1]} in the second."
    assert said in json.loads(both.data.attrs["notes"])
    # a figure says the metric of what it draws, and none where there are two
    drawn = {
        name: " ".join(text.get_text() for text in both.figure(name).findobj(match=Text))
        for name in ("effect", "other.effect", "change_effect")
    }
    told = {
        name: [word in " ".join(text.split()) for word in words] for name, text in drawn.items()
    }
    assert told == {
        "effect": [True, False],
        "other.effect": [False, True],
        "change_effect": [False, False],
    }


def test_axes_that_differ_are_named(model: LensModel) -> None:
    toy = ll.load("toy:induction")
    with pytest.raises(ResultError, match=r"The axis layer has 4 entries .* and 2"):
        ll.beside(ablated(model), ll.ablate_sweep(toy, "cat dog owl cat"))
    with pytest.raises(ResultError, match=r"Entry 0 of the axis source is 'w1' .* 'w3'"):
        ll.beside(*(ll.knockout(model, ONE, sources={word: word}) for word in ("w1", "w3")))
    one, two = (
        ll.patch_sweep(model, clean=f"w1 w2{more}", corrupt=f"w3 w2{more}", answer="w5")
        for more in ("", " w4")
    )
    with pytest.raises(ResultError, match=r"The axis position has 2 entries .* and 3"):
        ll.beside(one, two)


def test_what_has_no_counterpart_is_refused(model: LensModel) -> None:
    one = ablated(model)
    with pytest.raises(ResultError, match="of ablate_sweep and the other of skip_layers"):
        ll.beside(one, ll.skip_layers(model, ONE))
    with pytest.raises(ResultError, match="holds two sides already"):
        ll.beside(ll.beside(one, one), one)
    compared = ll.compare_models(model, [ONE, TWO], other=model)
    with pytest.raises(ResultError, match="holds two sides already"):
        ll.beside(compared, compared)
    with pytest.raises(ResultError, match="lens_difference"):
        ll.beside(ll.logit_lens(model, ONE), ll.logit_lens(model, ONE))
    with pytest.raises(ResultError, match="takes two results"):
        ll.beside(one, model)  # type: ignore[arg-type]


def test_many_texts_need_the_same_lengths(model: LensModel) -> None:
    one, two = (ablated(model, [ONE, text]) for text in (TWO, "w1 w2 w4 w5"))  # type: ignore[arg-type]
    assert ll.beside(one, two).data["change_effect"].dims[0] == "batch"


def test_whole_numbers_and_errors_have_no_difference(model: LensModel) -> None:
    one = ablated(model, answer="w5")
    ranks = one.data["effect"].round().astype("int32")
    counted = Result("ablate_sweep", one.data.assign(rank=ranks), one.checks, one.code, model)
    both = ll.beside(counted, counted)
    assert {"other.rank", "other.standard_error", "change_metric"} <= set(both.data)
    assert not {"change_rank", "change_standard_error"} & set(both.data)


def test_tokens_of_another_vocabulary_are_left_out(model: LensModel) -> None:
    one = ablated(model)
    words = one.data["effect"].round().astype("int32").assign_attrs(is_token=1)
    told = one.data.assign(word=words)
    first, second = (
        Result("ablate_sweep", told.assign_attrs(vocab=vocab), one.checks, one.code, model)
        for vocab in ('{"1": "a"}', '{"1": "b"}')
    )
    assert "other.word" not in ll.beside(first, second).data
    assert "other.word" in ll.beside(first, first).data


def test_lists_of_the_strongest_pairs_are_joined(model: LensModel, changed: LensModel) -> None:
    one, two = (ll.composition(each, "v", top=4) for each in (model, changed))
    both = ll.beside(one, two).data
    mine, theirs = (list(each.data["edge"].values) for each in (one, two))
    assert mine != theirs  # the head that writes nothing is in one of them alone
    assert list(both["edge"].values) == [*mine, *(edge for edge in theirs if edge not in mine)]
    for row in range(both.sizes["edge"]):
        at = {
            name: int(both[f"edge_{name}"][row])
            for name in ("from_layer", "from_head", "layer", "head")
        }
        for name, data in (("", one.data), ("other.", two.data)):
            np.testing.assert_array_equal(
                both[f"{name}edge_above_chance"][row], data["above_chance"].sel(at)
            )
            assert int(both[f"{name}edge_head"][row]) == at["head"]
    np.testing.assert_array_equal(both["other.read"], two.data["read"])
    assert both["edge_above_chance"].attrs["units"] == one.data["edge_above_chance"].attrs["units"]
    lesser = Result("composition", one.data.isel(head=[0, 1], from_head=[0, 1]))
    with pytest.raises(ResultError, match="no cell at"):
        ll.beside(lesser, two)
