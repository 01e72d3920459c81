"""The interaction basis: exact Jacobians, spectra that are known, plain hooks, the toy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.circuits.basis import (
    SMALLEST,
    Basis,
    effective_rank,
    interaction,
    misfit,
    moved,
    principal,
)
from layerlens.analyses.circuits.basis_run import WAYS, sensitivity
from layerlens.analyses.circuits.basis_states import BasisStates
from layerlens.analyses.contract.cells import Place
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from ..by_hooks import blocks, plain, wrapped

DRAWS = 400
TEXTS = [[(5 * i + 7 * k) % 90 + 3 for k in range(6)] for i in range(6)]


def covariance(generator: np.random.Generator, width: int, rank: int) -> np.ndarray:
    """A random one of some rank."""
    rows = generator.standard_normal((rank, width))
    return rows.T @ rows


def test_white_inputs_of_a_linear_layer_have_its_squared_singular_values() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 7))
    found = interaction(np.zeros(7), np.eye(7), weight.T @ weight)
    np.testing.assert_allclose(found.strength, np.linalg.svd(weight)[1] ** 2)


def test_strengths_are_the_eigenvalues_of_the_product_in_any_coordinates() -> None:
    generator = np.random.default_rng(1)
    gram, matter = (covariance(generator, 8, rank) for rank in (6, 5))
    found = interaction(np.zeros(8), gram, matter)
    expected = np.sort(np.linalg.eigvals(gram @ matter).real)[::-1]
    np.testing.assert_allclose(found.strength, expected[: len(found)], rtol=1e-8)
    assert len(found) == 5  # what varies and matters
    assert expected[5] < SMALLEST * expected[0] * 100
    assert moved(gram, matter, generator) < 1e-10
    assert misfit(found, gram, matter) < 1e-6
    swapped = Basis(found.mean, found.read[:, ::-1], found.write[::-1], found.strength)
    assert misfit(swapped, gram, matter) > 0.1


def test_a_copied_neuron_adds_no_direction() -> None:
    generator = np.random.default_rng(2)
    gram, matter = covariance(generator, 5, 5), covariance(generator, 5, 5)
    copy = np.vstack([np.eye(5), np.eye(5)[:1]])  # the sixth is the first again
    both = np.hstack([np.eye(5), np.zeros((5, 1))])  # what follows reads the first alone
    found = interaction(np.zeros(6), copy @ gram @ copy.T, both.T @ matter @ both)
    alone = interaction(np.zeros(5), gram, matter)
    np.testing.assert_allclose(found.strength, alone.strength, rtol=1e-8)


def test_what_nothing_depends_on_is_left_out_however_it_varies() -> None:
    gram = np.diag([100.0, 1.0, 1.0])
    found = interaction(np.zeros(3), gram, np.diag([0.0, 4.0, 1.0]))
    np.testing.assert_allclose(found.strength, [4, 1])
    kept = found.projector(1)
    np.testing.assert_allclose(kept, np.diag([0.0, 1.0, 0.0]), atol=1e-12)
    assert principal(np.zeros(3), gram).projector(1)[0, 0] == pytest.approx(1)
    assert effective_rank(np.array([1.0, 1.0, 1.0, 0.0])) == pytest.approx(3)


def states_of(model: LensModel, *, last: bool) -> BasisStates:
    make = partial(BasisStates, model, model.tokens(TEXTS), [0, 1], tick=lambda: None)
    return make(last=last, skip=1, for_autograd=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("last", [False, True])
def test_products_with_signs_have_the_mean_of_exact_jacobians(family: str, last: bool) -> None:
    model = wrapped(family)
    with model.running(gradients=True):
        states = states_of(model, last=last)
        width = model.d_model
        generator = np.random.default_rng(3)
        after = Basis(np.zeros(width), generator.standard_normal((width, 3)), np.zeros((3, width)),
                      np.ones(3))  # fmt: skip
        found = sensitivity(states, 0, after, DRAWS, (0,), lambda: None)
        head = sensitivity(states, 2, None, DRAWS, (0,), lambda: None)
    hf, exact, final, count = plain(family), np.zeros((width, width)), np.zeros((width, width)), 0
    read = torch.from_numpy(after.read).float()
    for text in TEXTS:
        state, args, kwargs = given(hf, text)
        seen = slice(4, 5) if last else slice(1, 5)

        def following(
            rows: torch.Tensor, state: Any = state, args: Any = args, kwargs: Any = kwargs
        ) -> torch.Tensor:
            whole = torch.cat([state[:1], rows, state[5:]])
            made = blocks(hf)[0](whole[None], *args, **kwargs)
            return (made if isinstance(made, torch.Tensor) else made[0])[0, 1:5] @ read

        jacobian = torch.autograd.functional.jacobian(following, state[1:5])  # [out, k, in, d]
        by = jacobian.movedim(2, 0).flatten(1, 2)
        exact += torch.einsum("tkd,tke->de", by, by).double().numpy()
        count += 4
        top = states_after(hf, text)[seen]

        def logits(rows: torch.Tensor) -> torch.Tensor:
            made = model.unembed(rows).float()
            return made - made.mean(-1, keepdim=True)

        for row in top:
            slope = torch.autograd.functional.jacobian(logits, row)
            final += (slope.T @ slope).double().numpy() / (len(top) * len(TEXTS))
    exact /= count
    assert np.trace(found) == pytest.approx(np.trace(exact), rel=0.1)
    assert np.linalg.norm(found - exact) < 0.35 * np.linalg.norm(exact)
    assert np.linalg.norm(head - final) < 0.35 * np.linalg.norm(final)


def given(hf: Any, text: list[int]) -> tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]:
    """What the first block is called with: its state ``[position, d]``, and all else."""
    seen: list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0][0], args[1:], kwargs))

    hook = blocks(hf)[0].register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        hf(torch.tensor([text]), use_cache=False)
    hook.remove()
    return seen[0]


def states_after(hf: Any, text: list[int]) -> torch.Tensor:
    """What the last block gives: ``[position, d]``."""
    seen: list[torch.Tensor] = []

    def keep(_: object, args: object, made: Any) -> None:
        seen.append(made if isinstance(made, torch.Tensor) else made[0])

    hook = blocks(hf)[-1].register_forward_hook(keep)
    with torch.no_grad():
        hf(torch.tensor([text]), use_cache=False)
    hook.remove()
    return seen[0][0]


def loss_with(hf: Any, texts: list[list[int]], change: Callable[..., Any]) -> float:
    """Mean loss with the states before the second block changed, by a plain hook."""

    def edit(_: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        state = args[0].clone()
        state[0, 1:-1] = change(state[0, 1:-1])
        return (state, *args[1:])

    hook = blocks(hf)[1].register_forward_pre_hook(edit)
    losses = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text])
            rows = hf(ids).logits[0, 1:-1]
            losses.append(torch.nn.functional.cross_entropy(rows, ids[0, 2:]).item())
    hook.remove()
    return float(np.mean(losses))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_kept_coordinates_cost_what_a_plain_hook_says(family: str) -> None:
    model = wrapped(family)
    found = ll.interaction_basis(model, TEXTS, kept=[2], coordinates=4, draws=2, untrained=False)
    order = np.random.default_rng(0).permutation(len(TEXTS)).tolist()
    apart = [TEXTS[row] for row in sorted(order[1::2])]
    at = found.data.sel(point="0_post")
    mean, read, write = (torch.from_numpy(at[name].values) for name in ("mean", "read", "write"))

    def first_two(state: torch.Tensor) -> torch.Tensor:
        return (state - mean) @ read[:2].T @ write[:2] + mean

    hf = plain(family)
    expected = loss_with(hf, apart, first_two) - loss_with(hf, apart, lambda state: state)
    assert float(at.loss_change[0]) == pytest.approx(expected, abs=1e-4)
    assert found.checks.ok
    assert found.data.point.values.tolist()[0] == "embed"


def test_the_toy_needs_few_coordinates_and_they_are_opened() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, 113, (160, 2))
    texts = [f"{a} + {b} = {(a + b) % 113}" for a, b in pairs]
    model, how = ll.load("toy:modular"), {"predict": "last", "kept": [16], "untrained": False}
    found = ll.interaction_basis(model, texts, draws=2, skip_first=False, **how)
    top = found.data.sel(point="0_post", kept=16)
    assert float(top.loss_change) < 0.1 < float(top.loss_change_random)
    answer = {str(name): array.values for name, array in found.data.data_vars.items()}
    place = Place("rank", {"point": "0_post"}, 0.0, {}, {"text": texts}, answer=answer)
    opened = ll.interaction_basis.open(model, texts, {**how, "skip_first": False}, place)
    rows = opened.tables[0].rows
    assert rows[0][2] > 10 * abs(rows[0][3])
    losses = [float(top[f"loss_change{way}"]) for way in WAYS]
    assert opened.tables[1].rows == [[16, *losses]]
    # Over both states, and how many directions each needs: 16 of the last, of random ones all.
    mean = found.data.loss_change_random.mean("point")
    np.testing.assert_allclose(found.data.added_loss_random, mean)
    assert float(top.enough) == 16 and float(top.enough_random) == model.d_model


def test_what_is_asked_wrongly() -> None:
    model = wrapped("llama")
    with pytest.raises(InputError, match="Texts given: 3; expected 4"):
        ll.interaction_basis(model, TEXTS[:3])
    with pytest.raises(InputError, match="numbers from 0 to"):
        ll.interaction_basis(model, TEXTS, kept=[10_000])
    with pytest.raises(InputError, match="predict 'lats'"):
        ll.interaction_basis(model, TEXTS, predict="lats")
