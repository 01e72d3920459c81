"""Cross-model patching against plain hooks, on copies that differ in known places."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.analyses.grafting.cross_model_patch import cross_model_patch
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..conftest import build

IDS = [5, 17, 200, 3, 90, 41]
TEXTS = [IDS, [9, 8, 7], [11, 250, 33, 4]]
ANSWER, WRONG = 7, 250


def blocks(model: LensModel) -> nn.ModuleList:
    hf: Any = model.hf
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


def changed(model: LensModel, layer: int | None = None) -> LensModel:
    """A copy whose weights differ a little, in all of its parts or in one block."""
    hf = copy.deepcopy(model.hf)
    twin = LensModel.wrap(hf, None, name="other", prove=False)
    part = hf if layer is None else blocks(twin)[layer]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return twin


def run(model: LensModel, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """Outputs of all blocks [position, width] and last logits, by plain hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    handles = [block.register_forward_hook(keep) for block in blocks(model)]
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return kept, logits


def patched(
    model: LensModel, ids: list[int], layer: int, states: Tensor, where: list[int]
) -> Tensor:
    def put(module: nn.Module, args: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output).clone()
        value[0, where] = states[where]
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = blocks(model)[layer].register_forward_hook(put)
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return logits


def difference(logits: Tensor) -> float:
    return float(logits[ANSWER] - logits[WRONG])


@pytest.mark.parametrize("where", [None, [0, 3], -1])
def test_every_layer_equals_one_plain_run(model: LensModel, where: Any) -> None:
    other = changed(model)
    result = cross_model_patch(model, IDS, other=other, answer=ANSWER, wrong=WRONG, positions=where)
    data = result.data
    mine, logits = run(model, IDS)
    theirs, other_logits = run(other, IDS)
    place = list(range(len(IDS))) if where is None else [where] if where == -1 else where
    values = [
        difference(patched(model, IDS, layer, state, place)) for layer, state in enumerate(theirs)
    ]
    own, foreign = difference(logits), difference(other_logits)
    np.testing.assert_allclose(data.metric, values, atol=1e-4)
    np.testing.assert_allclose(
        data.recovered, (own - np.array(values)) / (own - foreign), atol=1e-3
    )
    assert float(data.own_metric) == pytest.approx(own, abs=1e-4)
    assert float(data.other_metric) == pytest.approx(foreign, abs=1e-4)
    for layer, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        ratio = (b[place].norm(dim=-1) / a[place].norm(dim=-1)).mean()
        cosine = torch.cosine_similarity(a[place], b[place], dim=-1).mean()
        assert float(data.norm_ratio[layer]) == pytest.approx(float(ratio), rel=1e-4)
        assert float(data.cosine[layer]) == pytest.approx(float(cosine), abs=1e-5)
    assert result.checks.ok
    assert "other" in data.attrs["direction"]


