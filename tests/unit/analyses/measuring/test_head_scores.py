"""ll.head_scores: against plain attention, on trained and hand-made heads, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.measuring.head_scores import repeated_tokens
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

SCORES = ("induction", "duplicate_token", "previous_token")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_against_plain_attention(family: str) -> None:
    hf = tiny_model(family, seed=1)
    model = LensModel.wrap(hf, None, name=f"tiny {family}", prove=False)
    result = ll.head_scores(model, length=9, sequences=3, seed=5)
    ids = torch.tensor(repeated_tokens(model, 9, 3, 5))
    assert torch.equal(ids[:, :9], ids[:, 9:])
    assert all(len(set(row[:9])) == 9 for row in ids.tolist())
    hf.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = hf(ids, output_attentions=True, use_cache=False).attentions
    expected = {name: np.zeros((model.n_layers, model.n_heads)) for name in SCORES}
    for layer, pattern in enumerate(attentions):
        for head in range(model.n_heads):
            a = pattern[:, head].double().numpy()
            repeat = range(9, 18)
            expected["induction"][layer, head] = np.mean([a[:, i, i - 8] for i in repeat])
            expected["duplicate_token"][layer, head] = np.mean([a[:, i, i - 9] for i in repeat])
            before = [a[:, i, i - 1] for i in range(1, 18)]
            expected["previous_token"][layer, head] = np.mean(before)
    for name in SCORES:
        np.testing.assert_allclose(result.data[name], expected[name], rtol=1e-4, atol=1e-6)
        assert (result.data[f"{name}_low"] <= result.data[name] + 1e-12).all()
    assert all(check.ok for check in result.checks)


def test_the_toy_of_induction_has_a_head_of_induction() -> None:
    model = ll.load("toy:induction")
    result = ll.head_scores(model, length=20)
    assert result.data.attrs["fed"] == 41  # the BOS token, and twenty tokens twice
    assert (result.data.induction.sel(layer=1) > 0.5).any()
    assert (result.data.induction.sel(layer=0) < 0.2).all()
    assert result.code == "ll.head_scores(model, length=20)"
    again = ll.head_scores(model, length=20)
    assert result.data.induction.equals(again.data.induction)


def test_bad_input() -> None:
    model = LensModel.wrap(tiny_model("llama"), None, name="tiny", prove=False)
    with pytest.raises(InputError, match="length is 1; expected 2 to"):
        ll.head_scores(model, length=1)
    with pytest.raises(InputError, match="sequences is 0"):
        ll.head_scores(model, length=4, sequences=0)
    with pytest.raises(InputError, match="that are not special"):
        ll.head_scores(model, length=model.d_vocab + 1)
    short = LensModel.wrap(tiny_model("gpt2", n_positions=16), None, name="short", prove=False)
    with pytest.raises(InputError, match="so 18 tokens are fed, but short takes 16"):
        ll.head_scores(short, length=9)


def test_the_usual_length_lies_within_what_a_toy_was_trained_on() -> None:
    model = ll.load("toy:induction")
    result = ll.head_scores(model)
    assert result.data.attrs["fed"] == 47  # of 48; the BOS token, and 23 tokens twice
    assert float(result.data.induction.max()) > 0.95
    assert result.code == "ll.head_scores(model)"
    beyond = ll.head_scores(model, length=50)
    assert float(beyond.data.induction.max()) < 0.6
    assert "101 tokens, but this model was trained on at most 48" in beyond.data.attrs["notes"]
    assert "trained" not in result.data.attrs["notes"]
    wrapped = LensModel.wrap(tiny_model("llama"), None, name="tiny", prove=False)
    assert ll.head_scores(wrapped, length=np.int64(9)).data.attrs["fed"] == 18
    with pytest.raises(InputError, match=r"length of head_scores is 9\.5; expected a whole number"):
        ll.head_scores(wrapped, length=9.5)
