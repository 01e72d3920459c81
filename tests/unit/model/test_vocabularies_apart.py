"""Models whose embedding and head have different numbers of rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import layerlens as ll
from layerlens.model.tiny import tiny_model

FED = 99


@pytest.fixture(scope="module", params=[92, 106])
def model(request: pytest.FixtureRequest) -> ll.LensModel:
    hf = tiny_model("llama", vocab_size=FED, tie_word_embeddings=False)
    torch.manual_seed(1)
    hf.lm_head = nn.Linear(hf.config.hidden_size, request.param, bias=False)
    hf.config.vocab_size = request.param
    return ll.load(hf)


def test_texts_are_counted_by_the_embedding_and_answers_by_the_head(model: ll.LensModel) -> None:
    rows = model.hf.lm_head.out_features
    assert (model.d_vocab_in, model.d_vocab) == (FED, rows)
    assert "99 can be fed" in repr(model)
    assert model.tokens([FED - 1]).ids.tolist() == [[FED - 1]]
    with pytest.raises(ll.InputError, match="expected 0 to 98"):
        model.tokens([FED])
    assert model.token_id(rows - 1) == rows - 1
    with pytest.raises(ll.InputError, match=f"expected 0 to {rows - 1}"):
        model.token_id(rows)


def test_a_lens_is_as_wide_as_the_head(model: ll.LensModel) -> None:
    rows, ids = model.d_vocab, [5, 98, 7, 95]
    lens = ll.logit_lens(model, ids, top_k=rows, tracked=[rows - 1])
    with torch.no_grad():
        p = model.hf(torch.tensor([ids])).logits[0].double().softmax(-1)
    final = lens.data.isel(point=-1)
    np.testing.assert_allclose(final.probability, p.sort(descending=True).values, atol=1e-5)
    np.testing.assert_allclose(final.tracked_probability[:, 0], p[:, rows - 1], atol=1e-5)
    assert all(check.ok for check in lens.checks)
    said = " ".join(json.loads(lens.data.attrs["notes"]))
    for place, following in enumerate(ids[1:]):
        loss = float(final.cross_entropy[place])
        if following < rows:
            assert loss == pytest.approx(-math.log(p[place, following]), abs=1e-4)
            assert int(final.target_id[place]) == following
        else:
            assert math.isnan(loss) and int(final["rank"][place]) == -1
            assert int(final.target_id[place]) == -1 and "2 of the next tokens" in said
    assert lens.data.attrs["d_vocab_in"] == FED


def test_sweeps_scores_and_distances_run(model: ll.LensModel) -> None:
    grid = ll.patch_sweep(model, [5, 98, 7], [5, 97, 7], answer=3, wrong=4)
    assert all(check.ok for check in grid.checks)
    assert ll.head_scores(model, length=5, sequences=2).data.induction.notnull().all()
    found = ll.macro_influence(model, [[5, 98, 7, 95, 3, 8]])
    assert all(check.ok for check in found.checks)
