"""Links between coordinates: exact Jacobians, plain blocks, planted modules, the whole graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.circuits.basis import Basis
from layerlens.analyses.circuits.basis_edges import passed, really_passed
from layerlens.analyses.circuits.basis_graph import from_below, weighted
from layerlens.analyses.circuits.basis_states import BasisStates
from layerlens.analyses.neurons.modules import communities
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from layerlens.views.answer_cell import place_of

from ..by_hooks import blocks, plain, wrapped
from .test_interaction_basis import TEXTS, given

TOP = 2


def states_of(model: LensModel, *, for_autograd: bool) -> BasisStates:
    make = partial(BasisStates, model, model.tokens(TEXTS), [0, 1], tick=lambda: None)
    return make(last=False, skip=1, for_autograd=for_autograd)


def bases_of(width: int) -> tuple[Basis, Basis]:
    """Two of random directions, of which reading undoes writing."""
    generator = np.random.default_rng(5)
    found = []
    for strength in ([4.0, 1.0, 0.5], [3.0, 2.0, 1.0]):
        read = np.linalg.qr(generator.standard_normal((width, 3)))[0]
        found.append(Basis(generator.standard_normal(width), read, read.T, np.array(strength)))
    return found[0], found[1]


def following(hf: Any, text: list[int], after: Basis) -> tuple[torch.Tensor, Any]:
    """The states that count before the first block, and coordinates after it as their function."""
    state, args, kwargs = given(hf, text)
    read = torch.from_numpy(after.read[:, :TOP]).float()

    def run(rows: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([state[:1], rows, state[5:]])
        made = blocks(hf)[0](whole[None], *args, **kwargs)
        return (made if isinstance(made, torch.Tensor) else made[0])[0, 1:5] @ read

    return state[1:5], run


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_links_are_the_mean_squares_of_exact_jacobians(family: str) -> None:
    model = wrapped(family)
    basis, after = bases_of(model.d_model)
    with model.running(gradients=True):
        states = states_of(model, for_autograd=True)
        found = passed(states, 0, (basis, after), TOP, 80, 0, lambda: None)
    exact, write = np.zeros((TOP, TOP)), torch.from_numpy(basis.write[:TOP]).float()
    for text in TEXTS:
        rows, run = following(plain(family), text, after)
        slope = torch.autograd.functional.jacobian(run, rows)  # [out, i, in, d]
        exact += (slope @ write.T).square().sum((0, 2)).double().numpy() / (4 * len(TEXTS))
    exact *= np.array([4.0, 1.0]) / np.array([[3.0], [2.0]])
    np.testing.assert_allclose(found, exact, rtol=0.2)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_really_passes_is_what_plain_blocks_say(family: str) -> None:
    model = wrapped(family)
    basis, after = bases_of(model.d_model)
    with model.running():
        states = states_of(model, for_autograd=False)
        found = really_passed(states, 0, (basis, after), TOP)
        logits = really_passed(states, 2, (after, None), TOP)
    exact, mean = np.zeros((TOP, TOP)), torch.from_numpy(basis.mean).float()
    for text in TEXTS:
        rows, run = following(plain(family), text, after)
        for j in range(TOP):
            own = torch.from_numpy(np.outer(basis.read[:, j], basis.write[j])).float()
            with torch.no_grad():
                off = run(rows - (rows - mean) @ own) - run(rows)
            exact[:, j] += off.square().sum(0).double().numpy() / (4 * len(TEXTS))
    np.testing.assert_allclose(found, exact / np.array([[3.0], [2.0]]), rtol=1e-3)
    assert logits.shape == (1, TOP) and (logits > 0).all()


def test_planted_modules_are_found_and_dealing_links_out_anew_loses_them() -> None:
    generator = np.random.default_rng(0)
    module = np.array([0, 0, 1, 1])
    own = module[:, None] == module
    between = [np.where(own, 1.0, 0.02) + 0.01 * generator.random((4, 4)) for _ in range(5)]
    labels, modularity = communities(weighted(between, 4), 0)
    # A long way is cut into several modules, but none is of both.
    of = [{*labels.reshape(6, 4)[:, module == one].ravel().tolist()} for one in (0, 1)]
    assert not of[0] & of[1]
    dealt = [generator.permuted(one, axis=0) for one in between]
    assert communities(weighted(dealt, 4), 0)[1] < modularity - 0.1
    graph = weighted([np.array([[1.0, 2.0], [3.0, 4.0]])], 2)
    assert graph.toarray()[1].tolist() == [0, 0, 3, 4]  # the second above, from both below
    assert from_below(np.array([0, 2, 2, 1])).tolist() == [2, 1, 1, 0]


@pytest.fixture(scope="module")
def found() -> Result:
    return ll.interaction_graph(wrapped("llama"), TEXTS, top=2, draws=2, shuffles=3)


def test_the_graph_from_the_logits_down(found: Result) -> None:
    data, layers = found.data, wrapped("llama").n_layers
    assert found.checks.ok and data.sizes["link"] == 2 + layers * 4
    assert data.node.values[0] == "logits" and data.node.values[-1] == "embed 2"
    assert data.node_layer.values[[0, 1, -1]].tolist() == [layers, layers - 1, -1]
    # Into the logits: what share each strength is of all.
    np.testing.assert_allclose(data.weight[:2], data.share.isel(point=-1), rtol=1e-6)
    assert np.isfinite(data.link_effect).all() and float(data.modularity_shuffled) > 0
    # What enters a node is shared out: all that the logits change arrives at the embedding.
    assert float(data.influence[-2:].sum()) == pytest.approx(1, abs=1e-5)


def test_a_coordinate_opens_and_the_logits_do_not(found: Result) -> None:
    model = wrapped("llama")
    inputs, options = found.given or ({}, {})
    place = place_of(found.data, {"array": "influence", "index": [3]})
    opened = ll.interaction_graph.open(model, TEXTS, options, place)
    assert opened.title.startswith("Coordinates of 1_post") and len(opened.tables) == 1
    assert inputs and len(opened.tables[0].rows) == 2
    top = place_of(found.data, {"array": "influence", "index": [0]})
    with pytest.raises(InputError, match="no coordinate"):
        ll.interaction_graph.open(model, TEXTS, options, top)


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(InputError, match="fewer than top"):
        ll.interaction_graph(wrapped("llama"), TEXTS, top=40)
    with pytest.raises(InputError, match="top is 0"):
        ll.interaction_graph(wrapped("llama"), TEXTS, top=0)


def test_the_figure_says_how_many_texts_and_what_is_known_of_the_whole(found: Result) -> None:
    words = [text.get_text() for text in found.figure().texts]
    assert any(text.startswith(f"{len(TEXTS)} texts") for text in words)
    assert any("modularity of the links" in text for text in words)
    assert not any("take away" in text for text in words)  # a variance adds
