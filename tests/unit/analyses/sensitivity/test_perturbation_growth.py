"""Small changes followed through the layers: known growth, linear for small ones, the worst one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError
from tests.unit.metrics import measuring

from .. import by_hooks, without

TEXTS = without.TEXTS


def test_layers_that_hand_on_or_scale_leave_the_relative_change_as_it_is() -> None:
    model = measuring.planted(16, [lambda h: h, lambda h: -3 * h, lambda h: h * 0.5])
    found = ll.perturbation_growth(model, [[4, 5, 6, 1], [9, 8, 7, 2, 3]], epsilon=0.05, steps=3)
    assert found.checks.ok
    for way in ("", "_chance"):
        np.testing.assert_allclose(found.data[f"growth{way}"], 0.05, rtol=1e-4)
    np.testing.assert_allclose(found.data.ratio, 1, rtol=1e-4)
    assert float(found.data.loss_change) > float(found.data.loss_change_chance)


def test_a_layer_that_lets_one_direction_through_takes_the_share_of_the_rest() -> None:
    """Of a random change of width d, one dimension has about 1/d of the square."""

    def only(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[..., :1], torch.zeros_like(h[..., 1:])], -1)

    model = measuring.planted(64, [only])
    with torch.no_grad():
        model.hf.transformer.wte.weight[:] = 0
        model.hf.transformer.wte.weight[:, 0] = 2.0
        model.hf.lm_head.weight = torch.nn.Parameter(torch.randn(40, 64))
    texts = [list(range(1, 39))]
    data = ll.perturbation_growth(model, texts, steps=1, draws=20, skip_first=False).data
    assert float(data.growth_chance[0]) == pytest.approx(0.05 / 8, rel=0.15)


@pytest.mark.parametrize("family", without.FAMILIES)
def test_growth_equals_plain_hooks(family: str) -> None:
    """The random change is drawn again by hand; the rest is transformers' own."""
    model = by_hooks.wrapped(family)
    data = ll.perturbation_growth(model, TEXTS[:1], steps=1, draws=1, seed=3, epsilon=0.1).data
    hf, ids = by_hooks.plain(family), TEXTS[0]
    clean, logits = without.run(hf, ids)
    drawn = np.random.default_rng((3, 0)).standard_normal(tuple(clean[0].shape))
    change = torch.from_numpy(drawn).float()
    change *= 0.1 * clean[0].norm(dim=-1, keepdim=True) / change.norm(dim=-1, keepdim=True)

    def add(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] + change, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + change}

    handle = by_hooks.blocks(hf)[0].register_forward_pre_hook(add, with_kwargs=True)
    states, other = without.run(hf, ids)
    handle.remove()
    for layer in range(3):
        a, b = clean[layer + 1][1:], states[layer + 1][1:]
        wanted = float((b - a).norm() / a.norm())
        assert float(data.growth_chance[layer]) == pytest.approx(wanted, rel=1e-3)
    wanted = float((without.loss(other, ids) - without.loss(logits, ids))[1:].mean())
    assert float(data.loss_change_chance) == pytest.approx(wanted, abs=1e-5)


def test_small_changes_grow_in_proportion_and_the_worst_is_worse() -> None:
    model = by_hooks.wrapped("llama")
    one, ten = (
        ll.perturbation_growth(model, TEXTS, epsilon=epsilon, steps=8).data
        for epsilon in (0.001, 0.01)
    )
    np.testing.assert_allclose(ten.growth_chance / one.growth_chance, 10, rtol=0.05)
    assert float(ten.loss_change) > 3 * abs(float(ten.loss_change_chance))
    assert all(p.grad is None for p in model.hf.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 2.0}, "epsilon"),
        ({"steps": 0}, "steps"),
        ({"draws": 0}, "draws"),
        ({"skip_first": 3}, "shortest text has 4"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.perturbation_growth(by_hooks.wrapped("gpt2"), TEXTS, **options)


def test_the_layer_that_stretches_what_hurts_stands_out_for_the_worst_change_alone() -> None:
    """One direction of the states decides the loss; one layer makes it alone larger."""

    def stretch(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[..., :1] * 8, h[..., 1:]], -1)

    def shrink(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[..., :1] / 8, h[..., 1:]], -1)

    def keep(h: torch.Tensor) -> torch.Tensor:
        return h

    model = measuring.planted(64, [keep, stretch, shrink, keep, keep, keep])
    with torch.no_grad():
        model.hf.transformer.wte.weight[:] = torch.randn(40, 64)
        model.hf.transformer.wte.weight[:, 0] = 0
        model.hf.lm_head.weight = torch.nn.Parameter(torch.zeros(40, 64))
        model.hf.lm_head.weight[:, 0] = torch.linspace(-3, 3, 40)
    found = ll.perturbation_growth(model, [[4, 5, 6, 1], [9, 8, 7, 2, 3]], steps=12)
    data = found.data
    assert data.vulnerable.values.tolist() == [0, 1, 0, 0, 0, 0]
    # A random change has 1/64 of its square there: it grows to the root of (63 + 64) / 64.
    assert float(data.gain_chance[1]) == pytest.approx(2**0.5, rel=0.2)
    assert float(data.gain[1]) > 2 * float(data.gain_chance[1])
    np.testing.assert_allclose(data.gain[3:], 1, rtol=1e-4)
    assert any("after layer 1;" in note for note in json.loads(found.data.attrs["notes"]))


def test_layers_that_are_alike_do_not_stand_out_by_rounding() -> None:
    model = measuring.planted(16, [lambda h: h * 1.1] * 3)
    found = ll.perturbation_growth(model, [[4, 5, 6, 1]], steps=1)
    assert not found.data.vulnerable.any() and not found.data.vulnerable_chance.any()
    assert any("No layer stands out" in note for note in json.loads(found.data.attrs["notes"]))