def test_a_model_patched_with_itself_does_not_change(model: LensModel) -> None:
    result = cross_model_patch(model, IDS, other=model, answer=ANSWER, wrong=WRONG)
    data = result.data
    np.testing.assert_allclose(data.metric, float(data.own_metric), atol=1e-5)
    assert data.recovered.isnull().all(), "there is nothing to recover"
    assert "nothing to recover" in data.attrs["notes"]
    np.testing.assert_allclose(data.norm_ratio, 1, atol=1e-6)
    np.testing.assert_allclose(data.cosine, 1, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_changed_block_shows_where_it_is(model: LensModel, layer: int) -> None:
    """Before it nothing is recovered, from it on all: an identity, not our own numbers."""
    other = changed(model, layer)
    data = cross_model_patch(model, IDS, other=other, answer=ANSWER, wrong=WRONG).data
    expected = [float(block >= layer) for block in range(model.n_layers)]
    np.testing.assert_allclose(data.recovered, expected, atol=1e-3)


def test_after_the_last_block_the_head_reads_the_other_s_state(model: LensModel) -> None:
    other = changed(model)
    states, _ = run(other, IDS)
    data = cross_model_patch(model, IDS, other=other, metric="logprob", answer=ANSWER).data
    with torch.no_grad():
        logits = model.unembed(states[-1][-1:])[0]
    expected = float(logits.double().log_softmax(-1)[ANSWER])
    assert float(data.metric[-1]) == pytest.approx(expected, abs=1e-4)


def test_the_wrong_answer_is_the_other_model_s(model: LensModel) -> None:
    other = changed(model)
    _, mine = run(model, IDS)
    _, theirs = run(other, IDS)
    data = cross_model_patch(model, IDS, other=other).data
    right, wrong = int(mine.argmax()), int(theirs.argmax())
    if right == wrong:
        wrong = int(mine.topk(2).indices[1])
    assert int(data.answer_id) == right
    assert float(data.own_metric) == pytest.approx(float(mine[right] - mine[wrong]), abs=1e-4)


def test_several_texts_give_means_with_intervals(model: LensModel) -> None:
    other = changed(model)
    both = cross_model_patch(model, TEXTS, other=other, answer=ANSWER, wrong=WRONG).data
    for row, ids in enumerate(TEXTS):
        one = cross_model_patch(model, ids, other=other, answer=ANSWER, wrong=WRONG).data
        np.testing.assert_allclose(both.metric[row], one.metric, atol=1e-4)
    own, foreign = both.own_metric.values, both.other_metric.values
    ratio = (own[:, None] - both.metric.values).mean(0) / (own - foreign).mean()
    np.testing.assert_allclose(both.recovered_mean, ratio, atol=1e-3)
    mean, low, high = mean_interval(both.metric.values)
    np.testing.assert_allclose(both.metric_mean, mean, atol=1e-4)
    np.testing.assert_allclose(both.metric_low, low, atol=1e-4)
    np.testing.assert_allclose(both.metric_high, high, atol=1e-4)
    assert (both.metric_low <= both.metric_high).all()


def test_chosen_layers_and_the_call_again(model: LensModel) -> None:
    other = changed(model)
    result = cross_model_patch(model, IDS, other=other, answer=ANSWER, wrong=WRONG, layers=[2, 0])
    full = cross_model_patch(model, IDS, other=other, answer=ANSWER, wrong=WRONG).data
    assert result.data.layer.values.tolist() == [0, 2]
    np.testing.assert_allclose(result.data.metric, full.metric[[0, 2]], atol=1e-5)
    assert "other=other" in result.code


def test_models_of_another_shape_are_refused() -> None:
    model = build("gpt2")
    wide = LensModel.wrap(tiny_model("gpt2", n_embd=48), None, name="wide", prove=False)
    with pytest.raises(InputError, match="width 24 and wide 48"):
        cross_model_patch(model, IDS, other=wide)
    deep = LensModel.wrap(
        tiny_model("gpt2", n_embd=24, n_head=2, n_layer=5), None, name="deep", prove=False
    )
    with pytest.raises(InputError, match="blocks: 3 and deep 5"):
        cross_model_patch(model, IDS, other=deep)
    small = LensModel.wrap(
        tiny_model("gpt2", n_embd=24, n_head=2, n_layer=3, vocab_size=99),
        None,
        name="small",
        prove=False,
    )
    with pytest.raises(InputError, match="small has no token 200"):
        cross_model_patch(model, IDS, other=small)
    with pytest.raises(InputError, match="needs the same vocabulary"):
        cross_model_patch(model, [5, 6], other=small, metric="kl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"other": None}, "other is a model from ll.load"),
        ({"layers": [9]}, "Layer 9 does not exist"),
        ({"positions": 99}, "Position 99"),
        ({"answer": 3, "wrong": 3}, "same token"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    model = build("gpt2")
    with pytest.raises(InputError, match=message):
        cross_model_patch(model, IDS, **{"other": model, **options})


def test_other_tokens_are_refused() -> None:
    """Two models may share ids and still mean other words by them."""

    class Named:
        def __init__(self, words: str) -> None:
            self.words = words

    one, two = build("gpt2"), build("gpt2")
    for model, word in ((one, "a"), (two, "b")):
        model.tokenizer = Named(word)
        model.token_string = lambda index, word=word: f"{word}{index}"  # type: ignore[method-assign]
    tokens = build("gpt2").tokens(IDS)
    with pytest.raises(InputError, match=r"Token 3 is 'a3' .* and 'b3'"):
        cross_model_patch(one, tokens, other=two)
