"""Steering directions against plain hooks, planted directions and identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import layerlens as ll
from layerlens.analyses.steering.directions import channel_jsd, held_out, ranked_higher, separate
from layerlens.analyses.steering.steering import steering
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..conftest import build
from ..planted import WORDS, Stream, empty

POSITIVE = [[5, 17, 200], [9, 3, 40, 41], [100, 7], [60, 61, 62, 63]]
NEGATIVE = [[5, 18, 201], [9, 4, 40, 42], [101, 8], [60, 61, 70, 71]]
TEXT, NEUTRAL = [5, 17, 200, 3, 90], [33, 34, 35]
ANSWER, WRONG = 7, 250


def blocks(model: LensModel) -> nn.ModuleList:
    hf: Any = model.hf
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


def states(model: LensModel, prompts: list[list[int]], position: int = -1) -> np.ndarray:
    """Outputs of all blocks [layer, prompt, width], by plain hooks."""
    found = []
    for ids in prompts:
        kept: list[Tensor] = []
        handles = [
            block.register_forward_hook(
                lambda m, a, out, kept=kept: kept.append(
                    (out[0] if isinstance(out, tuple) else out)[0, position].clone()
                )
            )
            for block in blocks(model)
        ]
        with torch.no_grad():
            model.hf(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        found.append(torch.stack(kept).double().numpy())
    return np.stack(found, 1)


def steered(model: LensModel, ids: list[int], layer: int, vector: Any, where: Any) -> Tensor:
    """Last logits with a vector added to one block's output, by a plain hook."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output).clone()
        value[0, where] += torch.as_tensor(vector, dtype=value.dtype)
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = blocks(model)[layer].register_forward_hook(add)
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1].double()
    handle.remove()
    return logits


@pytest.mark.parametrize("position", [-1, 0])
def test_directions_are_mean_differences(model: LensModel, position: int) -> None:
    data = steering(model, POSITIVE, NEGATIVE, position=position).data
    plus, minus = states(model, POSITIVE, position), states(model, NEGATIVE, position)
    direction = (plus - minus).mean(1)
    np.testing.assert_allclose(data.direction, direction, atol=1e-4)
    norms = np.linalg.norm(np.concatenate([plus, minus], 1), axis=-1).mean(1)
    np.testing.assert_allclose(data.mean_norm, norms, rtol=1e-4)
    ratio = np.linalg.norm(direction, axis=1) / norms
    np.testing.assert_allclose(data.norm_ratio, ratio, rtol=1e-3, atol=1e-6)


def test_separation_by_hand(model: LensModel) -> None:
    data = steering(model, POSITIVE, NEGATIVE).data
    for layer, (plus, minus) in enumerate(
        zip(states(model, POSITIVE), states(model, NEGATIVE), strict=True)
    ):
        high, low = [], []
        for i in range(4):
            others = [j for j in range(4) if j != i]
            v = (plus[others] - minus[others]).mean(0)
            middle = np.concatenate([plus[others], minus[others]]).mean(0)
            high.append((plus[i] - middle) @ v / np.linalg.norm(v))
            low.append((minus[i] - middle) @ v / np.linalg.norm(v))
        auc = np.mean([a > b for a in high for b in low])
        assert float(data.auc[layer]) == pytest.approx(auc, abs=1e-6)
        fisher = (np.mean(high) - np.mean(low)) ** 2 / (np.var(high, ddof=1) + np.var(low, ddof=1))
        assert float(data.fisher[layer]) == pytest.approx(fisher, rel=1e-2)
        p, q = (torch.tensor(x).softmax(-1) for x in (plus, minus))
        m = (p + q) / 2
        jsd = 0.5 * ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1))
        assert float(data.jsd[layer]) == pytest.approx(float(jsd.mean()), abs=1e-5)
        v = (plus - minus).mean(0)
        cosine = torch.cosine_similarity(torch.tensor(plus - minus), torch.tensor(v)[None])
        assert float(data.consistency[layer]) == pytest.approx(float(cosine.mean()), abs=1e-4)


