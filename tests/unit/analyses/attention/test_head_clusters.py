"""ll.head_clusters: planted groups, distances by definition, silhouettes by hand, the control."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.attention.clustering import ordered, silhouettes, trees_cut
from layerlens.analyses.attention.head_distances import HeadDistances, shuffled
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

TEXTS = [[5, 17, 6, 5, 29, 8, 6], [9, 4, 9, 11]]


@pytest.fixture(scope="module")
def llama() -> LensModel:
    return LensModel.wrap(tiny_model("llama", seed=1), None, name="tiny llama", prove=False)


def patterns(model: LensModel, text: list[int]) -> torch.Tensor:
    """``[all heads, query, key]`` from transformers itself."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            found = model.hf(torch.tensor([text]), output_attentions=True, use_cache=False)
    finally:
        model.hf.set_attn_implementation(before)
    return torch.cat([attention[0].double() for attention in found.attentions])


def test_distances_by_definition(llama: LensModel) -> None:
    result = ll.head_clusters(llama, TEXTS)
    found = result.data.distance.values
    heads = len(found)
    total, queries = np.zeros((heads, heads)), 0
    for text in TEXTS:
        p = patterns(llama, text).numpy()
        for t in range(1, len(text)):
            queries += 1
            for a in range(heads):
                for b in range(heads):
                    x, y = p[a, t, : t + 1], p[b, t, : t + 1]
                    m = (x + y) / 2
                    total[a, b] += (x * np.log(x / m) + y * np.log(y / m)).sum() / 2
    np.testing.assert_allclose(found, total / queries, atol=1e-6)
    np.testing.assert_array_equal(found, found.T)
    assert result.checks.ok
    assert result.data.attrs["texts"] == 2


def test_a_copied_head_is_at_distance_zero_and_a_far_one_at_ln_2() -> None:
    one, other = torch.eye(4), torch.eye(4).roll(1, 0).tril()
    other[0, 3] = 0
    distances = HeadDistances(3)
    distances.add(torch.stack([one, one, other])[:, 1:], lambda: None)
    assert distances.matrix[0, 1] == 0
    np.testing.assert_allclose(distances.matrix[0, 2], math.log(2), rtol=1e-6)


def test_what_a_learnt_sink_takes_is_a_key_too() -> None:
    full, half = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.0]]])
    distances = HeadDistances(2)
    distances.add(torch.cat([full, half]), lambda: None)
    m = np.array([0.75, 0.25])
    entropy = -(m * np.log(m)).sum() - math.log(2) / 2
    np.testing.assert_allclose(distances.matrix[0, 1], entropy, rtol=1e-6)


def test_planted_groups_are_found() -> None:
    """Six heads of two kinds, with a little noise: two groups, far above the control."""
    draw = torch.Generator().manual_seed(0)
    n = 16
    first = torch.zeros(n, n)
    first[:, 0] = 1
    before = torch.eye(n).roll(1, 0).tril()
    before[0, 0] = 1
    noise = torch.rand(6, n, n, generator=draw).tril()
    noise /= noise.sum(-1, keepdim=True)
    heads = 0.9 * torch.stack([first, before, first, before, before, first]) + 0.1 * noise
    real, dealt = HeadDistances(6), HeadDistances(6)
    real.add(heads, lambda: None)
    dealt.add(shuffled(heads, draw), lambda: None)
    cuts = trees_cut(real.matrix, 5)
    means = {number: silhouettes(real.matrix, labels).mean() for number, labels in cuts.items()}
    assert max(means, key=lambda number: means[number]) == 2
    assert cuts[2].tolist() == [0, 1, 0, 1, 1, 0]
    control = silhouettes(dealt.matrix, trees_cut(dealt.matrix, 5)[2]).mean()
    assert means[2] > 0.8 > 0.4 > control


def test_shuffling_keeps_what_a_query_can_see_and_how_widely_it_looks() -> None:
    draw = torch.Generator().manual_seed(1)
    heads = torch.rand(3, 5, 5, generator=draw).tril()
    dealt = shuffled(heads, draw)
    assert torch.equal(dealt.triu(1), torch.zeros(3, 5, 5))
    assert torch.equal(dealt.sort(-1).values, heads.sort(-1).values)
    assert not torch.equal(dealt, heads)


def test_silhouettes_by_hand() -> None:
    place = np.array([0.0, 1.0, 10.0, 12.0, 30.0])
    distance = np.abs(place[:, None] - place)
    found = silhouettes(distance, np.array([0, 0, 1, 1, 2]))
    expected = [(11 - 1) / 11, (10 - 1) / 10, (9.5 - 2) / 9.5, (11.5 - 2) / 11.5, 0]
    np.testing.assert_allclose(found, expected)
    assert ordered(np.array([7, 3, 7, 9])).tolist() == [0, 1, 0, 2]


def test_the_number_of_groups_is_chosen_or_given(llama: LensModel) -> None:
    data = ll.head_clusters(llama, TEXTS).data
    best = int(data.groups[int(np.argmax(data.silhouette_mean.values))])
    assert data.attrs["groups"] == best == int(data.cluster.max()) + 1
    assert float(data.silhouette.mean()) == pytest.approx(float(data.silhouette_mean.max()))
    assert len(json.loads(data.attrs["group_names"])) == best
    sizes = data.group_size.values
    assert sizes[:best].sum() == data.cluster.size
    assert (sizes[best:] == -1).all()
    four = ll.head_clusters(llama, TEXTS, groups=4)
    assert four.data.attrs["groups"] == 4
    assert set(four.data.cluster.values.ravel()) == {0, 1, 2, 3}
    assert four.figure().axes


def test_padding_and_long_texts(llama: LensModel) -> None:
    padded = ll.head_clusters(llama, llama.tokens(TEXTS, padding_side="left")).data
    plain = ll.head_clusters(llama, TEXTS).data
    np.testing.assert_allclose(padded.distance, plain.distance, atol=1e-6)
    cut = ll.head_clusters(llama, TEXTS[0], longest=4).data
    begin = ll.head_clusters(llama, TEXTS[0][:4]).data
    np.testing.assert_allclose(cut.distance, begin.distance, atol=1e-6)


def test_heads_that_are_all_alike_make_no_groups() -> None:
    hf = tiny_model("llama", seed=1)
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    model = LensModel.wrap(hf, None, name="even", prove=False)
    result = ll.head_clusters(model, TEXTS)
    np.testing.assert_array_equal(result.data.distance, 0)
    assert (result.data.cluster == -1).all()
    assert "look exactly alike" in result.data.attrs["notes"]


def test_what_is_refused(llama: LensModel) -> None:
    with pytest.raises(InputError, match="give longer texts"):
        ll.head_clusters(llama, [5])
    with pytest.raises(InputError, match="most is 1"):
        ll.head_clusters(llama, TEXTS, most=1)
    with pytest.raises(InputError, match="groups is 13; expected 2 to 11"):
        ll.head_clusters(llama, TEXTS, groups=13)
    two = LensModel.wrap(
        tiny_model("gpt2", n_layer=2, n_head=1), None, name="two heads", prove=False
    )
    with pytest.raises(InputError, match="two heads has 2 heads; groups need three or more"):
        ll.head_clusters(two, TEXTS)
    assert ll.estimate("head_clusters", llama, TEXTS).passes == 1
