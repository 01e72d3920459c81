"""Voids of prompts and of written tokens, against a loop that runs and writes by plain hooks."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError, ModelError
from layerlens.metrics.voids import VoidRule
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.watch_voids import VoidWatch

from .. import by_hooks, without

IDS = [5, 17, 20, 3, 90, 41]
LAYERS = {"llama": "num_hidden_layers", "gpt2": "n_layer", "gpt_neox": "num_hidden_layers"}
FINAL_NORM = {
    "llama": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}
NEW = 5


def deep(family: str) -> PreTrainedModel:
    """Six layers, so that there are voids."""
    hf = tiny_model(family, seed=3, **{LAYERS[family]: 6})
    hf.generation_config.eos_token_id = None
    return hf


def wrapped(family: str) -> LensModel:
    return LensModel.wrap(deep(family), None, name=family, prove=False)


def decide(gains: list[float], gain: float, alpha: float) -> bool:
    """The rule for one layer of one token."""
    return gain < (alpha * (max(gains) - min(gains)) if gains else 0.0)


def one_pass(hf: PreTrainedModel, ids: list[int], alpha: float, skip: bool) -> list[list[Any]]:
    """For each token the (void, gain) of every layer, and last the state for the head.

    ``skip``: a void layer gives what it was given.
    """
    found: list[list[Any]] = [[] for _ in ids]
    active: list[Tensor] = []
    norms: list[float] = []

    def around(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = (args[0] if args else kwargs["hidden_states"])[0]
        if not active:
            active.extend(given.clone())
            norms.extend(float(h.double().norm()) for h in given)
        new = without.first(output).clone()
        for t, after in enumerate(new[0].clone()):
            gain = float(after.double().norm()) - norms[t]
            void = decide([g for _, g in found[t]], gain, alpha)
            found[t].append((void, gain))
            if void and skip:
                new[0, t] = given[t]
            else:
                norms[t] = float(after.double().norm())
            if not void:
                active[t] = after
        return (new, *output[1:]) if isinstance(output, tuple) else new

    with ExitStack() as stack, torch.inference_mode():
        for block in by_hooks.blocks(hf):
            stack.callback(block.register_forward_hook(around, with_kwargs=True).remove)
        logits = hf(torch.tensor([ids]), use_cache=False).logits[0]
    return [*found, [active, logits]]


def write(family: str, variant: str, alpha: float) -> tuple[list[int], list[list[Any]]]:
    """Tokens that were read in the end, and the decisions for each; no cache, greedy."""
    hf, ids = deep(family), list(IDS)
    for step in range(NEW):
        *decided, (active, logits) = one_pass(hf, ids, alpha, variant == "true_skip")
        if step == NEW - 1:
            break
        best = logits[-1]
        if variant == "reference":
            norm = hf.get_submodule(FINAL_NORM[family])
            with torch.inference_mode():
                best = hf.get_output_embeddings()(norm(active[-1]))
        ids.append(int(best.argmax()))
    return ids, decided


@pytest.mark.parametrize("family", without.FAMILIES)
@pytest.mark.parametrize("variant", ["none", "reference", "true_skip"])
def test_what_is_written_and_decided_equals_a_loop(family: str, variant: str) -> None:
    result = ll.voids(wrapped(family), IDS, max_new_tokens=NEW, variant=variant, alpha=0.5)
    data, (ids, decided) = result.data, write(family, variant, 0.5)
    assert result.checks.ok and data.attrs["complete"] == 1
    assert data.input_id.values.tolist() == ids
    masks = np.array([[void for void, _ in token] for token in decided])
    np.testing.assert_array_equal(data.void.values, masks)
    gains = np.array([[gain for _, gain in token] for token in decided])
    np.testing.assert_allclose(data.gain.values, gains, atol=1e-4)
    for phase, part in (("prompt", masks[: len(IDS)]), ("generated", masks[len(IDS) :])):
        assert float(data.usage.sel(phase=phase)) == pytest.approx(1 - part.mean())
        np.testing.assert_allclose(data.void_share.sel(phase=phase), part.mean(0))
    assert json.loads(data.attrs["phases"]).count("generated") == NEW - 1
    assert data.attrs["variant"] == variant and 0 < masks.mean() < 1


def test_the_variants_are_different() -> None:
    """Or the test above would show nothing."""
    written = {
        variant: ll.voids(
            wrapped("llama"), IDS, max_new_tokens=8, variant=variant
        ).data.input_id.values.tolist()
        for variant in ("none", "reference", "true_skip")
    }
    assert len({tuple(ids) for ids in written.values()}) == 3


@pytest.mark.parametrize("family", without.FAMILIES)
def test_reading_alone_agrees_with_the_metric(family: str) -> None:
    model = wrapped(family)
    data = ll.voids(model, IDS).data
    share = ll.layer_metrics(model, IDS, ["voids"], skip_first=False).data.voids
    np.testing.assert_allclose(data.void.values.mean(0), share.values)
    assert np.isnan(data.usage.sel(phase="generated"))
    assert data.attrs["new_text"] == ""


def test_the_worked_example_and_the_reference_output() -> None:
    """Norms 10, 12, 13, 20, 21: the last layer is void, so the head sees the one before."""
    model = LensModel.wrap(tiny_model("gpt2", n_layer=4), None, prove=False)
    norms = [10.0, 12.0, 13.0, 20.0, 21.0]

    def scaled(norm: float) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> Tensor:
            return norm * args[0] / args[0].norm(dim=-1, keepdim=True)

        return hook

    def begin(_: nn.Module, args: Any) -> Any:
        return (norms[0] * args[0] / args[0].norm(dim=-1, keepdim=True), *args[1:])

    blocks = model.hf.transformer.h
    blocks[0].register_forward_pre_hook(begin)
    for block, norm in zip(blocks, norms[1:], strict=True):
        block.register_forward_hook(scaled(norm))
    data = ll.voids(model, IDS).data
    assert data.void.values.tolist() == [[0, 0, 0, 1]] * len(IDS)
    np.testing.assert_allclose(data.gain.values, [[2, 1, 7, 1]] * len(IDS), atol=1e-4)
    np.testing.assert_allclose(data.threshold.values, [[0, 0, 0.8, 4.8]] * len(IDS), atol=1e-4)
    assert (data.last_active.values == 2).all()
    assert float(data.usage.sel(phase="prompt")) == 0.75


def test_active_last_layers_leave_the_output_as_it_is() -> None:
    model = wrapped("llama")
    tokens = torch.tensor([IDS])
    with torch.inference_mode():
        own = model.hf(tokens).logits[0]

        class Never:
            threshold = torch.zeros(len(IDS))

            def __call__(self, gain: Tensor) -> Tensor:
                return torch.zeros_like(gain, dtype=torch.bool)

        with model.running(), VoidWatch(model, Never, "reference", lambda seen: None):
            assert torch.equal(model.hf(tokens).logits[0], own)
    data = ll.voids(model, IDS, alpha=0.5).data
    with (
        torch.inference_mode(),
        model.running(),
        VoidWatch(model, lambda: VoidRule(0.5), "reference", lambda seen: None),
    ):
        given = model.hf(tokens).logits[0]
    last = data.last_active.values == 5
    assert torch.equal(given[last], own[last]) and last.any()
    assert not torch.allclose(given[~last], own[~last])


def test_scale_and_alpha() -> None:
    shares = [float(ll.voids(wrapped("gpt2"), IDS, alpha=a).data.void.mean()) for a in (0, 0.5, 1)]
    assert shares == sorted(shares) and shares[0] < shares[2]
    data = ll.voids(wrapped("gpt2"), IDS, alpha=0).data
    np.testing.assert_array_equal(data.void.values == 1, data.gain.values < 0)


def test_several_texts_have_rows_of_their_own() -> None:
    model = wrapped("gpt_neox")
    both = ll.voids(model, [IDS, IDS[:3]], max_new_tokens=3)
    alone = ll.voids(model, IDS[:3], max_new_tokens=3).data
    data = both.data
    assert data.void.dims == ("batch", "position", "layer") and both.checks.ok
    np.testing.assert_array_equal(data.void.values[1, :5], alone.void.values)
    assert (data.void.values[1, 5:] == -1).all() and (data.input_id.values[1, 5:] == -1).all()
    np.testing.assert_allclose(data.usage.values[1], alone.usage.values)


def test_a_text_that_ends_early_says_so() -> None:
    model = wrapped("gpt2")
    second = ll.voids(model, IDS, max_new_tokens=3, variant="none").data.input_id.values[-1]
    model.hf.generation_config.eos_token_id = int(second)
    data = ll.voids(model, IDS, max_new_tokens=6, variant="none").data
    assert (data.input_id.values[-4:] == -1).all() and (data.void.values[-4:] == -1).all()
    assert "ended before" in data.attrs["notes"] and data.attrs["complete"] == 1


def test_a_stop_keeps_the_prompt() -> None:
    class Stop(Silent):
        calls = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.calls += 1

        def cancelled(self) -> bool:
            return self.calls == 1

    model = wrapped("llama")
    with pytest.raises(Cancelled) as caught:
        ll.voids.run(model, IDS, {"max_new_tokens": 4}, Stop())
    partial = caught.value.partial.data.void.values  # type: ignore[union-attr]
    assert (partial[: len(IDS)] >= 0).all() and (partial[len(IDS) :] == -1).all()
    assert not any(module._forward_hooks for module in model.hf.modules())
    assert not model.edited_now


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"variant": "skip", "max_new_tokens": 1}, "reference, true_skip"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 2, "generate_options": {"num_beams": 2}}, "num_beams"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.voids(wrapped("gpt2"), IDS, **options)


def test_a_model_without_a_head_can_be_read() -> None:
    model = LensModel.wrap(deep("gpt2").transformer, None, prove=False)
    assert ll.voids(model, IDS).data.void.shape == (6, 6)
    with pytest.raises(ModelError, match="generate"):
        ll.voids(model, IDS, max_new_tokens=2)
