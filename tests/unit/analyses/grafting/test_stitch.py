"""Stitching against least squares and plain hooks, and on a copy whose states were rotated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks
from ..copies import copy_of
from .test_layer_swap import pair

DRAWN = torch.randint(3, 90, (40, 12), generator=torch.Generator().manual_seed(0)).tolist()


def rotated(model: LensModel) -> LensModel:
    """The same function with another basis of the stream, in float64; its norms have no gains."""
    hf: Any = model.hf.double()
    with torch.no_grad():
        for norm in [hf.model.norm, *(n for b in hf.model.layers
                     for n in (b.input_layernorm, b.post_attention_layernorm))]:  # fmt: skip
            norm.weight.fill_(1)
    other = copy_of(model)
    copy: Any = other.hf
    turn = torch.linalg.qr(torch.randn(model.d_model, model.d_model, dtype=torch.float64)).Q
    with torch.no_grad():
        copy.model.embed_tokens.weight.copy_(hf.model.embed_tokens.weight @ turn)
        copy.lm_head.weight.copy_(hf.lm_head.weight @ turn)
        for block in copy.model.layers:
            attention, mlp = block.self_attn, block.mlp
            for into in (attention.q_proj, attention.k_proj, attention.v_proj,
                         mlp.gate_proj, mlp.up_proj):  # fmt: skip
                into.weight.copy_(into.weight @ turn)
            for out in (attention.o_proj, mlp.down_proj):
                out.weight.copy_(turn.T @ out.weight)
                if out.bias is not None:
                    out.bias.copy_(turn.T @ out.bias)
    other.name = "rotated"
    return other


def test_a_rotated_copy_is_recovered() -> None:
    torch.manual_seed(0)
    model = by_hooks.wrapped("llama")
    assert model.hf.get_output_embeddings().weight is not model.hf.get_input_embeddings().weight
    other = rotated(model)
    plain, turned = (hf(torch.tensor(DRAWN[:2])).logits for hf in (model.hf, other.hf))
    assert torch.allclose(plain, turned, atol=1e-5)  # norms are in float32
    found = ll.stitch(model, DRAWN, other=other, ridge=0, control="shuffled")
    assert found.checks.ok and found.data.attrs["complete"] == 1
    same = np.arange(3)
    assert (1 - found.data.r2.values[same, same]).max() < 1e-6
    assert np.abs(found.data.loss_change.values[same, same]).max() < 1e-6
    assert found.data.agreement.values[same, same].min() == 1
    # A map from the states of other tokens knows nothing.
    assert found.data.r2_chance.values.max() < 0


def states(hf: Any, texts: list[list[int]], layer: int) -> Tensor:
    """Outputs of a block but for first tokens, [n, width]."""
    rows = []
    for ids in texts:
        block = by_hooks.blocks(hf)[layer]
        kept = by_hooks.kept(hf, ids, [(block, "out")])
        rows.append(kept[block, "out"][0, 1:])
    return torch.cat(rows).double()


def test_the_map_is_least_squares_and_the_other_model_goes_on_from_it() -> None:
    model, other = pair("gpt2", 0.5)
    found = ll.stitch(model, DRAWN, other=other, ridge=0, control="none", layers=1, other_layers=0)
    data = found.data.isel(layer=0, layer_other=0)
    split = split_texts([None] * len(DRAWN), 0, 0.3)
    train, test = ([DRAWN[row] for row in rows] for rows in (split.train, split.test))
    x, y = states(model.hf, train, 1), states(other.hf, train, 0)
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([x, ones], 1), y).solution
    apart, truth = states(model.hf, test, 1), states(other.hf, test, 0)
    fitted = apart @ solution[:-1] + solution[-1]
    r2 = 1 - (fitted - truth).square().sum() / (truth - y.mean(0)).square().sum()
    assert float(data.r2) == pytest.approx(float(r2), abs=1e-4)
    changes, agreements, at = [], [], 0
    block = by_hooks.blocks(other.hf)[0]
    for ids in test:
        rows = fitted[at : at + len(ids) - 1].float()
        at += len(ids) - 1
        clean = logits_with(other.hf, ids, None, block)
        stitched = logits_with(other.hf, ids, rows, block)
        agreements.append(clean.argmax(-1)[1:] == stitched.argmax(-1)[1:])
        following = torch.tensor(ids[2:])[:, None]
        change = clean.log_softmax(-1) - stitched.log_softmax(-1)
        changes.append(change[1:-1].gather(1, following)[:, 0])
    wanted = float(torch.cat(changes).mean())
    assert float(data.loss_change) == pytest.approx(wanted, abs=1e-3)
    share = float(torch.cat(agreements).double().mean())
    assert float(data.agreement) == pytest.approx(share, abs=0.01)


def logits_with(hf: Any, ids: list[int], rows: Tensor | None, block: Any) -> Tensor:
    """Logits with a block's output put to these rows, but for the first token's."""

    def put(_: Any, args: Any, output: Any) -> Any:
        if rows is None:
            return None
        new = by_hooks.first(output).clone()
        new[0, 1:] = rows
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = block.register_forward_hook(put)
    try:
        with torch.no_grad():
            found: Tensor = hf(torch.tensor([ids])).logits[0].double()
        return found
    finally:
        handle.remove()


def test_widths_and_depths_may_differ() -> None:
    model, other = ll.load("toy:induction"), copy_of(by_hooks.wrapped("gpt2"))
    other.hf.train()  # dropout would make each pass another one
    model.tokenizer = None
    texts = [[i % 60 for i in ids] for ids in DRAWN]
    found = ll.stitch(model, texts, other=other)
    assert found.data.r2.shape == (2, 3) and found.checks.ok and other.hf.training
    assert "they may follow chance" in found.data.attrs["notes"]
    assert float(found.data.r2_chance.max()) < 1


def test_what_does_not_fit_is_refused() -> None:
    model, other = pair("gpt2")
    with pytest.raises(InputError, match="control is 'random'"):
        ll.stitch(model, DRAWN, other=other, control="random")
    with pytest.raises(InputError, match="ridge is -1"):
        ll.stitch(model, DRAWN, other=other, ridge=-1)
    with pytest.raises(InputError, match="cannot determine a map"):
        ll.stitch(model, DRAWN[:3], other=other, ridge=0)