@pytest.mark.parametrize("relative", [True, False])
def test_doses_equal_plain_runs(model: LensModel, relative: bool) -> None:
    coefficients = (-1.0, 0.0, 0.5)
    options: dict[str, Any] = {"relative": relative, "coefficients": coefficients}
    result = steering(
        model,
        POSITIVE,
        NEGATIVE,
        text=TEXT,
        neutral=NEUTRAL,
        answer=ANSWER,
        wrong=WRONG,
        steer_at=[1, -1],
        **options,
    )
    data = result.data
    plus, minus = states(model, POSITIVE), states(model, NEGATIVE)
    with torch.no_grad():
        plain = model.hf(torch.tensor([NEUTRAL])).logits[0, -1].double().log_softmax(-1)
    for layer in range(3):
        v = (plus[layer] - minus[layer]).mean(0)
        size = np.linalg.norm(np.concatenate([plus[layer], minus[layer]]), axis=-1).mean()
        scale = size / np.linalg.norm(v) if relative else 1.0
        assert float(data.scale[layer]) == pytest.approx(scale, rel=1e-3)
        for column, c in enumerate(coefficients):
            logits = steered(model, TEXT, layer, c * scale * v, [1, 4])
            expected = float(logits[ANSWER] - logits[WRONG])
            assert float(data.dose_metric[layer, column]) == pytest.approx(expected, abs=1e-3)
            other = steered(model, NEUTRAL, layer, c * scale * v, slice(None)).log_softmax(-1)
            kl = float((plain.exp() * (plain - other)).sum())
            assert float(data.neutral_kl[layer, column]) == pytest.approx(kl, abs=1e-4, rel=1e-3)
    assert result.checks.ok
    assert "coefficient 0 changes nothing" in {check.name for check in result.checks}


@pytest.mark.parametrize("relative", [True, False])
def test_prompts_added_along_the_front_equal_plain_runs(model: LensModel, relative: bool) -> None:
    pairs = [[5, 17, 200], [9, 3, 40]], [[5, 18, 201], [9, 4, 42]]
    data = steering(
        model,
        *pairs,
        text=TEXT,
        neutral=[*NEUTRAL, 36],
        answer=ANSWER,
        wrong=WRONG,
        front=True,
        relative=relative,
        coefficients=(0.0, 1.5),
    ).data
    for layer in range(3):
        plus, minus = (
            np.stack([states(model, side, at)[layer] for at in range(3)], 1) for side in pairs
        )
        matrix = (plus - minus).mean(0)
        np.testing.assert_allclose(data.front_direction[layer], matrix, atol=1e-4)
        size = np.linalg.norm(np.concatenate([plus, minus]), axis=-1).mean(0)
        ratio = np.linalg.norm(matrix, axis=-1) / size
        np.testing.assert_allclose(data.front_ratio[layer], ratio, rtol=1e-3, atol=1e-6)
        c = 1.5 * (float(data.scale[layer]) if relative else 1.0)
        logits = steered(model, TEXT, layer, c * matrix, slice(0, 3))
        expected = float(logits[ANSWER] - logits[WRONG])
        assert float(data.dose_metric[layer, 1]) == pytest.approx(expected, abs=1e-3)
        if layer < 2:  # behind the last block nothing of it reaches the answer
            assert abs(float(data.dose_change[layer, 1])) > 1e-3


def test_shorter_prompts_are_filled_up_with_spaces() -> None:
    """As published: at the end, with the token of a space, up to the longer one's length."""
    model = spaced()
    asked: dict[str, Any] = {"site": "resid_pre", "relative": False, "coefficients": [4.0]}
    texts: dict[str, Any] = {"text": [5, 6, 7, 8, 9], "neutral": [9, 8, 7, 6]}
    short = steering(model, [3, 4, 5], [6], front=True, **texts, **asked).data
    space = model.token_id(" ")
    full = steering(model, [3, 4, 5], [6, space, space], front=True, **texts, **asked).data
    np.testing.assert_array_equal(short.front_direction, full.front_direction)
    np.testing.assert_array_equal(short.dose_metric, full.dose_metric)
    embedded = ll.record(model, [3, 4, 5], ["embed"])["embed"][0]
    padded = ll.record(model, [6, space, space], ["embed"])["embed"][0]
    np.testing.assert_allclose(short.front_direction[0], embedded - padded, atol=1e-6)


def spaced() -> LensModel:
    """A tiny model whose tokens are characters."""
    characters = [" ", *"abcdefghijklmnopqrstuvwxyz"]
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(characters)}, []))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    return LensModel.wrap(
        tiny_model("llama", vocab_size=27), tokenizer, name="characters", prove=False
    )


