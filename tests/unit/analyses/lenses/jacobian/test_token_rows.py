"""Rows of a Jacobian lens for tracked tokens: by construction, against the whole lens, read off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses.head_directions import HeadDirections
from layerlens.errors import InputError
from layerlens.model.tiny import tiny_model
from layerlens.result.fitted import Fitted
from tests.unit.analyses.lenses.jacobian.test_jacobian_lens import (
    JACOBIAN,
    WIDTH,
    linear,
    texts,
    written,
)

TRACKED = [7, 11, 30]


def test_linear_blocks_give_the_heads_rows_times_their_product() -> None:
    model = linear()
    rows = ll.fit_lens(
        model, texts(4), points="post", test=0.3, tracked=TRACKED, controls=2, **JACOBIAN
    )
    _, one, two = (torch.eye(WIDTH) + written(block) for block in model.hf.transformer.h)
    norm, head = model.hf.transformer.ln_f, model.hf.lm_head
    ids = rows["tokens"]
    with torch.no_grad():
        own = head.weight[ids] * norm.weight
        own = own - own.mean(-1, keepdim=True)  # LayerNorm takes the mean off
    assert ids[:3].tolist() == TRACKED and len(set(ids.tolist())) == 5
    assert int(rows["controls"]) == 2
    torch.testing.assert_close(rows["1_post.rows"], own @ two, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows["0_post.rows"], own @ two @ one, rtol=1e-4, atol=1e-5)
    # blocks that are linear have the same rows on any text
    assert rows.scores["test"]["rows_cosine/0_post"] == pytest.approx(1, abs=1e-5)
    assert rows.scores["train"]["halves_error/0_post"] < 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_they_are_the_rows_of_the_whole_lens(family: str) -> None:
    model = ll.load(tiny_model(family))
    options = {**JACOBIAN, "points": ("embed", "post"), "test": 0.3}
    rows = ll.fit_lens(model, texts(4), tracked=TRACKED, controls=3, **options)
    whole = ll.fit_lens(model, texts(4), **options)
    assert rows.checks.ok
    head = HeadDirections.of(model)
    assert head is not None
    directions = head.rows(rows["tokens"].tolist())
    for name in whole:
        label = name.rpartition(".")[0]
        expected = directions @ whole[name]
        torch.testing.assert_close(rows[f"{label}.rows"], expected, rtol=1e-3, atol=1e-5)
    found = ll.token_dispositions(model, texts(1)[0], lens=rows)
    assert found.checks.ok  # the last state against the model's own logits, soft-cap undone


def test_a_reading_is_what_plain_torch_gives() -> None:
    model = ll.load(tiny_model("llama"))
    rows = ll.fit_lens(model, texts(4), points="post", tracked=[7, 11], controls=4, **JACOBIAN)
    (ids,) = texts(1, seed=3)
    with torch.no_grad():
        states = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    readings = (states @ rows["0_post.rows"].T).double().numpy()
    random = readings[:, 2:]
    expected = (readings[:, :2] - random.mean(1, keepdims=True)) / random.std(
        1, keepdims=True, ddof=1
    )
    data = ll.token_dispositions(model, ids, lens=rows).data
    np.testing.assert_allclose(data["standing"].sel(point="0_post").values.T, expected, rtol=1e-3)
    rank = (readings[:, None] >= readings[:, :2, None]).sum(-1)
    np.testing.assert_array_equal(data["rank"].sel(point="0_post").values.T, rank)
    both = ll.token_dispositions(model, [ids, ids[:5]], lens=rows).data
    np.testing.assert_allclose(
        both["standing"].values[1, ..., :5], data["standing"].values[..., :5], rtol=1e-3, atol=1e-4
    )
    assert np.isnan(both["standing"].values[1, ..., 5:]).all()


def test_it_goes_on_where_it_was_stopped() -> None:
    model = ll.load(tiny_model("llama"))
    options = {**JACOBIAN, "points": "post", "tracked": TRACKED, "controls": 2}
    whole = ll.fit_lens(model, texts(5), **options)
    again = ll.fit_lens(model, texts(5), resume=whole, **options)
    for name in whole:
        torch.testing.assert_close(again[name], whole[name])
    with pytest.raises(InputError, match="begun with tracked"):
        ll.fit_lens(model, texts(5), resume=whole, **{**options, "tracked": [7]})


def test_what_does_not_fit_is_said() -> None:
    model = ll.load(tiny_model("llama"))
    few = ll.fit_lens(model, texts(4), points="post", tracked=[7], controls=1, **JACOBIAN)
    with pytest.raises(InputError, match="controls=2 or more"):
        ll.token_dispositions(model, [5, 6], lens=few)
    with pytest.raises(InputError, match=r"ll\.token_dispositions reads this one"):
        ll.logit_lens(model, [5, 6], lens=few)
    with pytest.raises(InputError, match="only where tracked is given"):
        ll.fit_lens(model, texts(4), controls=3, **JACOBIAN)
    with pytest.raises(InputError, match="ask for fewer"):
        ll.fit_lens(model, texts(4), tracked=[7], controls=model.d_vocab, **JACOBIAN)
    bias = ll.fit_lens(model, texts(4), kind="bias", positions_skipped=2)
    assert isinstance(bias, Fitted)
    with pytest.raises(InputError, match="lens is a bias_lens"):
        ll.token_dispositions(model, [5, 6], lens=bias)


def test_how_steady_a_lens_is_is_said_where_it_is_used() -> None:
    model = ll.load(tiny_model("llama"))
    lens = ll.fit_lens(model, texts(5), points="post", **JACOBIAN)
    halves = {"halves_cosine/0_post": 0.3, "halves_cosine/1_post": 0.95}
    shaky = replace(lens, scores={"train": {"prompts": 4.0, **halves}})
    notes = ll.logit_lens(model, [5, 6], lens=shaky).data.attrs["notes"]
    assert "do not agree up to 0_post" in notes and "down to 0.30" in notes
    steady = replace(lens, scores={"train": {"prompts": 4.0, "halves_cosine/0_post": 0.95}})
    assert "agree at every point" in ll.logit_lens(model, [5, 6], lens=steady).data.attrs["notes"]
    one = replace(lens, scores={"train": {"prompts": 1.0}})
    assert "over 1 text; how" in ll.logit_lens(model, [5, 6], lens=one).data.attrs["notes"]
