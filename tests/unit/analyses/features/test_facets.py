"""Facets of a neuron: planted ones, plain hooks, and groups that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.features.facets.contexts import Best, Context
from layerlens.analyses.features.facets.grouping import Vectors
from layerlens.corpus.rows import Row
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result import Result
from layerlens.views.answer_cell import place_of

from ..by_hooks import FAMILIES, blocks, part, plain, wrapped

LAYER, NEURON = 1, 5
TWO = (7, 23)
"""Tokens that the planted neuron is on for."""


def made(*several: torch.Tensor) -> Vectors:
    contexts = [Context(1.0, 1.0, Row(i, [i]), 0, one) for i, one in enumerate(torch.cat(several))]
    return Vectors.of(contexts)


def around(direction: int, n: int = 30, spread: float = 0.15) -> torch.Tensor:
    drawn = torch.randn(n, 40, generator=torch.Generator().manual_seed(direction))
    return torch.eye(40)[direction] + spread * drawn / 40**0.5


def planted(*tokens: int) -> LensModel:
    """A model whose neuron is the largest of what tokens plant, with little attention."""
    hf = tiny_model("llama", seed=1)
    table = hf.get_input_embeddings().weight.detach()
    first = blocks(hf)[0]
    with torch.no_grad():
        first.self_attn.o_proj.weight.mul_(0.1)
        first.post_attention_layernorm.weight.fill_(1.0)
        rows = torch.nn.functional.normalize(table[list(tokens)], dim=1)
        first.mlp.gate_proj.weight[NEURON] = 8 * rows.sum(0)
        first.mlp.up_proj.weight[NEURON] = rows.sum(0)
    return LensModel.wrap(hf, None, name="planted", prove=False)


def texts(*tokens: int, n: int = 24, length: int = 6) -> list[list[int]]:
    """Each with one of the tokens among others."""
    drawn = np.random.default_rng(0)
    others = [one for one in range(30, 90) if one not in TWO]
    rows = drawn.choice(others, (n, length)).tolist()
    for number, row in enumerate(rows):
        row[int(drawn.integers(1, length))] = tokens[number % len(tokens)]
    return rows


def test_planted_directions_are_found_and_one_is_one() -> None:
    two = made(around(0), around(1))
    tried = {number: (labels, mean) for number, labels, mean in two.tried(6, 0, lambda: None)}
    assert max(tried, key=lambda number: tried[number][1]) == 2
    labels, mean = tried[2]
    assert mean > 0.7 and set(labels[:30]) == {labels[0]} and set(labels[30:]) == {labels[30]}
    assert two.other_starts(labels, [1, 2]) == two.other_halves(labels, [1, 2]) == 1
    one = made(around(0, 60))
    assert all(mean < 0.1 for *_, mean in one.tried(6, 0, lambda: None))
    cloud = two.one_cloud(0)
    assert max(mean for *_, mean in cloud.tried(6, 0, lambda: None)) < 0.75 * mean
    np.testing.assert_allclose(cloud.values.std(0)[:1], two.values.std(0)[:1], rtol=0.4)


def test_distances_are_those_of_the_states_divided_by_their_norm() -> None:
    states = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
    plain_ones = torch.nn.functional.normalize(states, dim=1)
    np.testing.assert_allclose(made(states).distances, torch.cdist(plain_ones, plain_ones),
                               atol=1e-6)  # fmt: skip


def test_a_text_has_one_place_and_the_strongest_stay() -> None:
    best = Best(2)
    for text, score in ((0, 1.0), (1, 3.0), (1, 2.0), (2, 2.0), (0, 2.0), (1, 4.0), (3, 2.5)):
        row = Row(text, [int(10 * score)])
        best.offer(text, score, lambda s=score, r=row: Context(s, s, r, 0, torch.zeros(1)))
    assert [(one.text, one.score) for one in best.above(0)] == [(1, 4.0), (3, 2.5)]
    assert [one.score for one in best.above(0.7)] == [4.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_places_equal_plain_hooks(family: str) -> None:
    given = texts(*TWO, n=5)
    found = ll.facets(wrapped(family), given, LAYER, NEURON, above=0, draws=1).data
    hf, seen = plain(family), []
    module = part(hf, LAYER, "neurons")
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0][0, :, NEURON]))
    with torch.no_grad():
        for ids in given:
            hf(torch.tensor([ids]))
    handle.remove()
    best = {i: 1 + int(one[1:].argmax()) for i, one in enumerate(seen) if one[1:].max() > 0}
    assert dict(zip(found.text.values.tolist(), found.position.values, strict=True)) == best
    for text, value in zip(found.text.values, found.activation.values, strict=True):
        assert value == pytest.approx(float(seen[text][best[text]]), abs=1e-5)
    assert int(found.contexts) == len(best) and int(found.counted) == 25


@pytest.fixture(scope="module")
def both() -> Result:
    return ll.facets(planted(*TWO), texts(*TWO), 0, NEURON, draws=2)


def test_a_neuron_for_two_tokens_has_a_facet_of_each(both: Result) -> None:
    data = both.data
    assert int(data.facets) == 2 and both.checks.ok and both.data.attrs["notes"] == "[]"
    assert sorted(data.token.values[:, 0].tolist()) == [*TWO]
    assert (data.token.values[:, 1:] == -1).all()  # no other token: purity 1
    assert data.places.values.tolist() == [12, 12] and float(data.stability) == 1
    best = int(data.silhouette.values.argmax())
    assert float(data.silhouette[best]) > float(data.cloud_limit)
    assert float(data.silhouette[best]) > 3 * float(data.silhouette_baseline[best])


def test_a_neuron_for_one_token_has_one_facet() -> None:
    found = ll.facets(planted(TWO[0]), texts(TWO[0]), 0, NEURON, draws=0)
    assert int(found.data.facets) == 1 and np.isnan(found.data.stability)
    assert found.data.places.values.tolist() == [24] and "random_silhouette" not in found.data
    # Ten directions in which these states vary are enough for a silhouette above 0.1.
    assert "no clearer" in str(found.data.attrs["notes"]) and found.data.silhouette.max() > 0.1


def test_a_place_opens_its_text_with_and_without_the_neuron(both: Result) -> None:
    inputs, options = both.given or ({}, {})
    place = place_of(both.data, {"array": "activation", "index": [3]})
    shown = registry.get("facets").open(planted(*TWO), inputs, options, place)
    assert max(shown.texts[0], key=lambda one: one[1])[1] == 1
    assert float(shown.tables[0].rows[0][2]) == pytest.approx(float(both.data.activation[3]))
    place = place_of(both.data, {"array": "share", "index": [1]})
    first = int((both.data.of_facet.values == 2).argmax())
    shown = registry.get("facets").open(planted(*TWO), inputs, options, place)
    assert shown.title.endswith(f"text {int(both.data.text[first])}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"above": 1.0}, "above is 1.0"),
        ({"most": 1}, "most is 1"),
        ({"side": "left"}, "side is 'left'"),
        ({"number": 9999}, "does not exist"),
        ({"side": "smallest", "number": NEURON}, "never active"),
        ({"skip_first": 50}, "No token counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.facets(planted(*TWO), texts(*TWO, n=3), **{"layer": 0, **options})
