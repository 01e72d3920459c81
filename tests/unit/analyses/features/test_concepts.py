"""Concepts: indices and factors that are known, plain hooks, and a word that a toy goes by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD

import layerlens as ll
from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract import registry
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.concepts.answered import Answered
from layerlens.analyses.features.concepts.factors import (
    Factors,
    Signs,
    components_explain,
    explained,
    factorised,
    matched,
)
from layerlens.analyses.features.concepts.sobol import designs, totals, with_one_other
from layerlens.analyses.features.concepts.units import units_of
from layerlens.corpus.rows import Row
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import get_toy
from layerlens.result import Result
from layerlens.views.answer_cell import place_of

from ..by_hooks import blocks, plain, wrapped

DOUBLED = Signs(True)


def quiet() -> None:
    pass


def indices(function: Any, inputs: int, number: int = 4096) -> np.ndarray:
    a, b = designs(number, inputs, seed=0)
    return totals(function(a), np.stack([function(one) for one in with_one_other(a, b)]))


def test_total_indices_of_functions_whose_are_known() -> None:
    sizes = np.array([1.0, 2.0, 3.0])
    linear = indices(lambda x: x @ sizes, 3)
    np.testing.assert_allclose(linear, sizes**2 / (sizes**2).sum(), atol=0.01)
    product = indices(lambda x: x[:, 0] * x[:, 1], 3)
    np.testing.assert_allclose(product[:2], 4 / 7, atol=0.01)
    assert product[2] == 0  # what changes nothing is nothing, exactly
    assert totals(np.ones(4), np.ones((2, 4))).tolist() == [0, 0]
    a, b = designs(32, 3, seed=0)
    assert a.min() >= 0 and b.max() <= 1 and not np.allclose(a, b)


def test_planted_factors_are_found() -> None:
    drawn = np.random.default_rng(0)
    used = drawn.exponential(size=(200, 4)) * (drawn.random((200, 4)) < 0.5)
    rows = np.zeros((4, 30))
    for i in range(4):
        rows[i, 6 * i : 6 * i + 9] = drawn.random(9) + 0.2
    opened = used @ rows
    factors, ended = factorised(opened, 4, Signs(False), seed=0)
    again = factors.coefficients(opened, quiet) @ factors.rows
    assert ended and np.linalg.norm(again - opened) < 1e-3 * np.linalg.norm(opened)
    np.testing.assert_allclose(matched(factors, Factors.of(rows, Signs(False))), 1, atol=1e-3)
    assert matched(factors, factors.shuffled(0)).max() < 0.9


def test_doubled_signs_fold_back_exactly_and_plain_ones_are_refused() -> None:
    x = np.random.default_rng(0).standard_normal((5, 7))
    opened = DOUBLED.open(x)
    assert opened.min() >= 0 and opened.shape == (5, 14) and (DOUBLED.fold(opened) == x).all()
    assert (Signs(False).open(abs(x)) == abs(x)).all()
    with pytest.raises(InputError, match="signed"):
        Signs(False).open(x)


def test_coefficients_are_the_best_that_are_not_negative() -> None:
    drawn = np.random.default_rng(0)
    factors = Factors.of(drawn.random((3, 12)), Signs(False))
    opened = drawn.random((6, 12))
    found = factors.coefficients(opened, quiet)
    slope = (found @ factors.rows - opened) @ factors.rows.T  # Karush, Kuhn and Tucker
    assert (found >= 0).all() and (found == 0).any()
    assert abs(slope[found > 0]).max() < 1e-9 and slope[found == 0].min() > -1e-9


def test_what_components_explain_is_what_scikit_learn_says() -> None:
    drawn = np.random.default_rng(0)
    train, test = drawn.standard_normal((40, 6)) + 1, drawn.standard_normal((9, 6)) + 1
    fitted = TruncatedSVD(2, algorithm="arpack").fit(train)
    again = fitted.inverse_transform(fitted.transform(test))
    expected = explained(test, again, train.mean(0))
    assert components_explain(train, test, 2) == pytest.approx(expected, abs=1e-6)
    assert explained(test, np.broadcast_to(train.mean(0), test.shape), train.mean(0)) == 0


def test_a_clause_ends_with_its_comma() -> None:
    model = wrapped("llama")
    words = ["<s>", "a", ",", " b", " c", ".", "\n", "d"]
    model.vocabulary.__dict__["split"] = lambda ids: (tuple(words[i] for i in ids), ())
    places = Places.of(model, "resid_post", 0, 1)
    found = units_of(places, [Row(0, list(range(8)))], [0], "clause")
    assert [one.positions for one in found] == [(1, 2), (3, 4, 5), (6,), (7,)]
    assert [one.positions for one in units_of(places, [Row(0, [5, 6])], [0], "token")] == [(1,)]


@pytest.fixture(scope="module")
def toy() -> LensModel:
    return ll.load("toy:induction")


LIST = [
    [5, 17, 20, 3, 90, 41, 7],
    [9, 17, 33, 3, 64, 41],
    [5, 20, 20, 8, 2, 77],
    [11, 12, 3, 60, 41],
]


def answers(family: str, ids: list[int], layer: int, states: list[np.ndarray]) -> np.ndarray:
    """Logit of the model's own answer with a block's output set to states, by a plain hook."""
    hf = plain(family)
    with torch.no_grad():
        top = int(hf(torch.tensor([ids])).logits[0, -1].argmax())
        found = []
        for state in states:

            def put(_: Any, args: Any, output: Any, state: np.ndarray = state) -> Any:
                own = output if isinstance(output, torch.Tensor) else output[0]
                new = own.clone()
                new[0, 1:] = torch.from_numpy(state).float()
                return new if isinstance(output, torch.Tensor) else (new, *output[1:])

            handle = blocks(hf)[layer].register_forward_hook(put)
            found.append(float(hf(torch.tensor([ids])).logits[0, -1, top]))
            handle.remove()
    return np.array(found)


@pytest.mark.parametrize(("family", "keep_error"), [("gpt2", True), ("llama", False)])
def test_importance_and_deletion_equal_plain_hooks(family: str, keep_error: bool) -> None:
    model, layer = wrapped(family), 0
    options = {"layers": layer, "r": 3, "designs": 4, "explain": 1, "test": 0.5}
    found = ll.concepts(model, LIST, keep_error=keep_error, **options)
    assert found.checks.ok
    data, factors = found.data, Factors(found.data.dictionary.values.astype(float), DOUBLED)
    # Which texts were run follows from the split and the seed: all are tried, one has to be it.
    importances, deletions = [], []
    for ids in LIST:
        trace = ll.record(model, ids, "resid_post.0")["resid_post.0"][0, 1:].double().numpy()
        used = factors.coefficients(DOUBLED.open(trace), quiet)
        error = (trace - used @ factors.directions) * keep_error
        a, b = designs(4, 3, seed=0)
        masks = np.concatenate([a, *with_one_other(a, b), np.ones((1, 3)), 1 - np.eye(3)])
        states = [(used * mask) @ factors.directions + error for mask in masks]
        y = answers(family, ids, layer, states)
        importances.append(totals(y[:4], y[4:16].reshape(3, 4)))
        deletions.append(abs(y[17:] - y[16]))
    for name, expected in (("importance", importances), ("deletion", deletions)):
        assert min(np.abs(data[name].values - one).max() for one in expected) < 2e-3, name


def test_a_concept_that_is_in_no_token_has_no_importance_at_all(toy: LensModel) -> None:
    tokens = toy.tokens([1, 5, 9, 4, 5])
    places = Places.of(toy, "resid_post", 0, 1)
    x = ll.record(toy, tokens, "resid_post.0")["resid_post.0"][0, 1:].numpy()
    absent = np.zeros((1, 2 * toy.d_model))
    absent[0, int(np.argmin(DOUBLED.open(x).sum(0)))] = 1  # an entry that is (almost) never there
    rows = np.concatenate([DOUBLED.open(x), absent])
    with torch.no_grad():
        text = Answered(
            places, places.sites[0], Factors.of(rows, DOUBLED), tokens,
            lambda base: make_metric(toy, "logit", final=base.final), keep_error=True,
            memory_limit=10**8, tick=quiet,
        )  # fmt: skip
        text.coefficients[:, -1] = 0
        found = text.importance(8, seed=0)
        assert text.masked(np.ones((2, 5)))[0] == pytest.approx(text.value, abs=1e-3)
    assert found[-1] == 0 and (found[:-1] > 0).any()


@pytest.fixture(scope="module")
def crab(toy: LensModel) -> Result:
    """Concepts of the toy's last layer, of texts that all go on with the same word."""
    word, texts = toy.token_id("crab"), []
    for ids in get_toy("induction").draw(160, False, torch.Generator().manual_seed(0)).ids.tolist():
        ends = [i for i in range(8, 47) if ids[i + 1] == word and ids[i] in ids[:i]]
        texts += [ids[: ends[0] + 1]] if ends else []
    return ll.concepts(toy, texts, layers=1, r=6, explain=4, most=600, longest=48)


