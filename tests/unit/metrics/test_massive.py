"""Massive activations: planted ones are found, with their place; against plain hooks."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError

NAME = "massive_activations"


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, NAME, options={NAME: {"k": 4}})
    streams = [measuring.states(model, text)[1:] for text in measuring.TEXTS]
    for layer in range(model.n_layers):
        sizes = [stream[layer].abs() for stream in streams]
        top = np.mean([size.flatten().topk(4).values.tolist() for size in sizes], 0)
        np.testing.assert_allclose(found[NAME][layer], top, rtol=1e-5)
        middle = np.mean([float(size.flatten().median()) for size in sizes])
        np.testing.assert_allclose(found[f"{NAME}_median"][layer], middle, rtol=1e-5)
        entries = [
            (-abs(float(stream[layer][t, j])), j, t, text, float(stream[layer][t, j]))
            for text, stream in enumerate(streams)
            for t in range(len(measuring.TEXTS[text]))
            for j in range(model.d_model)
        ]
        seen: dict[int, tuple[float, int, int, int, float]] = {}
        for entry in sorted(entries):
            seen.setdefault(entry[1], entry)
        for rank, (_, dimension, t, text, value) in enumerate(list(seen.values())[:4]):
            place = {"dimension": dimension, "position": t, "text": text}
            place["token"] = measuring.TEXTS[text][t]
            for name, expected in place.items():
                assert found[f"{NAME}_{name}"][layer, rank] == expected
            np.testing.assert_allclose(found[f"{NAME}_value"][layer, rank], value, rtol=1e-5)


def plant(h: torch.Tensor) -> torch.Tensor:
    """A value of -500 in dimension 7 of the first token, 300 in dimension 2 of token 2."""
    h = h.clone()
    h[:, 0, 7] = -500
    h[:, 2, 2] = 300
    return h


def test_planted_values_are_found_exactly() -> None:
    model = measuring.planted(64, [lambda h: h, plant, lambda h: h])
    with torch.no_grad():
        model.hf.transformer.wte.weight.mul_(0.2)
    texts = [[4, 5, 6, 1], [9, 8, 7, 2, 3]]
    found = measuring.measure(model, NAME, texts, skip_first=True)
    assert found[f"{NAME}_count"].tolist() == [0, 2, 2]
    for layer in (1, 2):
        assert found[f"{NAME}_value"][layer, :2].tolist() == [-500, 300]
        assert found[f"{NAME}_dimension"][layer, :2].tolist() == [7, 2]
        assert found[f"{NAME}_position"][layer, :2].tolist() == [0, 2]
        assert found[f"{NAME}_token"][layer, :2].tolist() == [4, 6]
        assert found[f"{NAME}_text"][layer, :2].tolist() == [0, 0]
        np.testing.assert_allclose(found[NAME][layer, :2], [500, 300])
    assert (np.diff(found[NAME]) <= 0).all()


def test_small_states_have_none_but_by_the_relative_rule() -> None:
    model = measuring.planted(64, [plant, lambda h: 0.01 * h])
    with torch.no_grad():
        model.hf.transformer.wte.weight.mul_(0.2)
    texts = [[4, 5, 6, 1]]
    count = measuring.measure(model, NAME, texts)[f"{NAME}_count"]
    assert count.tolist() == [2, 0]
    relative = measuring.measure(model, NAME, texts, options={NAME: {"relative": True}})
    assert relative[f"{NAME}_count"].tolist() == [2, 2]


def test_bad_k() -> None:
    with pytest.raises(InputError, match="k is 0; expected 1 to"):
        measuring.measure(measuring.tiny("llama"), NAME, options={NAME: {"k": 0}})
