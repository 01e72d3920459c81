"""Two layers changed at once: plain runs with other weights, and the whole Hessian of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.analyses.sensitivity.block_changes import BlockChanges
from layerlens.analyses.sensitivity.cross_layer_run import CrossLayerRun
from layerlens.analyses.sensitivity.curvature import Curvature
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks, without
from .test_hessian import IDS, block, small

Change = Callable[[nn.Module], None]


def loss(hf: Any, changed: Sequence[tuple[int, Change]], texts: Sequence[Sequence[int]]) -> float:
    """Mean loss of a copy whose blocks were changed, as plain transformers has it."""
    hf = copy.deepcopy(hf)
    with torch.no_grad():
        for layer, change in changed:
            change(by_hooks.blocks(hf)[layer])
        each = [
            nn.functional.cross_entropy(
                hf(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:])
            )
            for ids in texts
        ]
    return float(torch.stack(each).mean())


def rounded(weight: Tensor, bits: int) -> Tensor:
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def round_linear(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.copy_(rounded(part.weight, 3))


def remove(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if name.endswith(("o_proj", "down_proj", "c_proj")):
            for p in part.parameters():
                p.zero_()


@pytest.mark.parametrize(
    ("family", "change", "by_hand"),
    [("llama", "round", round_linear), ("llama", "remove", remove), ("gpt2", "remove", remove)],
)
def test_interactions_are_those_of_changed_models(
    family: str, change: str, by_hand: Change
) -> None:
    model, texts = by_hooks.wrapped(family), without.TEXTS[:2]
    options = {"bits": 3} if change == "round" else {}
    found = ll.cross_layer_sensitivity(
        model, texts, change=change, layers=[0, 2], second_order=False, **options
    )
    assert found.checks.ok and found.data.attrs["complete"] == 1
    hf = by_hooks.plain(family)
    none, a, b, ab = (
        loss(hf, [(layer, by_hand) for layer in layers], texts)
        for layers in ((), (0,), (2,), (0, 2))
    )
    data = found.data
    assert float(data.loss) == pytest.approx(none, abs=1e-5)
    np.testing.assert_allclose(data.alone, [a - none, b - none], atol=2e-5)
    assert float(data.interaction[0, 1]) == pytest.approx(ab - a - b + none, abs=4e-5)
    assert float(data.interaction[0, 1]) == float(data.interaction[1, 0])
    assert float(data.all_at_once) == pytest.approx(ab - none, abs=2e-5)
    assert float(data.additivity[0, 1]) == pytest.approx((a + b - 2 * none) / (ab - none), rel=1e-2)
    for layer, own in zip(by_hooks.blocks(hf), by_hooks.blocks(model.hf), strict=True):
        assert all(
            torch.equal(p, q) for p, q in zip(layer.parameters(), own.parameters(), strict=True)
        )


def test_averaged_neighbours_have_one_mean() -> None:
    model, texts, hf = by_hooks.wrapped("llama"), without.TEXTS[:1], by_hooks.plain("llama")
    own = [[p.detach().clone() for p in block.parameters()] for block in by_hooks.blocks(hf)]

    def halfway(module: nn.Module) -> None:
        for p, one, other in zip(module.parameters(), own[1], own[2], strict=True):
            p.copy_((one + other) / 2)

    found = ll.cross_layer_sensitivity(model, texts, change="average", control=False)
    assert found.checks.ok
    none, b, c, both = (
        loss(hf, [(layer, halfway) for layer in layers], texts)
        for layers in ((), (1,), (2,), (1, 2))
    )
    assert float(found.data.interaction[1, 2]) == pytest.approx(both - b - c + none, abs=4e-5)
    assert np.isnan(found.data.interaction[0, 2]) and "alone" not in found.data


def test_second_order_is_the_product_with_the_whole_hessian() -> None:
    found = ll.cross_layer_sensitivity(small(), IDS, bits=3, control=False)
    assert found.checks.ok
    added = []
    for module in by_hooks.blocks(small().hf):
        parts = [
            rounded(p.detach(), 3) - p.detach() if p.dim() == 2 else torch.zeros_like(p)
            for p in module.parameters()
        ]
        added.append(torch.cat([part.flatten() for part in parts]).double())
    wanted = float(added[0] @ block(0, 1) @ added[1])
    assert float(found.data.second_order[0, 1]) == pytest.approx(wanted, rel=1e-3)
    error = float(found.data.second_order_error[0, 1])
    assert error == pytest.approx(wanted - float(found.data.interaction[0, 1]), rel=1e-2)


def test_the_hessian_foresees_small_changes_and_not_large_ones() -> None:
    off = []
    for bits in (6, 3):
        data = ll.cross_layer_sensitivity(small(), IDS, bits=bits, control=False).data
        off.append(abs(float(data.second_order_error[0, 1] / data.interaction[0, 1])))
    assert off[0] < 0.02 and off[1] > 0.5


def test_a_block_that_adds_nothing_interacts_with_none() -> None:
    model = by_hooks.wrapped("llama")
    with torch.no_grad():
        remove(by_hooks.blocks(model.hf)[1])
    found = ll.cross_layer_sensitivity(model, without.TEXTS[:1], change="remove")
    assert found.checks.ok
    np.testing.assert_allclose(found.data.alone[1], 0, atol=1e-6)
    np.testing.assert_allclose(found.data.interaction.values[1, [0, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(found.data.second_order.values[1, [0, 2]], 0, atol=1e-6)


def test_random_changes_are_as_long() -> None:
    model = by_hooks.wrapped("llama")
    changes = BlockChanges(model, "round", [0, 1, 2], 3)
    sizes = [p.numel() for p in changes.groups[1]]
    true, random = changes.of(1, 0).split(sizes), changes.random(1, 0, 5).split(sizes)
    for one, other in zip(true, random, strict=True):
        assert float(other.norm()) == pytest.approx(float(one.norm()), rel=1e-4)
        assert not torch.allclose(one, other)


def test_its_check_fails_where_a_run_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CrossLayerRun._loss
    monkeypatch.setattr(
        CrossLayerRun, "_loss", lambda self, text, last: right(self, text, last) ** 2
    )
    found = ll.cross_layer_sensitivity(small(), IDS, bits=2, second_order=False, control=False)
    assert [check.ok for check in found.checks] == [False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"change": "prune"}, "'prune' is not known"),
        ({"bits": 1}, "from 2 to 24"),
        ({"change": "remove", "bits": 3}, "change='round'"),
        ({"layers": 1}, "two or more"),
        ({"change": "average", "layers": [0, 2]}, "no two are neighbours"),
        ({"skip_first": 9}, "No next token counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.cross_layer_sensitivity(by_hooks.wrapped("llama"), without.TEXTS, **options)


@pytest.mark.parametrize("change", ["round", "average"])
def test_its_check_fails_where_a_product_is_wrong(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Curvature._second

    def wrong(*given: Any, **options: Any) -> dict[int, Tensor]:
        return {group: 1.2 * part for group, part in right(*given, **options).items()}

    monkeypatch.setattr(Curvature, "_second", wrong)
    options = {"bits": 3} if change == "round" else {}
    found = ll.cross_layer_sensitivity(small(), IDS, change=change, control=False, **options)
    checks = {check.name: check for check in found.checks}
    assert checks["naive agreement"].ok and not checks["difference of gradients"].ok


def test_where_nothing_bends_rounding_is_no_error() -> None:
    """Behind Gemma 2's norms the scale of o and down says nothing, until they are 0."""
    model = LensModel.wrap(tiny_model("gemma2", seed=1), None, name="gemma2", prove=False)
    found = ll.cross_layer_sensitivity(model, IDS, change="remove", layers=[0, 1], control=False)
    assert found.checks.ok and abs(float(found.data.second_order[0, 1])) < 1e-6
    assert abs(float(found.data.interaction[0, 1])) > 1e-3
