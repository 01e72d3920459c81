"""Writing with a contrast of layers, against the formulas in plain torch on whole passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.contrast_candidates import bucket
from layerlens.analyses.lenses.contrast_layers import contrast_layers
from layerlens.analyses.lenses.contrast_rules import (
    jensen_shannon,
    plausible,
    reversed_jensen_shannon,
    scores,
)
from layerlens.errors import Cancelled
from layerlens.model.lensmodel import LensModel

from .test_generation_lens import IDS, close, model_of

NEW = 5


def jsd(p: Tensor, q: Tensor) -> float:
    middle = (p + q) / 2
    return float(((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2)


def paper(model: LensModel, ids: list[int], layers: list[int]) -> tuple[int, int, list[float]]:
    """The paper's DoLa of one token, from one plain pass: chosen layer, token, divergences."""
    with torch.no_grad():
        out = model.hf(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        q = out.logits[0, -1].softmax(-1)
        norm, head = model.hf.get_submodule("model.norm"), model.hf.get_output_embeddings()
        early = [head(norm(out.hidden_states[j + 1][0, -1])).softmax(-1) for j in layers]
    found = [jsd(q, e) for e in early]
    place = int(np.argmax(found))
    score = (q / early[place]).log()
    score[q < 0.1 * q.max()] = -math.inf
    return layers[place], int(score.argmax()), found


def reference(model: LensModel, ids: list[int], layers: list[int]) -> tuple[int, int, list[float]]:
    """The same as DoLa's code has it: no norm, divergences by ``F.kl_div`` averaged."""
    with torch.no_grad():
        out = model.hf(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        final = out.logits[:, -1].float()
        head = model.hf.get_output_embeddings()
        early = torch.stack([head(out.hidden_states[j + 1][:, -1]).float() for j in layers])
    middle = (final.softmax(-1)[None] + early.softmax(-1)) / 2
    kl1 = F.kl_div(final.log_softmax(-1)[None], middle, reduction="none").mean(-1)
    kl2 = F.kl_div(early.log_softmax(-1), middle, reduction="none").mean(-1)
    found = ((kl1 + kl2) / 2).mean(-1)
    place = int(found.argmax())
    own, base = final.log_softmax(-1), early[place].log_softmax(-1)
    out_of_it = own < own.max() + math.log(0.1)
    own[out_of_it], base[out_of_it] = -math.inf, -1e3
    return layers[place], int((own - base).argmax()), (found * final.shape[-1]).tolist()


@pytest.mark.parametrize(("variant", "by_hand"), [("paper", paper), ("reference", reference)])
def test_dola_is_its_formula_on_whole_passes(variant: str, by_hand: Any) -> None:
    model = model_of("llama")
    result = ll.contrast_layers(
        model, IDS, variant=variant, layers=[0, 1], max_new_tokens=NEW, verify=NEW
    )
    assert result.checks.ok and result.data.attrs["complete"] == 1
    ids = list(IDS)
    for step in range(NEW):
        layer, token, divergence = by_hand(model, ids, [0, 1])
        here = result.data.isel(step=step)
        assert int(here.chosen_layer) == layer
        assert int(here.written_id) == token
        close(here.divergence, divergence)
        assert int(here.chosen.notnull().sum()) == 1
        ids.append(token)
    own = model.generate(IDS, max_new_tokens=NEW).new_ids
    assert result.data.own_written_id.values.tolist() == own != ids[len(IDS) :]


def test_the_two_variants_may_choose_different_layers() -> None:
    q = torch.tensor([[0.44, 0.43, 0.13]]).log()
    a, b = torch.tensor([[0.10, 0.17, 0.73]]).log(), torch.tensor([[0.77, 0.01, 0.22]]).log()
    close([jensen_shannon(q, a), jensen_shannon(q, b)], [[0.2023], [0.1573]], 1e-4)
    found = [reversed_jensen_shannon(q, a), reversed_jensen_shannon(q, b)]
    close(found, [[0.2428], [0.2957]], 1e-4)


def test_divergence_and_scores_keep_their_invariants() -> None:
    p, q = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    kept = plausible(p, 0.1)
    assert (scores("dola", p, p, 0.1, 1.0)[kept] == 0).all()
    for method in ("dola", "fused", "difference"):
        assert torch.equal(scores(method, p, q, 1.0, 1.0).argmax(-1), p.argmax(-1))
        assert torch.equal(scores(method, p, q, 0.1, 0.0)[kept], p[kept])
    flat = torch.full_like(p, -math.log(40))
    order = scores("dola", p, flat, 0.1, 1.0).argsort(dim=-1, stable=True)
    assert torch.equal(order, torch.where(kept, p, -math.inf).argsort(dim=-1, stable=True))
    apart = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    close(jensen_shannon(*apart), [math.log(2)], 1e-6)
    assert not scores("dola", *apart, 0.1, 1.0).isnan().any()
    plain = scores("difference", p, q, 0.1, 0.7)
    close(scores("difference", p, q, 0.1, 0.7, (p, q), 3.0)[kept], plain[kept], 1e-4)


@pytest.mark.parametrize(
    ("blocks", "tied", "low", "high"),
    [
        (30, True, range(2, 15, 2), range(15, 30, 2)),
        (32, True, range(2, 15, 2), range(16, 31, 2)),
        (32, False, range(0, 15, 2), range(16, 31, 2)),
        (48, False, range(0, 20, 2), range(28, 48, 2)),
        (4, True, [2], [2]),
        (3, True, [2], [1]),
        (2, True, [1], [1]),
        (1, True, [0], [0]),
    ],
)
def test_candidates_are_those_of_the_code(blocks: int, tied: bool, low: Any, high: Any) -> None:
    assert bucket(blocks, "low", tied=tied) == list(low)
    assert bucket(blocks, "high", tied=tied) == list(high)


@pytest.mark.parametrize("method", ["dola", "difference", "fused"])
def test_without_weight_or_choice_the_text_is_the_models_own(method: str) -> None:
    model = model_of("llama")
    own = model.generate(IDS, max_new_tokens=NEW).new_ids
    for options in ({"weight": 0.0}, {"alpha": 1.0}):
        result = ll.contrast_layers(
            model, IDS, method=method, layers=[0, 1], max_new_tokens=NEW, **options
        )
        assert result.checks.ok
        for name in ("written_id", "own_written_id", "random_written_id"):
            assert result.data[name].values.tolist() == own
        assert (result.data.own_rank == 1).all()


def test_fused_takes_the_block_whose_mlp_changes_the_answer_least() -> None:
    model = model_of("llama")
    result = ll.contrast_layers(model, IDS, method="fused", layers=[0, 1], max_new_tokens=1)
    cache = ll.record(model, IDS, ["resid_mid", "resid_post"])
    sites = [f"resid_{kind}.{n}" for kind in ("mid", "post") for n in range(model.n_layers)]
    last = {site: model.unembed(cache[site][0, -1]).detach().softmax(-1) for site in sites}
    found = [jsd(last[f"resid_mid.{n}"], last[f"resid_post.{n}"]) for n in (0, 1)]
    close(result.data.divergence[:, 0], found)
    layer = int(np.argmin(found))
    assert int(result.data.chosen_layer[0]) == layer
    q, early = (last[f"resid_post.{n}"] for n in (model.n_layers - 1, layer))
    score = torch.where(q >= 0.1 * q.max(), q.log() + early.log(), -math.inf)
    assert int(result.data.written_id[0]) == int(score.argmax())


def test_an_amateur_is_taken_off_both_layers_and_cancels_where_it_is_the_same() -> None:
    model, same, other = model_of("llama"), model_of("llama"), model_of("llama")
    with torch.no_grad():
        other.hf.get_submodule("model.layers.0.mlp").down_proj.weight.mul_(-9)
    options: dict[str, Any] = {"method": "difference", "layers": [0], "max_new_tokens": 3}
    plain = ll.contrast_layers(model, IDS, **options).data
    cancels = ll.contrast_layers(model, IDS, **options, amateur=same, amateur_weight=2).data
    assert cancels.written_id.values.tolist() == plain.written_id.values.tolist()
    found = ll.contrast_layers(model, IDS, **options, amateur=other, amateur_weight=2, alpha=0.01)
    assert found.data.attrs["passes"] == 3 + 3
    ids = list(IDS)
    for step in range(3):
        logs = []
        for one in (model, other):
            cache = ll.record(one, ids, ["resid_post"])
            states = [cache[f"resid_post.{layer}"][0, -1] for layer in (one.n_layers - 1, 0)]
            logs += [one.unembed(state).log_softmax(-1) for state in states]
        score = (3 * logs[0] - 2 * logs[2]) + (3 * logs[1] - 2 * logs[3])
        score[logs[0] < logs[0].max() + math.log(0.01)] = -math.inf
        assert int(found.data.written_id[step]) == int(score.argmax())
        ids.append(int(score.argmax()))


def test_edits_reach_every_text_and_order_of_candidates_changes_nothing() -> None:
    model = model_of("llama")
    edit = ll.edit("mlp_out.1", "scale", -6.0, always=True)
    result = ll.contrast_layers(model, IDS, layers=[1, 0], max_new_tokens=NEW, edits=edit)
    assert result.checks.ok
    own = model.generate(IDS, max_new_tokens=NEW, edits=edit).new_ids
    assert result.data.own_written_id.values.tolist() == own
    assert own != model.generate(IDS, max_new_tokens=NEW).new_ids
    again = ll.contrast_layers(model, IDS, layers=(0, 1), max_new_tokens=NEW, edits=edit)
    assert result.data.drop_attrs().equals(again.data.drop_attrs())


def test_several_texts_are_each_as_alone_and_one_that_ends_early_is_left() -> None:
    model = model_of("llama")
    texts = [IDS, IDS[:3], IDS]
    options: dict[str, Any] = {"layers": [0, 1], "max_new_tokens": NEW, "control": False}
    alone = [ll.contrast_layers(model, text, **options).data for text in texts]
    written = [data.written_id.values.tolist() for data in alone]
    others = {*written[0], *alone[0].own_written_id.values.tolist()}
    end = next(token for token in written[1] if token not in others)
    model.hf.generation_config.eos_token_id = end
    result = ll.contrast_layers(model, texts, **options)
    assert result.checks.ok and result.data.attrs["complete"] == 1
    close(result.data.divergence[0], alone[0].divergence)
    close(result.data.divergence[2], alone[0].divergence)
    n = written[1].index(end) + 1
    close(result.data.divergence[1, :, :n], alone[1].divergence[:, :n])
    assert (result.data.written_id[1, n:] == -1).all()
    assert result.data.divergence[1, :, n:].isnull().all()


def test_a_stopped_call_keeps_what_was_written_and_a_wrong_cache_fails_the_check() -> None:
    model = model_of("llama")

    class Impatient(Silent):
        done = 0

        def on_progress(self, done: int, total: int, what: str) -> None:
            self.done = done

        def cancelled(self) -> bool:
            return self.done == NEW + 2

    with pytest.raises(Cancelled) as stop:
        contrast_layers.run(model, IDS, {"max_new_tokens": NEW, "layers": [0, 1]}, Impatient())
    partial = stop.value.partial.data
    assert partial.attrs["complete"] == 0 and int(partial.divergence[0].notnull().sum()) == 2

    def later(module: Any, args: Any, output: Tensor) -> Tensor:
        return output if output.shape[1] > 1 else output * 1.5

    hook = model.hf.get_submodule("model.layers.0").register_forward_hook(later)
    result = ll.contrast_layers(model, IDS, layers=[0, 1], max_new_tokens=NEW)
    hook.remove()
    assert [check.name for check in result.checks if not check.ok] == ["cached is uncached"]


def test_an_estimate_counts_what_is_then_used() -> None:
    model = model_of("llama")
    result = ll.contrast_layers(model, IDS, layers=[0, 1], max_new_tokens=NEW)
    estimate = ll.estimate("contrast_layers", model, IDS, layers=[0, 1], max_new_tokens=NEW)
    assert estimate.passes == result.data.attrs["passes"] == 4
    assert estimate.tokens == len(IDS) + NEW - 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "hope"}, "dola, fused, difference"),
        ({"variant": "mine"}, "paper, reference"),
        ({"alpha": 0}, "above 0"),
        ({"alpha": True}, "expected a number"),
        ({"weight": -1}, "from 0"),
        ({"max_new_tokens": 0}, "from 1"),
        ({"layers": "middle"}, "'low', 'high'"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [0, -1]}, "the final one"),
        ({"layers": [9]}, "does not exist"),
        ({"method": "fused", "layers": ["embed"]}, "before and after its MLP"),
        ({"method": "fused", "layers": [0], "variant": "reference"}, "not part of"),
        ({"method": "difference", "amateur": "gpt2"}, "another model"),
        ({"stop": [""]}, "give strings"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ll.InputError, match=words):
        ll.contrast_layers(model_of("llama"), IDS, **options)
