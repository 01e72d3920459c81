"""FinerCut: every step against plain hooks, a planted first pick, and the distances by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.answers import prediction_change
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.depth import finercut_trials
from layerlens.errors import Cancelled, InputError

from .. import by_hooks, without

TEXTS = without.TEXTS
UNITS = [(layer, part) for layer in range(3) for part in ("attn", "mlp")]


def js(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.softmax(-1), q.softmax(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


def js_reference(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.softmax(-1), q.softmax(-1)
    m = (p + q) / 2
    return ((m * (m / p).log()).sum(-1) + (m * (m / q).log()).sum(-1)) / 2


def angular(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a, b, dim=-1).clamp(0, 1).arccos()


def norm(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm().unsqueeze(0)


BY_HAND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "js": js,
    "kl": without.kl,
    "angular": angular,
    "norm": norm,
    "js_reference": js_reference,
}


def greedy(family: str, distance: str, steps: int) -> list[dict[int, float]]:
    """Distance without each sublayer, a step each; the smallest goes."""
    hf = by_hooks.plain(family)
    clean = [without.run(hf, ids)[1] for ids in TEXTS]
    gone: list[int] = []
    found = []
    for _ in range(steps):
        here = {}
        for number in set(range(len(UNITS))) - set(gone):
            parts = [UNITS[i] for i in (*gone, number)]
            other = [without.run(hf, ids, parts=parts)[1] for ids in TEXTS]
            values = [BY_HAND[distance](a, b) for a, b in zip(clean, other, strict=True)]
            here[number] = float(torch.cat(values).mean())
        found.append(here)
        gone.append(min(here, key=lambda number: here[number]))
    return found


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("distance", list(BY_HAND))
def test_every_step_equals_plain_hooks(family: str, distance: str) -> None:
    model = by_hooks.wrapped(family)
    result = ll.finercut(model, TEXTS, steps=3, distance=distance, front=0, verify=3)
    assert result.checks.ok, str(result.checks)
    assert result.data.attrs["complete"] == 1
    for step, wanted in enumerate(greedy(family, distance, 3)):
        row = result.data.distance.values[step]
        for number in range(6):
            if number not in wanted:
                assert np.isnan(row[number])
            else:
                assert row[number] == pytest.approx(wanted[number], abs=2e-5, rel=1e-4)
        best = min(wanted, key=lambda number: wanted[number])
        assert int(result.data.removed[step]) == best
        assert int(result.data.removed_layer[step]) == UNITS[best][0]


@pytest.mark.parametrize("distance", list(BY_HAND))
@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_a_sublayer_that_writes_nothing_goes_first_at_no_distance(distance: str, part: str) -> None:
    model = by_hooks.wrapped("gpt2")
    without.silence(model.hf, 1, [part])
    data = ll.finercut(model, TEXTS, steps=1, distance=distance, front=0).data
    assert str(data.sublayer.values[int(data.removed[0])]) == f"1 {part}"
    assert float(data.removed_distance[0]) == 0
    assert float(data.removed_loss[0]) == float(data.loss)


def test_the_front_is_kept_until_nothing_else_is_left() -> None:
    data = ll.finercut(by_hooks.wrapped("llama"), TEXTS[0], steps=6, front=0.5).data
    assert set(data.removed.values[:3]) == {3, 4, 5} and set(data.removed.values[3:]) == {0, 1, 2}
    assert np.isnan(data.distance.values[:3, :3]).all()


def test_distances_know_their_bounds() -> None:
    torch.manual_seed(0)
    a, b = 3 * torch.randn(2, 7, 11)
    far = torch.full((1, 4), -100.0)
    apart = far.clone(), far.clone()
    apart[0][0, 0] = apart[1][0, 1] = 100.0
    assert float(prediction_change.js(*apart)[0]) == pytest.approx(math.log(2))
    assert torch.allclose(prediction_change.js(a, b), prediction_change.js(b, a))
    assert (prediction_change.js(a, b) <= math.log(2)).all() and (
        prediction_change.kl(a, b) > 0
    ).all()
    assert torch.allclose(prediction_change.kl(a, b), prediction_change.kl(a + 5, b - 3), atol=1e-5)
    excluded = torch.tensor([[0.0, 1.0, -math.inf]])
    assert float(prediction_change.kl(excluded, excluded)[0]) == 0
    assert float(prediction_change.js(excluded, torch.tensor([[1.0, 0.0, -math.inf]]))[0]) > 0
    assert float(prediction_change.square(excluded, excluded)[0]) == 0
    both = torch.tensor([[1.0, 0.5, -math.inf, -300.0], [0.5, 1.0, -math.inf, -500.0]])
    wanted = js(both[:1, :2].double(), both[1:, :2].double())
    assert float(prediction_change.js(both[:1], both[1:])[0]) == pytest.approx(float(wanted))


def test_logits_are_compared_in_parts_that_fit_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = by_hooks.wrapped("llama")
    most = 3
    monkeypatch.setattr(prediction_change, "CACHE_BYTES", most * 4 * model.d_vocab)
    seen: list[int] = []

    def watched(clean: Tensor, other: Tensor) -> Tensor:
        seen.append(len(clean))
        return prediction_change.js(clean, other)

    whole = ll.finercut(model, TEXTS, steps=1, front=0).data
    monkeypatch.setitem(prediction_change.DISTANCES, "js", watched)
    parts = ll.finercut(model, TEXTS, steps=1, front=0).data
    assert max(seen) == most < sum(map(len, TEXTS))
    np.testing.assert_array_equal(parts.distance, whole.distance)


def test_batches_and_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = by_hooks.wrapped("gpt_neox")
    whole = ll.finercut(model, TEXTS, steps=2, front=0).data
    monkeypatch.setattr(prediction_change, "BUFFER_BYTES", 1)
    monkeypatch.setattr(prediction_change, "KEPT_BYTES", 0)
    monkeypatch.setattr(prediction_change, "CACHE_BYTES", 1)
    small = ll.finercut(model, TEXTS, steps=2, front=0, batch_size=1).data
    for name in ("distance", "removed_loss", "loss"):
        np.testing.assert_allclose(small[name], whole[name], atol=1e-6)
    assert (small.removed == whole.removed).all()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_trials_run_side_by_side_and_are_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = by_hooks.wrapped(family)
    calls: list[int] = []
    last = by_hooks.blocks(model.hf)[-1]
    hook = last.register_forward_hook(lambda *_: calls.append(1))
    together = ll.finercut(model, TEXTS, steps=3, front=0, verify=0).data
    packed = len(calls)
    monkeypatch.setattr(finercut_trials, "TRIAL_TOKENS", 1)
    monkeypatch.setattr(finercut_trials, "KEPT_BYTES", 0)
    alone = ll.finercut(model, TEXTS, steps=3, front=0, verify=0).data
    hook.remove()
    assert packed < (len(calls) - packed) / 2
    for name in ("distance", "removed_loss", "loss"):
        np.testing.assert_allclose(alone[name], together[name], atol=1e-6)
    assert (alone.removed == together.removed).all()


def test_a_stop_keeps_the_steps_that_were_done() -> None:
    class Stop(Silent):
        steps = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.steps += "removed" in arrays

        def cancelled(self) -> bool:
            return self.steps == 1

    model = by_hooks.wrapped("llama")
    with pytest.raises(Cancelled) as caught:
        ll.finercut.run(model, TEXTS, {"steps": 3, "front": 0}, Stop())
    partial = caught.value.partial.data  # type: ignore[union-attr]
    assert partial.removed.values[0] >= 0 and (partial.removed.values[1:] == -1).all()
    assert not any(module._forward_hooks for module in model.hf.modules())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distance": "cosine"}, "js, kl, angular"),
        ({"steps": 7}, "1 to 6"),
        ({"front": 1.5}, "front"),
        ({"skip_first": 99}, "counts"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.finercut(by_hooks.wrapped("gpt2"), TEXTS, **options)
