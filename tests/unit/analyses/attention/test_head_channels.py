"""Channels of one head against full decompositions, a planted one, the sweep, bad input."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..by_weights import head_maps
from ..conftest import build

LAYER, HEAD = 1, 3
TEXT = [5, 9, 5, 3, 7, 1]
ANSWER, WRONG = 7, 50


@pytest.fixture(scope="module")
def llama() -> LensModel:
    """A tiny model whose heads share k and v in pairs; not to be changed."""
    return build("llama")


def test_strengths_are_singular_values_of_whole_matrices(model: LensModel) -> None:
    head = min(HEAD, model.n_heads - 1)
    with torch.no_grad():
        qk, ov = head_maps(model.hf, LAYER, head)
    result = ll.head_channels(model, LAYER, head, channels=100)
    data = result.data
    assert result.checks.ok and data.attrs["complete"] == 1
    for name, whole in (("ov", ov), ("qk", qk)):
        expected = torch.linalg.svdvals(whole)[: data.sizes["channel"]]
        np.testing.assert_allclose(data[f"{name}_strength"], expected, rtol=1e-4)
        assert float(data[f"{name}_share"].sum()) == pytest.approx(1, abs=1e-5)


def test_a_planted_channel_comes_first_with_its_tokens() -> None:
    model = build("llama")
    hf, size = model.hf, 6
    layer, d = hf.model.layers[LAYER], hf.config.hidden_size
    read, write, query, key = 11, 23, 31, 47
    with torch.no_grad():
        gain = layer.input_layernorm.weight
        final = hf.model.norm.weight
        table, head = hf.model.embed_tokens.weight, hf.lm_head.weight
        attention, own, shared = layer.self_attn, HEAD * size, HEAD // 2 * size

        def towards(rows: torch.Tensor, target: int, gain: torch.Tensor) -> torch.Tensor:
            """The direction that stands out most for one token among all, ``[d]``."""
            rows = rows / rows.norm(dim=1, keepdim=True)
            aim = torch.zeros(len(rows))
            aim[target] = 100.0
            found = torch.linalg.lstsq(rows, aim[:, None]).solution[:, 0]
            return found / found.norm() / gain

        attention.v_proj.weight[shared] = 40 * towards(table, read, gain)
        attention.o_proj.weight[:, own] = 40 * towards(head - head.mean(0), write, final)
        attention.q_proj.weight[own] = 40 * towards(table, query, gain)
        attention.k_proj.weight[shared] = 40 * towards(table, key, gain)
    assert attention.q_proj.weight.shape[1] == d
    data = ll.head_channels(model, LAYER, HEAD, top_k=1).data
    first = data.isel(channel=0, k=0)
    assert float(data.ov_share[0]) > 0.95 and float(data.qk_share[0]) > 0.95
    assert int(first.ov_read_token.sel(side="positive")) == read
    assert int(first.ov_write_token.sel(side="positive")) == write
    assert int(first.qk_query_token.sel(side="positive")) == query
    assert int(first.qk_key_token.sel(side="positive")) == key
    assert float(first.ov_write_score.sel(side="positive")) > 0


def test_scores_of_tokens_are_what_the_model_makes_of_them(llama: LensModel) -> None:
    hf = llama.hf
    with torch.no_grad():
        _, ov = head_maps(hf, LAYER, HEAD)
        u, _, w = torch.linalg.svd(ov)
        table = hf.model.embed_tokens.weight.double()
        read = table / table.square().mean(1, keepdim=True).sqrt() @ w[0]
        write = hf.lm_head.weight.double() @ (hf.model.norm.weight.double() * u[:, 0])
        write = write - write.mean()
        sign = write[write.abs().argmax()].sign()
    found = ll.head_channels(llama, LAYER, HEAD, channels=1, top_k=5).data.isel(channel=0)
    for name, values in (("ov_read", read * sign), ("ov_write", write * sign)):
        for side, order in (("positive", values), ("negative", -values)):
            best = order.topk(5)
            assert found[f"{name}_token"].sel(side=side).values.tolist() == best.indices.tolist()
            expected = values[best.indices]
            np.testing.assert_allclose(found[f"{name}_score"].sel(side=side), expected, rtol=1e-4)


def test_the_sweep_equals_edited_weights(llama: LensModel) -> None:
    """The output projection with one channel so many times as strong, in a copy."""
    doses = [0.0, 1.0, 3.0]
    result = ll.head_channels(
        llama, LAYER, HEAD, channels=2, text=TEXT, coefficients=doses, answer=ANSWER, wrong=WRONG
    )
    assert result.checks.ok and "coefficient 1 changes nothing" in [c.name for c in result.checks]
    size = 6
    for channel in range(2):
        for number, dose in enumerate(doses):
            hf = copy.deepcopy(llama.hf)
            with torch.no_grad():
                _, ov = head_maps(hf, LAYER, HEAD)
                u, s, w = torch.linalg.svd(ov)
                attention = hf.model.layers[LAYER].self_attn
                gain = hf.model.layers[LAYER].input_layernorm.weight.double()
                v = attention.v_proj.weight[HEAD // 2 * size :][:size].double() * gain
                change = (dose - 1) * s[channel] * torch.outer(u[:, channel], w[channel])
                change = change @ torch.linalg.pinv(v)
                attention.o_proj.weight[:, HEAD * size : (HEAD + 1) * size] += change.float()
                logits = hf(torch.tensor([TEXT])).logits[0, -1]
            found = float(result.data.ov_dose_metric[channel, number])
            assert found == pytest.approx(float(logits[ANSWER] - logits[WRONG]), abs=1e-4)
    assert float(abs(result.data.ov_dose_change).max()) > 1e-3


def with_channel_of_qk(hf: Any, head: int, channel: int, dose: float) -> Any:
    """A copy in which the weights of q hold one channel of QK so many times as strong."""
    hf = copy.deepcopy(hf)
    with torch.no_grad():
        qk, _ = head_maps(hf, LAYER, head)
        u, s, w = torch.linalg.svd(qk)
        change = (dose - 1) * s[channel] * torch.outer(u[:, channel], w[channel])
        block, gemma = hf.model.layers[LAYER], hf.config.model_type == "gemma2"
        attention = block.self_attn
        size = attention.head_dim
        own = slice(head * size, (head + 1) * size)
        shared = head // (hf.config.num_attention_heads // hf.config.num_key_value_heads)
        kv = slice(shared * size, (shared + 1) * size)
        q, k = attention.q_proj.weight, attention.k_proj.weight[kv].double()
        after = torch.ones(size, dtype=torch.float64)
        if hasattr(attention, "q_norm"):
            joint = len(attention.q_norm.weight) > size  # over all heads, as in OLMo 2
            after = attention.q_norm.weight[own if joint else slice(None)].double()
            k = attention.k_norm.weight[kv if joint else slice(None), None].double() * k
        if hasattr(block, "input_layernorm"):
            before = block.input_layernorm.weight.double() + gemma
            k = k * before
            change = change / before[:, None]
        q[own] += ((change @ torch.linalg.pinv(k)).T / after[:, None]).float()
    return hf


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "olmo2"])
def test_the_sweep_of_qk_equals_edited_weights(family: str) -> None:
    """Rotary embeddings, norms on q (a head's, or over all heads), and a soft-cap on the scores."""
    hf = tiny_model(family, seed=1)
    torch.manual_seed(0)
    for parameter in hf.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model, head, doses = LensModel.wrap(hf, None, name=family, prove=False), 1, [0.0, 1.0, 3.0]
    result = ll.head_channels(
        model, LAYER, head, channels=2, text=TEXT, coefficients=doses, answer=ANSWER, wrong=WRONG
    )
    assert result.checks.ok
    data = result.data
    assert data.attrs["pattern_query"] == len(TEXT) - 1
    for channel in range(2):
        for number, dose in enumerate(doses):
            hf = with_channel_of_qk(model.hf, head, channel, dose)
            hf.set_attn_implementation("eager")
            with torch.no_grad():
                out = hf(torch.tensor([TEXT]), output_attentions=True)
            expected = float(out.logits[0, -1, ANSWER] - out.logits[0, -1, WRONG])
            assert float(data.qk_dose_metric[channel, number]) == pytest.approx(expected, abs=1e-4)
            pattern = out.attentions[LAYER][0, head, -1].numpy()
            np.testing.assert_allclose(data.qk_dose_pattern[channel, number], pattern, atol=1e-5)
    assert float(abs(data.qk_dose_change).max()) > 1e-4


def test_without_its_only_channel_a_head_looks_everywhere_alike() -> None:
    model = build("llama")
    attention, size = model.hf.model.layers[LAYER].self_attn, 6
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight, head in ((attention.q_proj.weight, HEAD), (attention.k_proj.weight, HEAD // 2)):
            one, other = (torch.randn(n, generator=generator) for n in (size, weight.shape[1]))
            weight[head * size : (head + 1) * size] = 3 * torch.outer(one, other)
    data = ll.head_channels(model, LAYER, HEAD, text=TEXT, coefficients=[0, 1], answer=ANSWER).data
    assert data.attrs["rank_qk"] == data.sizes["channel"] == 1
    looks = data.qk_dose_pattern.isel(channel=0)
    np.testing.assert_allclose(looks.sel(coefficient=0), 1 / len(TEXT), atol=1e-4)
    assert float(abs(looks.sel(coefficient=1) - 1 / len(TEXT)).max()) > 0.05
    assert float(data.qk_dose_change.sel(coefficient=1)[0]) == pytest.approx(0, abs=1e-5)


def test_only_the_chosen_queries_look_elsewhere(llama: LensModel) -> None:
    how: dict[str, Any] = {"channels": 1, "text": TEXT, "coefficients": [0.0], "answer": ANSWER}
    first = ll.head_channels(llama, LAYER, HEAD, positions=[1, 2], **how).data
    every = ll.head_channels(llama, LAYER, HEAD, **how).data
    assert first.attrs["pattern_query"] == 2
    looks = first.qk_dose_pattern[0, 0]
    assert float(looks.sum()) == pytest.approx(1) and not looks[3:].any()
    assert float(first.qk_dose_change[0, 0]) != float(every.qk_dose_change[0, 0])


def test_a_bos_token_is_asked_for_like_anywhere() -> None:
    model = ll.load("toy:induction")
    short = ll.head_channels(model, 1, 2, channels=1, text="cat dog cat", add_bos=False).data
    assert short.attrs["swept_text"] == "catdogcat"
    assert "<bos>" in ll.head_channels(model, 1, 2, channels=1, text="cat dog cat").data.swept_text


def test_only_the_chosen_positions_are_changed(llama: LensModel) -> None:
    how: dict[str, Any] = {"channels": 1, "text": TEXT, "coefficients": [0.0], "answer": ANSWER}
    whole = ll.head_channels(llama, 2, HEAD, **how).data
    last = ll.head_channels(llama, 2, HEAD, positions=-1, **how).data
    none = ll.head_channels(llama, 2, HEAD, positions=0, **how).data
    np.testing.assert_allclose(last.ov_dose_metric, whole.ov_dose_metric, atol=1e-4)
    assert abs(float(none.ov_dose_change[0, 0])) < 1e-4 < abs(float(last.ov_dose_change[0, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 9}, "9"),
        ({"head": 4}, "Head 4 does not exist: layer 0 has 4 heads"),
        ({"channels": 0}, "expected channels from 1"),
        ({"top_k": 1000}, "to 301"),
        ({"text": TEXT, "coefficients": [1, 1]}, "expected different numbers"),
        ({"text": [TEXT, TEXT]}, "text is several texts"),
        ({"answer": ANSWER}, "text"),
        ({"chanels": 2}, "did you mean 'channels'"),
    ],
)
def test_wrong_options_are_named(llama: LensModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.head_channels(llama, **options)


def test_heads_that_are_no_product_of_two_matrices_are_refused() -> None:
    model = LensModel.wrap(tiny_model("deepseek_v3"), None, name="latent", prove=False)
    with pytest.raises(ModelError, match="cannot be read from weights"):
        ll.head_channels(model)


def test_work_counts_a_pass_for_each_dose(
    llama: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = "layerlens.analyses.contract.estimate._operations_per_second"
    monkeypatch.setattr(speed, lambda model, rows=64: (1e9, "nothing"))
    assert ll.head_channels.work(llama).passes == 0
    work = ll.head_channels.work(llama, channels=3, text=TEXT, coefficients=[0, 2], verify=1)
    assert work.passes == 1 + 3 * 6 + 2
    assert work.head_rows == 1 + 2 * 6 + 2
    short, long = (ll.head_channels.estimate(llama, text=TEXT * n).seconds for n in (1, 9))
    assert long > 2 * short, "the text's tokens count"