def test_what_does_not_go_along_a_front_is_refused(model: LensModel) -> None:
    same: dict[str, Any] = {"front": True, "neutral": TEXT}
    with pytest.raises(InputError, match="no token for a space"):
        steering(model, POSITIVE, NEGATIVE, text=TEXT, **same)
    with pytest.raises(InputError, match="up to 4 tokens and the text 2"):
        steering(model, POSITIVE[3:], NEGATIVE[3:], text=[1, 2], **same)
    with pytest.raises(InputError, match="steer_at of steering has an effect only"):
        steering(model, POSITIVE[3:], NEGATIVE[3:], text=TEXT, steer_at=[1], **same)
    with pytest.raises(InputError, match="front of steering has an effect only"):
        steering(model, POSITIVE, NEGATIVE, front=True)


def test_coefficient_zero_changes_nothing(model: LensModel) -> None:
    data = steering(model, POSITIVE, NEGATIVE, text=TEXT, neutral=NEUTRAL).data
    none = data.sel(coefficient=0.0)
    np.testing.assert_allclose(none.dose_change, 0, atol=1e-5)
    np.testing.assert_allclose(none.neutral_kl, 0, atol=1e-6)


def test_identical_pairs_give_no_direction(model: LensModel) -> None:
    data = steering(model, POSITIVE, POSITIVE, text=TEXT, neutral=NEUTRAL).data
    assert float(abs(data.direction).max()) == 0
    assert float(data.jsd.max()) == 0
    np.testing.assert_allclose(data.auc, 0.5)
    assert data.fisher.isnull().all()
    np.testing.assert_allclose(data.dose_change, 0, atol=1e-5)


def test_a_single_pair_has_a_direction_and_no_held_out_numbers(model: LensModel) -> None:
    data = steering(model, POSITIVE[0], NEGATIVE[0]).data
    difference = states(model, POSITIVE[:1]) - states(model, NEGATIVE[:1])
    np.testing.assert_allclose(data.direction, difference[:, 0], atol=1e-4)
    assert data.auc.isnull().all()
    assert data.fisher.isnull().all()
    assert data.attrs["complete"]


def test_swapped_conditions_turn_the_direction_round(model: LensModel) -> None:
    one = steering(model, POSITIVE, NEGATIVE).data
    other = steering(model, NEGATIVE, POSITIVE).data
    np.testing.assert_allclose(one.direction, -other.direction, atol=1e-5)
    for name in ("auc", "jsd", "norm_ratio"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)


def test_a_planted_direction_is_found_where_it_was_planted() -> None:
    """A neuron of block 1 writes u where it sees token 5; no other part writes."""
    stream = Stream(token=WORDS, position=WORDS, mood=1, out=WORDS)
    hf = empty(stream, layers=3, hidden=1)
    u = stream.code("mood", 0, 7.0)
    seen = (stream.n / 2) ** 0.5
    with torch.no_grad():
        mlp = hf.transformer.h[1].mlp
        mlp.c_fc.weight[:, 0] = stream.read("token")[:, 5]
        mlp.c_fc.bias[0] = -0.8 * seen
        mlp.c_proj.weight[0] = u / (0.2 * seen)
    model = LensModel.wrap(hf, None, name="planted mood", prove=False)
    prompts = [[1, 9], [2], [3, 7, 8]]
    data = steering(model, [[*p, 5] for p in prompts], [[*p, 6] for p in prompts]).data
    tokens = stream.code("token", 5) - stream.code("token", 6)
    np.testing.assert_allclose(data.direction[0], tokens, atol=1e-5)
    for layer in (1, 2):
        np.testing.assert_allclose(data.direction[layer], tokens + u, atol=1e-2)  # epsilon, rest
    np.testing.assert_allclose(data.auc, 1)
    np.testing.assert_allclose(data.consistency, 1, atol=1e-4)
    assert data.attrs["layer_by_norm_ratio"] >= 1


def test_separation_of_known_clouds() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=(30, 16))
    u = np.zeros(16)
    u[3] = 10.0
    apart = separate(base + u, generator.normal(size=(30, 16)))
    assert apart.auc == 1
    assert apart.fisher > 10
    same = separate(base, generator.normal(size=(30, 16)))
    assert 0.3 < same.auc < 0.7, "held out, chance stays chance"
    assert separate(base[:1] + u, base[:1]).direction == pytest.approx(u)
    assert np.isnan(separate(base[:1] + u, base[:1]).auc)


