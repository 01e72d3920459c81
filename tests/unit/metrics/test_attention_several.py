"""Distance, support, rank and special mass: patterns drawn by hand, plain attention, padding."""

from __future__ import annotations

import math
from typing import Any

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.metrics.attention_rank import ranks
from layerlens.metrics.base import LayerMetric, ModelShape
from layerlens.metrics.batch import Batch
from layerlens.metrics.catalogue import catalogue
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.fewest import fewest
from layerlens.metrics.layer import Layer
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

NAMES = ["attention_distance", "attention_support", "attention_rank", "special_mass"]
TEXTS = [[5, 6, 7, 5, 6, 7, 5], [3, 3, 3, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [17]]


class Drawn:
    """Layer 0 with patterns [head, query, key] drawn by hand."""

    patterns = Layer.patterns
    number = 0
    special = frozenset({1})

    def __init__(self, batch: Batch, pattern: Tensor) -> None:
        self.batch, self.n_heads = batch, len(pattern)
        self._raw = {"pattern": pattern[None]}

    def has(self, *parts: str) -> bool:
        return True


def drawn(name: str, pattern: Tensor, skip: int = 1, **options: Any) -> dict[str, Any]:
    """One metric of patterns drawn by hand, of layer 0."""
    kind = registry.get(name)
    assert issubclass(kind, LayerMetric)
    metric = kind(ModelShape(1, len(pattern), 4, 50), **options)
    ids = [[i % 40 for i in range(pattern.shape[-1])]]
    metric.update(Drawn(Batch(measuring.tiny("llama").tokens(ids), [0], skip), pattern))  # type: ignore[arg-type]
    return {name: array[0] for name, array in metric.value().items()}


def by_hand(length: int) -> Tensor:
    """Causal: even, all on itself, all on the first token, all on the token before."""
    even = torch.ones(length, length).tril()
    sink = torch.zeros(length, length)
    sink[:, 0] = 1
    before = torch.eye(length).roll(1, 0)
    before[0] = 0
    before[0, 0] = 1
    return torch.stack([even / even.sum(-1, keepdim=True), torch.eye(length), sink, before])


def test_distances_drawn_by_hand() -> None:
    length = 9
    found = drawn("attention_distance", by_hand(length))
    mean = np.mean([t / 2 for t in range(1, length)])  # of even causal attention: half of the way
    np.testing.assert_allclose(found["attention_distance"], [mean, 0, 2 * mean, 1], rtol=1e-6)
    relative = [1, 0, 2, np.mean([2 / t for t in range(1, length)])]
    np.testing.assert_allclose(found["attention_distance_relative"], relative, rtol=1e-6)
    assert found["attention_distance_chance"] == pytest.approx(mean)


def test_distance_looks_both_ways_and_ignores_what_a_learnt_sink_takes() -> None:
    both = torch.full((1, 3, 3), 1 / 3)
    for share in (1.0, 0.4):
        found = drawn("attention_distance", share * both, skip=0)
        np.testing.assert_allclose(found["attention_distance"], (1 + 2 / 3 + 1) / 3, rtol=1e-6)
        np.testing.assert_allclose(found["attention_distance_relative"], 1, rtol=1e-6)


def test_support_drawn_by_hand() -> None:
    length = 20
    found = drawn("attention_support", by_hand(length))
    least = [math.ceil(0.9 * n - 1e-9) for n in range(2, length + 1)]
    np.testing.assert_allclose(found["attention_support"], [np.mean(least), 1, 1, 1])
    assert found["attention_support_chance"] == np.mean(least)
    share = np.mean([k / n for k, n in zip(least, range(2, length + 1), strict=True)])
    assert found["attention_support_share"][0] == pytest.approx(share)
    half = drawn("attention_support", by_hand(length), mass=0.5)
    assert half["attention_support"][0] == np.mean([math.ceil(n / 2) for n in range(2, length + 1)])
    whole = drawn("attention_support", by_hand(length), mass=1)
    assert whole["attention_support"][0] == np.mean(range(2, length + 1))


def test_ranks_drawn_by_hand() -> None:
    length = 32
    found = drawn("attention_rank", by_hand(length))
    np.testing.assert_array_equal(found["attention_rank"], [31, 0, 1, 31])
    np.testing.assert_allclose(found["attention_rank_stable"][1:], [0, 1, 30.5], rtol=0.02)
    np.testing.assert_allclose(found["attention_rank_effective"][1:3], [0, 1], atol=1e-5)
    same = found["attention_rank_effective_chance"]
    assert found["attention_rank_effective"][0] == pytest.approx(same)
    assert 1 < same < 31


def test_even_attention_both_ways_has_rank_one_with_its_diagonal() -> None:
    both = torch.full((1, 12, 12), 1 / 12)
    found = drawn("attention_rank", both, skip=0, diagonal=True)
    for name in ("attention_rank", "attention_rank_effective", "attention_rank_stable"):
        assert found[name][0] == pytest.approx(1, abs=1e-5)
    assert drawn("attention_rank", both, skip=0)["attention_rank"][0] == 12
    own = drawn("attention_rank", torch.eye(12)[None], skip=0, diagonal=True)
    assert own["attention_rank_effective"][0] == pytest.approx(12, abs=1e-4)


def test_ranks_of_long_texts_are_of_their_beginning() -> None:
    short = drawn("attention_rank", by_hand(10))
    cut = drawn("attention_rank", by_hand(20), longest=10)
    for name, value in short.items():
        np.testing.assert_allclose(cut[name], value, rtol=1e-5, err_msg=name)


def test_special_mass_drawn_by_hand() -> None:
    """Of the ids 0, 1, 2... the first is first and 1 is special; there is no punctuation."""
    length = 8
    found = drawn("special_mass", by_hand(length))
    counted = range(1, length)
    even = np.mean([2 / (t + 1) for t in counted])
    before = 2 / len(counted)  # of the queries 1 and 2
    np.testing.assert_allclose(found["special_mass"], [even, 1 / 7, 1, before], rtol=1e-6)
    np.testing.assert_allclose(found["special_mass_first"], [even / 2, 0, 1, 1 / 7], rtol=1e-6)
    np.testing.assert_allclose(
        found["special_mass_separator"], [even / 2, 1 / 7, 0, 1 / 7], rtol=1e-6
    )
    np.testing.assert_array_equal(found["special_mass_punctuation"], 0)
    assert found["special_mass_chance"] == pytest.approx(even)


def test_punctuation_is_known_by_its_text() -> None:
    model = ll.load("toy:addition")
    text = "12+34=46"
    strings = model.tokens(text).strings[0]
    found = ll.layer_metrics(model, text, ["special_mass"]).data
    assert "=" in strings  # a symbol, not punctuation
    assert float(found.special_mass_punctuation.max()) == 0
    assert float(found.special_mass_first.max()) > 0


def plain(model: LensModel, text: list[int]) -> list[Tensor]:
    """``[head, query, key]`` of each layer, from transformers itself."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            found = model.hf(torch.tensor([text]), output_attentions=True, use_cache=False)
    finally:
        model.hf.set_attn_implementation(before)
    return [attention[0].double() for attention in found.attentions]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_against_plain_attention(family: str) -> None:
    model = measuring.tiny(family)
    text = TEXTS[2]
    found = measuring.measure(model, NAMES, [text])
    for layer, pattern in enumerate(plain(model, text)):
        for head, a in enumerate(pattern.numpy()):
            rows = range(1, len(text))
            far = np.mean([sum(a[t, j] * (t - j) for j in range(t + 1)) for t in rows])
            keys = np.mean([1 + (np.cumsum(np.sort(a[t])[::-1]) < 0.9 - 1e-6).sum() for t in rows])
            bare = torch.tensor(a[1:]) * (1 - torch.eye(len(text)))[1:]
            rank = torch.linalg.matrix_rank(bare.float())
            assert found["attention_distance"][layer, head] == pytest.approx(far, rel=1e-4)
            assert found["attention_support"][layer, head] == pytest.approx(keys)
            assert found["attention_rank"][layer, head] == rank
            first = np.mean([a[t, 0] for t in rows])
            assert found["special_mass_first"][layer, head] == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_padding_and_merging(family: str) -> None:
    model = measuring.tiny(family)
    names = [name for name in NAMES if name != "attention_rank"]
    measuring.assert_padding_is_nothing(model, names)
    measuring.assert_merged_is_single(model, NAMES)


def test_a_text_of_one_token_says_nothing() -> None:
    found = measuring.measure(measuring.tiny("llama"), NAMES, [[7]])
    assert all(np.isnan(array).all() for array in found.values())


def test_in_the_catalogue() -> None:
    rows = {row["name"]: row for row in catalogue()}
    assert {rows[name]["family"] for name in NAMES} == {"attention"}
    assert all(any(out.endswith("_chance") for out in rows[name]["outputs"]) for name in NAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention_support": {"mass": 0}}, "mass is 0"),
        ({"attention_rank": {"longest": 1}}, "longest is 1"),
        ({"attention_rank": {"longest": 2.5}}, "longest is a whole number"),
    ],
)
def test_bad_options(options: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MetricSet.make(measuring.tiny("llama"), list(options), options=options)


def test_layers_without_attention_are_missing() -> None:
    hybrid = LensModel.wrap(tiny_model("jamba", seed=1), None, name="hybrid", prove=False)
    found = measuring.measure(hybrid, ["attention_distance"], [[3, 4, 5, 6]])
    known = np.isfinite(found["attention_distance"]).any(-1)
    heads = [block.attention is not None for block in hybrid.anatomy.blocks]
    assert known.tolist() == heads
    assert 0 < sum(heads) < len(heads)


def test_ranks_are_those_of_singular_values_where_most_are_small() -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(5, 60, 60).double()).Q for _ in range(2))
    sizes = torch.logspace(0, -9, 60, dtype=torch.float64)
    matrix = (left * sizes @ right)[:, :, :50].float()
    matrix[4] = 0
    rank, effective, stable = ranks(matrix)
    torch.testing.assert_close(rank, torch.linalg.matrix_rank(matrix).double())
    singular = torch.linalg.svdvals(matrix[:4].double())
    share = singular / singular.sum(-1, keepdim=True)
    expected = torch.special.entr(share).sum(-1).exp()
    torch.testing.assert_close(effective[:4], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(stable[:4], singular.square().sum(-1) / singular[:, 0].square())
    assert (rank[4], effective[4], stable[4]) == (0, 0, 0)
    assert 20 < rank[0] < 50


def test_eigenvalues_of_small_matrices_leave_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ranks(torch.eye(3)[None])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_fewest_entries_are_those_of_a_full_sort() -> None:
    torch.manual_seed(0)
    weights = torch.rand(3, 7, 90).square()
    number, total = fewest(weights, 0.9)
    held = weights.double().sort(-1, descending=True).values.cumsum(-1)
    torch.testing.assert_close(total, weights.double().sum(-1))
    torch.testing.assert_close(number, (held < 0.9 * held[..., -1:]).sum(-1).double() + 1)
