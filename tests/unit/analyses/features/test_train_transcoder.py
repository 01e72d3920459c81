"""Transcoders that are learned: a planted map is found, and numbers are those of plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, mean_max_cosine
from layerlens.analyses.features.dictionaries.together import reconstruct_all
from layerlens.analyses.features.training.crossing import Crossing
from layerlens.analyses.features.training.learner import Recipe
from layerlens.analyses.features.training.pairs import NORMALISE, PairJudge, PairLearner, Pairs
from layerlens.errors import Cancelled, InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import get_toy
from layerlens.result.fitted import Fitted

from ..by_hooks import wrapped
from .test_train_sae import StopsAt

SHORT = {"layers": [0, 1], "size": 2, "k": 4, "activations": 4000, "batch": 128,
         "test_tokens": 200}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    return get_toy("induction").draw(60, False, torch.Generator().manual_seed(0)).ids.tolist()


@pytest.fixture(scope="module")
def learned(model: LensModel, texts: list[list[int]]) -> Fitted:
    return ll.train_transcoder(model, texts, **SHORT, skip=True)


def test_a_planted_map_is_found() -> None:
    """An MLP of 20 neurons that are rarely on: what they write are the rows that are learned."""
    random = torch.Generator().manual_seed(1)
    read = torch.nn.functional.normalize(torch.randn(20, 12, generator=random), dim=-1)
    wrote = torch.nn.functional.normalize(torch.randn(20, 16, generator=random), dim=-1)

    def draw(count: int) -> Tensor:
        x = torch.randn(count, 12, generator=random)
        x = x * 12**0.5 / x.norm(dim=1, keepdim=True)
        y = (x @ read.T - 1.5).relu() @ wrote
        return torch.stack([torch.nn.functional.pad(x, (0, 4)), y], 1)

    steps, batch = 500, 256
    recipe = Recipe("topk", 40, 3, 1e-2, batch, steps * batch, steps * batch // 10, 0, "none")
    learner = PairLearner(recipe, *draw(2048).unbind(1), skip=False)
    start = mean_max_cosine(wrote, learner.arrays()["W_dec"])
    for _ in range(steps):
        learner.step(draw(batch))
    x, y = draw(500).unbind(1)
    left = (y - learner.dictionaries()[0].reconstruct(x)[0]).square().sum()
    assert start < 0.7 and mean_max_cosine(wrote, learner.arrays()["W_dec"]) > 0.95
    assert left / (y - y.mean(0)).square().sum() < 0.3


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_numbers_are_those_of_plain_torch(
    kind: str, model: LensModel, texts: list[list[int]]
) -> None:
    options = {**SHORT, "layers": 1, "kind": kind, "skip": True}
    if kind != "topk":
        del options["k"]
    found = ll.train_transcoder(model, texts, **options)
    assert found.checks.ok and found.options["site"] == "resid_mid"
    read, written = _pairs(model, texts, 1)
    inside = read * 8 / read.norm(dim=1, keepdim=True)  # the root of 64 entries
    along = inside @ found["W_enc"]
    if kind == "gated":
        features = (along * found["r_mag"].exp() + found["b_mag"]).relu()
        features = features * (along + found["b_gate"] > 0)
    else:
        features = (along + found["b_enc"]).relu()
        if kind == "jumprelu":
            features = features * (features > found["threshold"])
        else:
            best = features.topk(4)
            features = torch.zeros_like(features).scatter(1, best.indices, best.values)
    y = features @ found["W_dec"] + found["b_dec"] + inside @ found["W_skip"].T
    spread = (written - written.mean(0)).square().sum()
    explained = float(1 - (written - y).square().sum() / spread)
    assert found.scores["test"]["explained_variance/1"] == pytest.approx(explained, abs=1e-4)
    assert explained > found.scores["test"]["control"]


def _pairs(model: LensModel, texts: list[list[int]], layer: int) -> tuple[Tensor, Tensor]:
    """What an MLP's norm is given and what the MLP gives, by plain hooks, on texts set apart."""
    found: dict[str, Tensor] = {}
    block = model.hf.model.layers[layer]
    handles = [
        block.post_attention_layernorm.register_forward_pre_hook(
            lambda _, args: found.__setitem__("read", args[0])
        ),
        block.mlp.register_forward_hook(lambda *given: found.__setitem__("written", given[2])),
    ]
    with torch.no_grad():
        model.hf(torch.tensor([texts[n] for n in split_texts([None] * len(texts), 0, 0.1).test]))
    for handle in handles:
        handle.remove()
    read, written = (found[name][:, 1:].flatten(0, 1)[:200] for name in ("read", "written"))
    return read, written


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    model: LensModel, texts: list[list[int]], learned: Fitted
) -> None:
    options = {**SHORT, "skip": True}
    with pytest.raises(Cancelled) as caught:
        ll.train_transcoder.run(model, texts, options, StopsAt(1500))
    partial = caught.value.partial.fitted  # type: ignore[attr-defined]
    again = ll.train_transcoder(model, texts, **options, resume=partial)
    for name in learned:
        assert torch.equal(again[name], learned[name]), name
    assert again.scores == learned.scores
    with pytest.raises(InputError, match="begun with skip=True"):
        ll.train_transcoder(model, texts, **SHORT, resume=partial)