def test_held_out_scores_leave_the_pair_out() -> None:
    positive = np.array([[1.0, 0], [1, 0], [0, 1]])
    high, low = held_out(positive, np.zeros((3, 2)))
    assert high[2] - low[2] == pytest.approx(0), "the third pair differs along another axis"
    assert ranked_higher(np.array([1.0, 0]), np.array([0.0, 0])) == pytest.approx(0.75)


def test_divergence_is_in_its_range_and_known_at_the_ends() -> None:
    far = np.array([200.0, 0, 0]), np.array([0.0, 200, 0])
    assert channel_jsd(*far) == pytest.approx(np.log(2))
    assert channel_jsd(far[0], far[0]) == 0


def test_a_direction_at_the_last_layer_moves_the_logits_by_what_the_head_reads() -> None:
    """With the final norm's statistics held, by ln_f's formula."""
    model = build("gpt2")
    hf: Any = model.hf
    last = model.n_layers - 1
    data = steering(model, POSITIVE, NEGATIVE).data
    v = torch.tensor(data.direction.sel(layer=last).values).double()
    norm = hf.transformer.ln_f
    kept: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda m, args: kept.append(args[0][0, -1].double()))
    with torch.no_grad():
        hf(torch.tensor([TEXT]))
        handle.remove()
        s = (kept[0].var(correction=0) + norm.eps).sqrt()
        moved = hf.lm_head.weight.double() @ (norm.weight.double() * (v - v.mean()) / s)
        tiny = 1e-3
        plain, pushed = (steered(model, TEXT, last, c * v, -1) for c in (0.0, tiny))
        x = kept[0] + tiny * v
        s_after = (x.var(correction=0) + norm.eps).sqrt()
        bias = hf.lm_head.weight.double() @ norm.bias.double()
    expected = (plain - bias) * (s / s_after) + tiny * moved * (s / s_after) + bias
    np.testing.assert_allclose(pushed, expected, atol=1e-4)


def test_the_result_steers_through_an_edit(model: LensModel) -> None:
    result = steering(
        model,
        POSITIVE,
        NEGATIVE,
        text=TEXT,
        neutral=NEUTRAL,
        answer=ANSWER,
        wrong=WRONG,
        coefficients=[2.0],
        relative=False,
    )
    v = result.data.direction.sel(layer=1).values
    run = ll.run(model, TEXT, edits=[ll.edit("resid_post.1", "add", 2.0 * v)])
    logits = run.logits[0, -1]
    assert float(result.data.dose_metric.sel(layer=1)[0]) == pytest.approx(
        float(logits[ANSWER] - logits[WRONG]), abs=1e-3
    )


def test_other_sites_and_chosen_layers(model: LensModel) -> None:
    data = steering(model, POSITIVE, NEGATIVE, site="mlp_out", layers=[2, 0]).data
    assert data.layer.values.tolist() == [0, 2]
    trace = [
        np.mean(
            [ll.record(model, ids, ["mlp_out.2"])["mlp_out.2"][0, -1].numpy() for ids in prompts],
            axis=0,
        )
        for prompts in (POSITIVE, NEGATIVE)
    ]
    np.testing.assert_allclose(data.direction[1], trace[0] - trace[1], atol=1e-5)


def test_without_a_tokenizer_there_is_no_neutral_sentence(model: LensModel) -> None:
    data = steering(model, POSITIVE, NEGATIVE, text=TEXT).data
    assert data.neutral_kl.isnull().all()
    assert "neutral" in data.attrs["notes"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"negative": NEGATIVE[:2]}, "4 positive and 2 negative"),
        ({"site": "z"}, "Valid are resid_pre"),
        ({"layers": [5]}, "Layer 5 does not exist"),
        ({"position": 3}, "Position 3"),
        ({"position": [1, 2]}, "2 entries for 4 texts"),
        ({"text": TEXT, "metric": "rnk"}, "did you mean 'rank'"),
    ],
)
def test_what_does_not_fit_is_refused(call: dict[str, Any], message: str) -> None:
    arguments = {"positive": POSITIVE, "negative": NEGATIVE, **call}
    with pytest.raises(InputError, match=message):
        steering(build("gpt2"), **arguments)


def test_a_site_that_the_family_lacks_is_refused() -> None:
    parallel = LensModel.wrap(tiny_model("gpt_neox"), None, name="neox", prove=False)
    with pytest.raises(SiteError, match="parallel"):
        steering(parallel, [[1, 2]], [[1, 3]], site="resid_mid")
