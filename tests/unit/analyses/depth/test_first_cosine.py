"""Cosines with the first token: by hand, of planted sinks, and of states at right angles."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.depth.first_cosine import cosines
from layerlens.errors import InputError

from .. import by_hooks, without

TEXTS = without.TEXTS


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


@pytest.mark.parametrize("family", without.FAMILIES)
def test_every_cell_equals_plain_hooks(family: str) -> None:
    found = ll.first_cosine(by_hooks.wrapped(family), TEXTS)
    assert found.checks.ok
    assert found.data.attrs["complete"] == 1
    for row, ids in enumerate(TEXTS):
        states, _ = without.run(by_hooks.plain(family), ids)
        for layer, state in enumerate(states[1:]):
            here = found.data.isel(batch=row, layer=layer)
            n = len(ids)
            own = [cosine(state[t], state[0]) for t in range(n)]
            np.testing.assert_allclose(here.cosine[:n], own, atol=1e-5)
            chance = [
                np.mean([cosine(state[t], state[j]) for j in range(1, n) if j != t])
                for t in range(n)
            ]
            np.testing.assert_allclose(here.cosine_chance[:n], chance, atol=1e-5)
            assert np.isnan(here.cosine[n:]).all()
            wanted = np.mean(np.square(own[1:]))
            assert float(here.decorrelation) == pytest.approx(wanted, abs=1e-5)
            pairs = [cosine(state[a], state[b]) ** 2 for a, b in combinations(range(1, n), 2)]
            assert float(here.decorrelation_chance) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_states_at_right_angles_have_none_and_a_planted_sink_has_it_all() -> None:
    states = torch.eye(4, 6) * torch.tensor([[3.0], [1.0], [2.0], [5.0]])
    found, _ = cosines(states)
    np.testing.assert_allclose(found["cosine"], [1, 0, 0, 0], atol=1e-12)
    assert float(found["decorrelation"]) == float(found["decorrelation_chance"]) == 0
    states[2] = 7 * states[0]
    found, _ = cosines(states)
    np.testing.assert_allclose(found["cosine"], [1, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found["cosine_chance"], [1 / 3, 0, 0, 0], atol=1e-12)
    assert float(found["decorrelation"]) == pytest.approx(1 / 3)


def test_copies_of_the_first_token_count_in_full_and_so_does_their_control() -> None:
    found, _ = cosines(torch.outer(torch.tensor([1.0, 2, -3]), torch.arange(1.0, 6)))
    np.testing.assert_allclose(found["cosine"], [1, 1, -1])
    assert float(found["decorrelation"]) == pytest.approx(1)
    assert float(found["decorrelation_chance"]) == pytest.approx(1)


def test_a_state_of_zeros_has_no_direction_and_two_tokens_have_no_control() -> None:
    found, _ = cosines(torch.tensor([[1.0, 0], [0, 0], [0, 1], [1, 0]]))
    np.testing.assert_allclose(found["cosine"], [1, np.nan, 0, 1])
    assert float(found["decorrelation"]) == pytest.approx(0.5)
    alone, _ = cosines(torch.eye(2))
    np.testing.assert_array_equal(alone["cosine_chance"], [0, np.nan])
    assert np.isnan(alone["decorrelation_chance"])


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(InputError, match="one token"):
        ll.first_cosine(by_hooks.wrapped("gpt2"), [[5, 9], [3]])
