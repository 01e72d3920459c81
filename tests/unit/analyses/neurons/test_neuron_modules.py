"""Modules of neurons: planted ones are found, independent neurons have none, losses are plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import layerlens as ll
from layerlens.analyses.neurons.modules import (
    balanced,
    between,
    communities,
    fired,
    nearest,
    rewired,
    together,
)
from layerlens.errors import InputError
from tests.unit.analyses.by_hooks import part, wrapped

TRUE = np.repeat(np.arange(4), 20)
TEXTS = [[(3 * i + 7 * k) % 90 + 3 for k in range(12)] for i in range(8)]


def planted(generator: np.random.Generator) -> np.ndarray:
    """Activations of four groups, each with a signal of its own and noise."""
    signal = generator.standard_normal((600, 4))
    return signal[:, TRUE] * 3 + generator.standard_normal((600, len(TRUE)))


def test_planted_groups_are_found_and_follow_their_neurons() -> None:
    generator = np.random.default_rng(0)
    values = planted(generator)
    likeness = together(fired(values, 0.1))
    labels, modularity = communities(nearest(likeness, 8), 0)
    assert adjusted_rand_score(TRUE, labels) == 1
    assert modularity == pytest.approx(0.75, abs=0.02)  # four parts of one size
    order = generator.permutation(len(TRUE))
    moved, _ = communities(nearest(together(fired(values[:, order], 0.1)), 8), 0)
    assert adjusted_rand_score(labels[order], moved) == 1
    inside = between(likeness, labels, range(4))
    assert np.diag(inside).min() > 0.3
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 0.1


def test_phi_is_the_correlation_of_what_fires() -> None:
    on = np.random.default_rng(1).random((50, 6)) < 0.3
    expected = np.corrcoef(on.T.astype(float))
    np.testing.assert_allclose(together(on), expected, atol=1e-5)


def test_independent_neurons_have_no_more_modules_than_rewired_graphs() -> None:
    generator = np.random.default_rng(2)
    graph = nearest(together(fired(generator.standard_normal((600, 120)), 0.1)), 8)
    _, modularity = communities(graph, 0)
    others = [communities(rewired(graph, generator), draw)[1] for draw in range(8)]
    assert abs(modularity - np.mean(others)) < 0.06


def test_a_rewired_graph_keeps_how_many_edges_a_neuron_has() -> None:
    generator = np.random.default_rng(3)
    graph = nearest(together(fired(planted(generator), 0.1)), 6)
    other = rewired(graph, generator)

    def degrees(one: object) -> np.ndarray:
        return np.bincount(np.concatenate([one.row, one.col]), minlength=80)  # type: ignore[attr-defined]

    assert degrees(other).sum() > 0.8 * degrees(graph).sum()
    assert np.all(degrees(other) <= degrees(graph))


def test_groups_by_weights_are_of_one_size_and_found() -> None:
    generator = np.random.default_rng(4)
    rows = generator.standard_normal((4, 16))[TRUE] + 0.1 * generator.standard_normal((80, 16))
    labels = balanced(rows, 4, 0)
    assert np.bincount(labels).tolist() == [20] * 4
    assert adjusted_rand_score(TRUE, labels) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_module_at_zero_costs_what_plain_hooks_say(family: str) -> None:
    model = wrapped(family)
    found = ll.neuron_modules(model, TEXTS, 1, draws=1, modules=2, neighbours=3)
    order = np.random.default_rng(0).permutation(len(TEXTS)).tolist()
    neurons = np.flatnonzero(found.data.module_of.values == 0).tolist()

    def loss(zeroed: list[int]) -> float:
        def change(module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            given = args[0].clone()
            given[..., zeroed] = 0
            return (given,)

        hook = part(model.hf, 1, "neurons").register_forward_pre_hook(change)
        losses = []
        with torch.no_grad():
            for row in sorted(order[1::2]):
                ids = torch.tensor([TEXTS[row]])
                rows = model.hf(ids).logits[0, 1:-1]
                losses.append(torch.nn.functional.cross_entropy(rows, ids[0, 2:]).item())
        hook.remove()
        return float(np.mean(losses))

    expected = loss(neurons) - loss([])
    assert float(found.data.loss_change[0]) == pytest.approx(expected, abs=1e-4)
    assert found.checks.ok
    assert len(neurons) == int(found.data["size"][0])


def test_groups_have_their_own_firing() -> None:
    groups = ["a", "b"] * 4
    found = ll.neuron_modules(
        wrapped("llama"), TEXTS, 0, groups=groups, draws=1, modules=1, neighbours=3
    )
    assert found.data.firing.dims == ("module", "group")
    assert found.data.group.values.tolist() == ["a", "b"]


def test_what_is_asked_wrongly() -> None:
    model = wrapped("llama")
    with pytest.raises(InputError, match="Texts given: 3; expected 4"):
        ll.neuron_modules(model, TEXTS[:3], 0)
    with pytest.raises(InputError, match="share is 2"):
        ll.neuron_modules(model, TEXTS, 0, share=2)
