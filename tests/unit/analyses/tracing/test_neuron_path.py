"""Paths of neurons: plain hooks give the same, planted neurons are found, formulas are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.tracing.neuron_path_run import NeuronPaths
from layerlens.errors import InputError
from tests.unit.analyses.by_hooks import IDS, OTHER, Hook, part, plain, run, wrapped
from tests.unit.analyses.most_bytes import most_bytes
from tests.unit.analyses.planted import KNOWS, lookup_model

ASKED = {"answer": 17, "wrong": 20}


def without(family: str, path: list[tuple[int, int]], ids: list[int]) -> float:
    """Logit difference with neurons at 0 at the last position, by plain hooks."""
    hf = plain(family)

    def zero(number: int) -> Any:
        def change(given: torch.Tensor) -> torch.Tensor:
            given[0, -1, number] = 0
            return given

        return change

    hooks: list[Hook] = [(part(hf, layer, "neurons"), "in", zero(n)) for layer, n in path]
    logits = run(hf, ids, hooks)
    return float(logits[17] - logits[20])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_path_is_greedy_and_its_removal_is_that_of_plain_hooks(family: str) -> None:
    model = wrapped(family)
    width = part(model.hf, 0, "neurons").weight.numel() // model.d_model
    found = ll.neuron_path(
        model, IDS, layers=[0, 1], steps=8, candidates=width, draws=1,
        others=OTHER, others_answer=17, others_wrong=20, **ASKED,
    )  # fmt: skip
    first, second = (int(n) for n in found.data.neuron[0])
    as_it_is = without(family, [], IDS)
    alone = [as_it_is - without(family, [(0, n)], IDS) for n in range(width)]
    assert alone[first] == pytest.approx(max(alone), abs=1e-5)
    joint = [as_it_is - without(family, [(0, first), (1, n)], IDS) for n in range(width)]
    assert joint[second] == pytest.approx(max(joint), abs=1e-5)
    np.testing.assert_allclose(found.data.joint, [max(alone), max(joint)], atol=1e-5)
    np.testing.assert_allclose(found.data.change[0], -found.data.joint, atol=1e-5)
    path = [(0, first), (1, second)]
    expected = without(family, path, OTHER) - without(family, [], OTHER)
    assert float(found.data.others_change[0, 1]) == pytest.approx(expected, abs=1e-5)
    assert float(found.data.term.sum()) == pytest.approx(max(joint), rel=0.01, abs=1e-5)
    assert found.checks.ok


def test_of_one_neuron_both_measures_are_its_integrated_gradient() -> None:
    model = wrapped("gpt2")
    how: dict[str, Any] = {"layers": [1], "steps": 40, "candidates": 2, "draws": 1, **ASKED}
    complete = ll.neuron_path(model, IDS, **how).data
    reference = ll.neuron_path(model, IDS, measure="reference", **how).data
    assert int(complete.neuron[0, 0]) == int(reference.neuron[0, 0])
    assert float(reference.joint[0]) == pytest.approx(float(complete.term[0]), rel=0.02)


def test_of_a_linear_metric_the_measures_are_known_and_differ() -> None:
    slopes, values = torch.tensor([[2.0, -1.0]]), torch.tensor([[3.0, 5.0]])

    class Linear(NeuronPaths):
        def slopes(self, text: Any, layers: Any, path: Any, shares: Any) -> dict[int, torch.Tensor]:
            return {layer: slopes[:, [layer]] for layer in layers}

    text: Any = SimpleNamespace(values=lambda layer: values[:, [layer]])
    paths = Linear(wrapped("gpt2"), [text], 20, 1, lambda: None)
    assert paths.terms(((0, 0), (1, 0))).tolist() == [6, -5]  # a * w
    assert paths.reference(((0, 0), (1, 0))) == pytest.approx((2 - 1) * (3 + 5))


def test_the_neuron_that_knows_the_answer_is_on_the_path() -> None:
    model = lookup_model({2: 7, 3: 8, 4: 9})
    found = ll.neuron_path(
        model, [0, 3, 5], answer=8, wrong=7, positions=slice(None), steps=4, draws=2
    )
    assert int(found.data.neuron[0, KNOWS]) == 1  # of the second subject
    change = found.data.change.values
    assert change[0, KNOWS] < -1
    assert abs(change[0, 0]) < 1e-4  # nothing before it carries the answer


def test_several_texts_share_a_path_and_their_changes_are_means() -> None:
    model, texts = wrapped("llama"), [IDS, OTHER]
    found = ll.neuron_path(model, texts, layers=[1], steps=4, draws=1, answer=17, wrong=20).data
    path = [(1, int(found.neuron[0, 0]))]
    each = [without("llama", path, ids) - without("llama", [], ids) for ids in texts]
    assert float(found.change[0, 0]) == pytest.approx(np.mean(each), abs=1e-5)


def test_a_cell_opens_the_next_token_without_the_path() -> None:
    model = wrapped("gpt2")
    found = ll.neuron_path(model, IDS, steps=2, draws=1)
    numbers = {"neuron": found.data.neuron.values}

    def opened(path: str) -> Opened:
        place = Place("change", {"path": path, "layer": 1}, 0.0, {}, {"text": IDS}, answer=numbers)
        return ll.neuron_path.open(model, IDS, {"steps": 2, "draws": 1}, place)

    table = opened("chosen").tables[0]
    assert table.head == ["token", "as it is", "last neuron at 0", "path at 0", "change"]
    with pytest.raises(InputError, match="Random paths are many"):
        opened("random")


def test_a_cell_of_a_text_opens_that_text() -> None:
    model, texts = wrapped("gpt2"), [IDS, OTHER]
    options: dict[str, Any] = {"steps": 2, "draws": 2, "others": [OTHER, IDS], **ASKED}
    found = ll.neuron_path(model, texts, others_answer=17, others_wrong=20, **options).data
    mean = found.text_change.mean("text")
    np.testing.assert_allclose(mean, found.change.isel(layer=-1), atol=1e-6)
    np.testing.assert_allclose(found.others_text_change, found.text_change[:, ::-1], atol=1e-6)
    given = {"text": texts}
    numbers = {"neuron": found.neuron.values}
    path = [(layer, int(n)) for layer, n in enumerate(found.neuron.values[0])]
    for axis, row, ids in (("text", 1, OTHER), ("other_text", 1, IDS), ("text", 0, IDS)):
        labels = {"path": "chosen", axis: str(found[axis].values[row])}
        place = Place("text_change", labels, 0.0, {}, given, answer=numbers)
        shown = ll.neuron_path.open(model, texts, options, place)
        table = {one[0]: one[1] for one in shown.tables[0].rows}
        with torch.no_grad():
            first = plain("gpt2")(torch.tensor([ids])).logits[0, -1].softmax(-1)
        assert table[model.token_string(int(first.argmax()))] == pytest.approx(float(first.max()))
        assert str(ids) in shown.code and f"neuron={path[0][1]}" in shown.code


@pytest.mark.parametrize("length", [6, 60])
def test_the_bytes_that_are_told_are_those_that_are_held(length: int) -> None:
    model, ids = wrapped("llama"), [5 + i * 7 % 60 for i in range(length)]
    options: dict[str, Any] = {"steps": 1, "draws": 1, "candidates": 1, "layers": [0, 1]}
    ll.neuron_path(model, ids, **options)  # finds out once what this model can
    held = most_bytes(lambda: ll.neuron_path(model, ids, **options))
    told = ll.estimate("neuron_path", model, ids, **options).bytes
    assert 0.7 < told / held < 1.4


def test_what_is_asked_wrongly() -> None:
    model = wrapped("gpt2")
    with pytest.raises(InputError, match="completeness"):
        ll.neuron_path(model, IDS, measure="complete")
    with pytest.raises(InputError, match="steps is 0"):
        ll.neuron_path(model, IDS, steps=0)
    with pytest.raises(InputError, match="A rank has no derivative"):
        ll.neuron_path(model, IDS, metric="rank")
    with pytest.raises(InputError, match="give others"):
        ll.neuron_path(model, IDS, others_answer=3)