def test_texts_that_go_on_alike_have_one_concept_that_the_answer_needs(
    toy: LensModel, crab: Result
) -> None:
    data = crab.data
    top = int(data.importance.values.argmax())
    assert float(data.importance[top]) > 0.5 and crab.checks.ok
    assert float(data.top_deletion) > 20 * float(data.top_deletion_baseline)
    assert float(data.top_deletion) > float(data.top_deletion_random)
    assert toy.token_string(int(data.written_token[top, 0])) == "crab"
    assert float(data.explained_baseline) >= float(data.explained) > float(data.explained_random)
    assert float(data.explained_random) > float(data.explained_shuffled)
    assert float(data.stability) > float(data.stability_shuffled)


def test_the_page_of_a_concept(toy: LensModel, crab: Result) -> None:
    inputs, options = crab.given or ({}, {})
    top = int(crab.data.importance.values.argmax())
    place = place_of(crab.data, {"array": "importance", "index": [top]})
    shown = registry.get("concepts").open(toy, inputs, options, place)
    own, written = shown.tables
    assert own.rows[0][0] == "crab" and own.rows[0][2] < own.rows[0][1]
    assert written.rows[0][0] == "crab" and max(mark for _, mark in shown.texts[0]) == 1


def test_several_layers_have_concepts_each_and_a_layer_opens_its_top_one(toy: LensModel) -> None:
    texts = get_toy("induction").draw(6, False, torch.Generator().manual_seed(0)).ids.tolist()
    few = [one[:12] for one in texts]
    options = {"r": 2, "designs": 2, "explain": 1, "starts": 0, "unit": "clause", "test": 0.5}
    found = ll.concepts(toy, few, layers="all", metric="logprob", **options)
    assert found.data.importance.dims == ("layer", "concept") and "stability" not in found.data
    assert found.data.deletion.attrs["units"] == "nats" and found.checks.ok
    inputs, given = found.given or ({}, {})
    place = place_of(found.data, {"array": "explained", "index": [1]})
    shown = registry.get("concepts").open(toy, inputs, given, place)
    best = int(found.data.importance[1].values.argmax())
    assert shown.title.startswith(f"Concept {best + 1} of blocks.1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 1}, "r is 1"),
        ({"unit": "page"}, "unit is 'page'"),
        ({"signs": "plain"}, "signed"),
        ({"r": 50}, "fewer than r"),
        ({"site": "pattern"}, "one activation a token"),
        ({"answer": [3]}, "1 entries for 4 texts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.concepts(wrapped("llama"), LIST, **{"r": 2, **options})


def test_more_than_the_limit_holds_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        ll.concepts(wrapped("llama"), LIST, r=2, memory_limit=100)


def test_a_divergence_which_is_zero_as_it_is_has_checks_that_hold() -> None:
    options = {"layers": 0, "r": 2, "designs": 2, "explain": 1, "test": 0.5, "starts": 0}
    found = ll.concepts(wrapped("llama"), ll.texts(LIST), metric="kl", **options)
    assert found.checks.ok and found.data.deletion.attrs["units"] == "nats"