def test_layers_learn_as_each_would_alone(
    model: LensModel, texts: list[list[int]], learned: Fitted
) -> None:
    alone = ll.train_transcoder(model, texts, **{**SHORT, "layers": 0}, skip=True)
    both = Dictionary.by_layer(learned)
    assert sorted(both) == [0, 1] and list(learned["density"].shape) == [2, 128]
    for name, array in Dictionary.by_layer(alone)[0].arrays.items():
        torch.testing.assert_close(both[0][name], array, atol=1e-5, rtol=1e-4)


def test_the_control_is_the_best_linear_map_of_a_rank() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=random)
    x = x * 10**0.5 / x.norm(dim=1, keepdim=True)
    three = torch.randn(10, 3, generator=random) @ torch.randn(3, 10, generator=random)
    pairs = torch.stack([x, x @ three], 1)
    judge = PairJudge(pairs[:100])
    judge.see(pairs[100:])
    shares = [float(judge.by_layer(rank)[0]) for rank in (0, 2, 3, 40)]
    assert shares[0] == 0 and 0.5 < shares[1] < 0.99
    assert shares[2:] == pytest.approx([1, 1], abs=1e-4)
    assert NORMALISE == "constant_norm_rescale"


def test_sublayers_side_by_side_read_the_same_state() -> None:
    model = wrapped("gpt_neox")
    texts = [[5, 9, 1, 3, 7, 5], [4, 8, 1, 6, 2, 3], [9, 2, 4, 4, 1, 8]]
    found = ll.train_transcoder(model, texts, layers=1, size=2, k=2, batch=4, test=0.4)
    assert found.options["site"] == "resid_pre" and found.options["site_out"] == "mlp_out"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": "some"}, "'all'"),
        ({"kind": "topp"}, "topk"),
        ({"k": 4000}, "the features"),
        ({"positions_skipped": -1}, "positions_skipped is -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, object], words: str, model: LensModel, texts: list[list[int]]
) -> None:
    with pytest.raises(InputError, match=words):
        ll.train_transcoder(model, texts, **options)


def test_transcoders_that_do_not_fit_are_refused(model: LensModel, texts: list[list[int]]) -> None:
    with pytest.raises(MemoryLimitError, match="fewer layers"):
        ll.train_transcoder(model, texts, layers="all", memory_limit=1000)


def test_one_feature_crosses_layers_where_others_find_copies() -> None:
    """Features of the first layer whose strength the MLPs of three layers write each in its way."""
    random = torch.Generator().manual_seed(1)
    width, planted = 16, 8
    rows = torch.randn(4, planted, width, generator=random)
    read, *wrote = torch.nn.functional.normalize(rows, dim=-1)

    def draw(count: int) -> Tensor:
        x = torch.randn(count, width, generator=random)
        x = x * width**0.5 / x.norm(dim=1, keepdim=True)
        f = (x @ read.T - 0.6).relu()
        return torch.stack([side for row in wrote for side in (x, f @ row)], 1)

    steps, batch = 200, 128
    recipe = Recipe("relu", 16, 1, 3e-2, batch, steps * batch, steps * batch, 0, "none")
    on, left = {}, {}
    for made in (Pairs, Crossing):
        learner = made(recipe, draw(2048), skip=False)
        for _ in range(steps):
            learner.step(draw(batch))
        each, x = learner.dictionaries(), draw(1000)
        y, features = reconstruct_all(each, x[:, 0::2])
        wanted = x[:, 1::2]
        left[made] = float((wanted - y).square().sum() / (wanted - wanted.mean(0)).square().sum())
        on[made] = [float((one > 0).sum()) / len(x) for one in features]
    assert min(on[Pairs]) > 0.9 and left[Pairs] > 0.3  # as many on in each layer do not suffice
    assert on[Crossing][0] > 2 and sum(on[Crossing][1:]) < 0.2 and left[Crossing] < 0.05
    wide = torch.cat([each[0]["W_dec"], *each[0].later], 1)
    assert mean_max_cosine(torch.cat(wrote, 1), wide) > 0.98


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated"])
def test_cross_layer_ones_are_those_of_plain_torch(
    kind: str, model: LensModel, texts: list[list[int]]
) -> None:
    """A stopped run goes on as if it had not been; each layer is the sum over those up to it."""
    options = {**SHORT, "kind": kind, "cross_layer": True, "skip": kind == "topk"}
    found = ll.train_transcoder(model, texts, **options)
    assert found.checks.ok and list(found["W_dec_later"].shape) == [1, 128, 64]
    with pytest.raises(Cancelled) as caught:
        ll.train_transcoder.run(model, texts, options, StopsAt(1500))
    again = ll.train_transcoder(model, texts, **options, resume=caught.value.partial.fitted)  # type: ignore[attr-defined]
    for name in found:
        assert torch.equal(again[name], found[name]), name
    read, written = zip(*(_pairs(model, texts, layer) for layer in (0, 1)), strict=True)
    first, second = (Dictionary.by_layer(found)[layer] for layer in (0, 1))
    for layer, more in ((0, 0), (1, first.encode(read[0]) @ found["W_dec_later"][0])):
        y = (first, second)[layer].reconstruct(read[layer])[0] + more
        spread = (written[layer] - written[layer].mean(0)).square().sum()
        explained = float(1 - (written[layer] - y).square().sum() / spread)
        told = found.scores["test"][f"explained_variance/{layer}"]
        assert told == pytest.approx(explained, abs=1e-4)


def test_one_layer_crosses_nothing(model: LensModel, texts: list[list[int]]) -> None:
    with pytest.raises(InputError, match="needs several layers"):
        ll.train_transcoder(model, texts, layers=1, cross_layer=True)
