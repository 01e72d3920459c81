"""Attention metrics: against plain hooks, on patterns drawn by hand, and a head of induction."""

from __future__ import annotations

import math
from typing import Any

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.errors import InputError, SiteError
from layerlens.metrics.attention import DuplicateToken, Induction, PreviousToken
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import Batch
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.layer import Layer
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

NAMES = ["attention_entropy", "sink_mass", "previous_token", "duplicate_token", "induction"]
DETECTORS = {"previous_token": PreviousToken, "duplicate_token": DuplicateToken}
DETECTORS["induction"] = Induction
TEXTS = [[5, 6, 7, 5, 6, 7, 5], [3, 3, 3, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [17]]


def patterns(model: LensModel, text: list[int]) -> list[Tensor]:
    """``[head, query, key]`` of each layer, from transformers itself."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            found = model.hf(torch.tensor([text]), output_attentions=True, use_cache=False)
    finally:
        model.hf.set_attn_implementation(before)
    return [attention[0].double() for attention in found.attentions]


def naive_wanted(name: str, ids: list[int], t: int, j: int) -> bool:
    if name == "previous_token":
        return j == t - 1
    if name == "duplicate_token":
        return j < t and ids[j] == ids[t]
    return 1 <= j <= t and ids[j - 1] == ids[t] and j - 1 < t


def naive(model: LensModel, name: str, skip: int, **options: bool) -> np.ndarray:
    """One metric, pair by pair."""
    heads = model.anatomy.blocks[0].n_heads
    sums, counts = np.zeros((2, model.n_layers, heads))
    for text in TEXTS:
        for layer, pattern in enumerate(patterns(model, text)):
            for t in range(skip, len(text)):
                row = pattern[:, t, : t + 1].numpy()
                if name == "attention_entropy":
                    sums[layer] += -(row * np.log(np.where(row > 0, row, 1))).sum(-1)
                    counts[layer] += 1
                elif name == "sink_mass":
                    sums[layer] += row[:, 0]
                    counts[layer] += 1
                else:
                    wanted = [naive_wanted(name, text, t, j) for j in range(t + 1)]
                    if options.get("only_possible") and not any(wanted):
                        continue
                    for j in range(t + 1):
                        if options.get("exclude_first") and j == 0:
                            continue
                        if options.get("exclude_current") and j == t:
                            continue
                        sums[layer] += row[:, j] * wanted[j]
                        counts[layer] += row[:, j]
    with np.errstate(invalid="ignore"):
        return sums / counts


@pytest.mark.parametrize("family", measuring.FAMILIES)
@pytest.mark.parametrize("skip", [0, 1])
def test_against_plain_attention(family: str, skip: int) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, NAMES, TEXTS, skip_first=skip)
    for name in NAMES:
        expected = naive(model, name, skip)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("option", ["exclude_first", "exclude_current", "only_possible"])
def test_options_of_detectors(option: str) -> None:
    model = measuring.tiny("llama")
    options = {name: {option: True} for name in DETECTORS}
    found = measuring.measure(model, list(DETECTORS), TEXTS, skip_first=1, options=options)
    for name in DETECTORS:
        expected = naive(model, name, 1, **{option: True})
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_padding_and_merging(family: str) -> None:
    model = measuring.tiny(family)
    measuring.assert_padding_is_nothing(model, NAMES)
    measuring.assert_merged_is_single(model, NAMES)


def test_texts_together_are_texts_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of one length go together, as many as fit: here all of them, two, and one."""
    texts = [[3, 1, 4, 1, 5], [9, 2, 6], [2, 7, 1, 8, 2], [5, 8, 9], [3, 3, 3, 3, 3]]
    model = measuring.tiny("llama")
    alone = measuring.measure(model, NAMES, texts, size=1)
    for most in (1 << 20, 4 * 5 * 5 * 2, 1):
        monkeypatch.setattr("layerlens.metrics.layer.MOST_NUMBERS", most)
        found = measuring.measure(model, NAMES, texts, size=5)
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


class Drawn:
    """Layer 0 with patterns [head, query, key] drawn by hand, for texts of one length."""

    def __init__(self, batch: Batch, pattern: Tensor) -> None:
        self.number, self.batch, self.n_heads = 0, batch, len(pattern)
        self._pattern = pattern

    def has(self, *parts: str) -> bool:
        return True

    patterns = Layer.patterns

    @property
    def _raw(self) -> dict[str, Tensor]:
        return {"pattern": self._pattern.expand(len(self.batch), *self._pattern.shape)}


def drawn(ids: list[int], pattern: Tensor, skip: int = 1, options: Any = None) -> dict[str, Any]:
    """All metrics of patterns drawn by hand."""
    shape = ModelShape(1, len(pattern), 4, 50)
    batch = Batch(measuring.tiny("llama").tokens([ids]), [0], skip)
    metrics = MetricSet.make(measuring.tiny("llama"), NAMES)
    found: dict[str, np.ndarray] = {}
    for like in metrics.metrics:
        metric = type(like)(shape, **(options or {}).get(like.name, {}))
        metric.update(Drawn(batch, pattern))  # type: ignore[arg-type]
        found |= {name: array[0] for name, array in metric.value().items()}
    return found


def test_patterns_drawn_by_hand() -> None:
    """Uniform, identity, all on the first token, all on the token before."""
    length = 8
    uniform = torch.ones(length, length).tril()
    uniform /= uniform.sum(-1, keepdim=True)
    sink = torch.zeros(length, length)
    sink[:, 0] = 1
    before = torch.eye(length).roll(1, 0)
    before[0] = 0
    before[0, 0] = 1
    pattern = torch.stack([uniform, torch.eye(length), sink, before])
    found = drawn(list(range(length)), pattern)
    mean = float(np.mean(np.log(np.arange(2, length + 1))))
    np.testing.assert_allclose(found["attention_entropy"], [mean, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(found["attention_entropy_normalised"], [1, 0, 0, 0], atol=1e-7)
    harmonic = sum(1 / t for t in range(2, length + 1)) / (length - 1)
    np.testing.assert_allclose(found["sink_mass"], [harmonic, 0, 1, 1 / (length - 1)], atol=1e-7)
    assert found["sink_mass_rate"] == pytest.approx(0.25)
    np.testing.assert_allclose(found["previous_token"], [harmonic, 0, 1 / 7, 1], atol=1e-7)
    np.testing.assert_array_equal(found["duplicate_token"], 0)
    np.testing.assert_array_equal(found["induction"], 0)


def test_uniform_attention_is_no_sink() -> None:
    """The mean over all queries of causal uniform attention is H_T / T: .0741 for 64 tokens."""
    uniform = torch.ones(64, 64).tril()
    uniform /= uniform.sum(-1, keepdim=True)
    found = drawn([i % 40 for i in range(64)], uniform[None], skip=0)
    harmonic = sum(1 / t for t in range(1, 65))
    assert found["sink_mass"][0] == pytest.approx(harmonic / 64, abs=1e-6)
    assert found["sink_mass"][0] == pytest.approx(0.0741, abs=5e-5)
    assert found["sink_mass_rate"] == 0


def test_windows_and_both_directions_are_normalised_by_what_they_see() -> None:
    length, window = 10, 3
    band = torch.ones(length, length).tril().triu(1 - window)
    both = torch.ones(length, length)
    for visible in (band, both):
        pattern = (visible / visible.sum(-1, keepdim=True))[None]
        found = drawn(list(range(length)), pattern)
        assert found["attention_entropy_normalised"][0] == pytest.approx(1, abs=1e-6)


def test_perfect_detectors_score_one() -> None:
    """Heads that look only where each detector wants, else at the first token."""
    ids = [1, 4, 7, 9, 1, 4, 7, 9, 1, 4]
    targets = [detector.wanted(torch.tensor(ids)) for detector in DETECTORS.values()]
    pattern = torch.stack([target.float() for target in targets])
    nothing = pattern.sum(-1) == 0
    pattern[..., 0] = torch.where(nothing, 1.0, pattern[..., 0])
    pattern /= pattern.sum(-1, keepdim=True)
    options = {name: {"only_possible": True} for name in DETECTORS}
    found = drawn(ids, pattern, options=options)
    for head, name in enumerate(DETECTORS):
        assert found[name][head] == pytest.approx(1, abs=1e-6), name
    # Of the nine queries that count, six repeat a token.
    assert drawn(ids, pattern)["induction"][2] == pytest.approx(6 / 9, abs=1e-6)


def test_a_head_of_induction_built_by_hand() -> None:
    """One-hot tokens, a head that looks one back and copies, a head that matches the copy.

    Positions are one-hot, too. The first layer's head maps position to the one before and
    writes the token that it finds there into a space of its own; the second one's looks for its
    own token in that space, and so finds what came after it.
    """
    vocab, length = 8, 15
    width = 2 * vocab + length
    half = [3, 6, 1, 5, 2, 7, 4]
    text = [0, *half, *half]  # the first token can only look at, and copy, itself
    model = _two_layers(vocab, length, width)
    options = {"induction": {"only_possible": True}}
    found = measuring.measure(model, NAMES, [text], options=options)
    assert found["previous_token"][0, 0] == pytest.approx(1, abs=1e-6)
    assert found["induction"][1, 0] == pytest.approx(1, abs=1e-6)
    assert found["attention_entropy"][0, 0] == pytest.approx(0, abs=1e-5)
    assert found["induction"][0, 0] < 0.01


def _two_layers(vocab: int, length: int, width: int) -> LensModel:
    """GPT-2 without norms and MLPs, with the two heads above."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_head=1,
        n_embd=width,
        n_inner=1,
        n_positions=length,
        vocab_size=vocab,
        bos_token_id=0,
        eos_token_id=0,
        attn_pdrop=0,
        scale_attn_weights=False,
    )
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(config).eval()
    # Found while its weights are random: where a block adds nothing there is nothing to find.
    model = LensModel.wrap(hf, None, name="induction by hand", prove=False)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        token, place = slice(0, vocab), slice(2 * vocab, width)
        copy = slice(vocab, 2 * vocab)
        hf.transformer.wte.weight[:, token] = torch.eye(vocab)
        hf.transformer.wpe.weight[:, place] = torch.eye(length)
        # Conv1D: [in, out], and out is query, key, value, each as wide as the stream.
        first, second = (block.attn for block in hf.transformer.h)
        query, key, value = (slice(i * width, (i + 1) * width) for i in range(3))
        first.c_attn.weight[place, query][:, place] = 100 * torch.eye(length).roll(-1, 1)
        first.c_attn.weight[place, key][:, place] = torch.eye(length)
        first.c_attn.weight[token, value][:, copy] = torch.eye(vocab)
        first.c_proj.weight.copy_(torch.eye(width))
        second.c_attn.weight[token, query][:, copy] = 100 * torch.eye(vocab)
        second.c_attn.weight[copy, key][:, copy] = torch.eye(vocab)
        for block in hf.transformer.h:
            block.ln_1 = torch.nn.Identity()
            block.ln_2 = torch.nn.Identity()
    return model


def test_grouped_queries_have_a_score_each() -> None:
    model = LensModel.wrap(
        tiny_model("llama", seed=3, num_attention_heads=4, num_key_value_heads=2),
        None,
        name="grouped",
        prove=False,
    )
    found = measuring.measure(model, NAMES, TEXTS)
    assert found["attention_entropy"].shape == (model.n_layers, 4)
    assert np.isfinite(found["attention_entropy"]).all()
    np.testing.assert_allclose(
        found["induction"], naive(model, "induction", 1), rtol=1e-4, atol=1e-6
    )


def test_bad_input() -> None:
    mamba = LensModel.wrap(tiny_model("mamba", seed=1), None, name="tiny mamba", prove=False)
    with pytest.raises(SiteError, match="attention_entropy cannot be measured in tiny mamba"):
        MetricSet.make(mamba, "attention_entropy")
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        MetricSet.make(
            measuring.tiny("llama"), "sink_mass", options={"sink_mass": {"threshold": 1.5}}
        )


def test_a_text_of_one_token_says_nothing() -> None:
    found = measuring.measure(measuring.tiny("llama"), NAMES, [[7]])
    assert all(np.isnan(found[name]).all() for name in NAMES)
    alone = measuring.measure(measuring.tiny("llama"), NAMES, [[7]], skip_first=False)
    np.testing.assert_allclose(alone["sink_mass"], 1)
    assert np.isnan(alone["attention_entropy_normalised"]).all()
    assert math.isclose(alone["attention_entropy"].sum(), 0, abs_tol=1e-6)
