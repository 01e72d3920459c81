"""Out of distribution: against plain torch and by hand, with kinds that are one or two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from transformers import LlamaModel

import layerlens as ll
from layerlens.analyses.information.blood import Stretch
from layerlens.analyses.information.ood_scores import Gaussian, neighbour_distance
from layerlens.analyses.information.separation import (
    average_precision,
    between_halves,
    false_positives,
    separation,
)
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks
from ..depth.test_block_jacobian import planted, whole

RANDOM = np.random.default_rng(5)
INSIDE = [RANDOM.integers(3, 90, 4 + i % 3).tolist() for i in range(16)]
OUTSIDE = [RANDOM.integers(3, 90, 3 + i % 4).tolist() for i in range(7)]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return by_hooks.wrapped("llama")


def hidden(model: LensModel, texts: list[list[int]], pool: str) -> list[torch.Tensor]:
    """At each depth but the last, which transformers norms: ``[text, d_model]`` double."""
    with torch.no_grad():
        states = [
            model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in texts
        ]
    rows = [[s[0].double() for s in depths] for depths in zip(*states, strict=True)][:-1]
    return [torch.stack([s[-1] if pool == "last" else s.mean(0) for s in depth]) for depth in rows]


def area(inside: torch.Tensor, outside: torch.Tensor) -> float:
    gaps = outside[:, None] - inside
    return float(((gaps > 0).double() + (gaps == 0) / 2).mean())


@pytest.mark.parametrize(("pool", "size"), [("last", 1), ("mean", None)])
def test_against_plain_torch(model: LensModel, pool: str, size: int | None) -> None:
    """Of every other text, set apart by the same seed: distances by solve, cdist and logsumexp."""
    options = {"pool": pool, "batch_size": size, "neighbours": 2, "ridge": 0.5}
    found = ll.out_of_distribution(model, INSIDE, OUTSIDE, **options)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    apart = set(np.random.default_rng(0).permutation(16)[:8].tolist())
    train, test = [i for i in range(16) if i not in apart], sorted(apart)
    depths = zip(hidden(model, INSIDE, pool), hidden(model, OUTSIDE, pool), strict=True)
    head = model.hf.get_output_embeddings()
    for depth, (ours, others) in enumerate(depths):
        known, both = ours[train], torch.cat([ours[test], others])
        cov = torch.cov(known.T, correction=0)
        cov += 0.5 * cov.trace() / len(cov) * torch.eye(len(cov))
        off = both - known.mean(0)
        unit = torch.nn.functional.normalize
        with torch.no_grad():
            logits = head(model.hf.model.norm(both.float()))
        wanted = {
            "mahalanobis": (off @ torch.linalg.inv(cov) * off).sum(1),
            "knn": torch.cdist(unit(both), unit(known)).sort(1).values[:, 1],
            "energy": -logits.double().logsumexp(1),
        }
        for score, values in wanted.items():
            here = found.data.isel(point=depth).sel(score=score)
            assert float(here.auroc) == pytest.approx(area(values[:8], values[8:]), abs=0.01)
            limit = values[:8].sort().values[-1]  # 95 % of eight are all
            assert float(here.fpr95) == pytest.approx(float((values[8:] <= limit).double().mean()))


def test_mahalanobis_by_hand() -> None:
    """Variances 4 and 1 along the axes: (4, 0) and (0, 2) are both two deviations away."""
    known = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    one = Gaussian.of(known, np.zeros(4, int), 1e-12)
    assert one(np.array([[4.0, 0], [0, 2], [0, 0]])) == pytest.approx([4, 4, 0])
    # Two labels five apart, of the same spread: the nearer mean counts
    two = Gaussian.of(np.vstack([known, known + 5]), np.repeat([0, 1], 4), 1e-12)
    assert two(np.array([[9.0, 5], [0, 0]])) == pytest.approx([4, 0])
    # On a line of three entries, variance 4 / 3 of the mean: what lies off it has the ridge alone
    line = Gaussian.of(np.array([[2.0, 0, 0], [-2, 0, 0]]), np.zeros(2, int), 0.5)
    assert line(np.array([[0.0, 1, 0]])) == pytest.approx([1 / (0.5 * 4 / 3)])
    assert line(np.array([[2.0, 0, 0]])) == pytest.approx([4 / (4 + 0.5 * 4 / 3)])


def test_neighbours_by_hand() -> None:
    known = np.array([[3.0, 0], [0, 1], [-2, 0]])
    found = [neighbour_distance(np.array([[5.0, 0]]), known, k)[0] for k in (1, 2, 3)]
    assert found == pytest.approx([0, np.sqrt(2), 2])


def test_separation_by_hand() -> None:
    inside, outside = np.arange(20.0), np.array([18.0, 18.5, 30, 40])
    units = np.arange(20), np.arange(4)
    found = separation(inside, outside, units, 0)
    assert found["auroc"] == pytest.approx((18.5 + 19 + 20 + 20) / 80)
    assert found["fpr95"] == 0.25  # 19 of 20 lie up to 18, and so does one of four
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"] <= 1
    ones = np.array([[0, 0, 1, 1]])
    assert false_positives(np.array([1.0, 1, 1, 2]), ones, 1 - ones).tolist() == [0.5]
    # from above: two outside, 19, 18.5, and both 18s at once
    assert found["aupr_out"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 6) / 4)
    one_group = separation(inside, outside, (np.zeros(20), units[1]), 0)
    assert np.isnan(one_group["auroc_low"]) and one_group["auroc"] == found["auroc"]


def test_average_precision_is_that_of_scikit_learn() -> None:
    scores, ones = RANDOM.integers(0, 6, 60) / 5, RANDOM.integers(0, 2, (1, 60)).astype(float)
    weights = RANDOM.integers(1, 4, 60)
    found = average_precision(scores, ones * weights, (1 - ones) * weights)
    wanted = average_precision_score(ones[0], scores, sample_weight=weights)
    assert found == pytest.approx([wanted])


def test_halves_of_one_kind_are_alike() -> None:
    found = between_halves(RANDOM.standard_normal((2, 40)), np.arange(40), 0, odds=0.25)
    assert found["aupr_out"] == pytest.approx(0.2, abs=0.06)
    assert found["aupr_in"] == pytest.approx(0.8, abs=0.06)
    assert found["auroc"] == pytest.approx(0.5, abs=0.02)
    assert 0.25 < found["auroc_low"] < 0.4 and 0.6 < found["auroc_high"] < 0.75
    # Two groups that differ are always on different sides
    found = between_halves(np.repeat([[0.0, 1]], 20, axis=1), np.repeat([0, 1], 20), 0)
    assert (found["auroc_low"], found["auroc_high"]) == (0, 1)


def test_other_last_tokens_are_another_kind_and_the_same_are_not(model: LensModel) -> None:
    """At the embedding the last token decides all: what it is one of scores as known."""
    inside = [[*ids, 20 + i % 2] for i, ids in enumerate(INSIDE)]
    for last, wanted in ((40, 1.0), (20, 0.5)):
        outside = [[*ids, last + i % 2] for i, ids in enumerate(OUTSIDE)]
        found = ll.out_of_distribution(model, inside, outside, scores=["knn"], neighbours=1)
        assert float(found.data.auroc.sel(point="embed", score="knn")) == wanted
    known = ll.texts(inside, label=[i % 2 for i in range(16)])
    found = ll.out_of_distribution(model, known, OUTSIDE, scores="mahalanobis")
    assert float(found.data.auroc.sel(point="embed", score="mahalanobis")) == 1


def test_blood_is_the_squared_norm_of_the_jacobian(model: LensModel) -> None:
    """Of an identity d, of a multiple 9 d, of a matrix its norm; of true blocks that of theirs."""
    width = by_hooks.wrapped("gpt2").d_model
    turn = torch.from_numpy(RANDOM.standard_normal((width, width))).float()
    plain = planted(lambda h: h.clone(), lambda h: 3 * h, lambda h: h @ turn)
    found = Stretch(plain, 1, 0, int).of(plain.tokens([[5, 6, 7], [8, 9]]), None)
    assert found[:2] == pytest.approx(np.array([[width] * 2, [9 * width] * 2]))
    found = Stretch(plain, 300, 0, int).of(plain.tokens([[5, 6, 7]]), None)
    assert found[2, 0] == pytest.approx(float(turn.square().sum()), rel=0.05)
    texts = model.tokens([[4, 5], by_hooks.IDS, [9, 8, 7]])
    stretch = Stretch(model, 2, 0, int)
    found = stretch.of(texts, None)[:, 1]
    for layer, norm in enumerate(found):
        along = stretch.signs[layer] @ whole(model, layer, len(by_hooks.IDS) - 1)
        assert norm == pytest.approx(float(along.square().sum(-1).mean()), rel=1e-4)
    assert stretch.of(texts, 1, [1])[:, 0] == pytest.approx(found, rel=1e-4)


def test_blood_tells_texts_apart_that_a_block_stretches_more() -> None:
    """A block that multiplies each state by its own length; two that hand it on."""
    lengthen = planted(lambda h: h * h.norm(dim=-1, keepdim=True).detach(), same, same)
    found = ll.out_of_distribution(lengthen, INSIDE, OUTSIDE, scores=["blood"])
    assert found.checks.ok and found.data.attrs["complete"] == 1
    auroc = found.data.auroc.sel(score="blood").values
    apart = sorted(np.random.default_rng(0).permutation(16)[:8].tolist())
    ours, others = (hidden(lengthen, texts, "last")[0] for texts in (INSIDE, OUTSIDE))
    assert auroc[1] == pytest.approx(area(ours[apart].norm(dim=1), others.norm(dim=1)))
    assert np.isnan(auroc[0]) and auroc[2:].tolist() == [0.5, 0.5]
    assert found.data.aupr_out.sel(score="blood").values[2:] == pytest.approx(7 / 15)
    assert found.data.aupr_in.sel(score="blood").values[2:] == pytest.approx(8 / 15)


def test_the_mean_of_blood_is_over_all_blocks_but_the_first() -> None:
    """The second block lengthens, the others hand on: the mean still knows after the last one."""
    lengthen = planted(same, lambda h: h * h.norm(dim=-1, keepdim=True).detach(), same)
    found = ll.out_of_distribution(lengthen, INSIDE, OUTSIDE, scores=["blood", "blood_mean"])
    last, mean = (found.data.auroc.sel(score=score).values for score in ("blood", "blood_mean"))
    assert found.data.attrs["complete"] == 1 and np.isnan(mean[:2]).all()
    assert last[3] == 0.5 and last[2] == mean[2] == mean[3] != 0.5
    alone = ll.out_of_distribution(lengthen, INSIDE, OUTSIDE, scores="blood_mean")
    np.testing.assert_array_equal(alone.data.auroc.sel(score="blood_mean"), mean)


def same(h: torch.Tensor) -> torch.Tensor:
    return h.clone()


def test_texts_of_a_group_stay_together(model: LensModel) -> None:
    known = ll.texts(INSIDE, group=[i // 4 for i in range(16)])
    found = ll.out_of_distribution(model, known, OUTSIDE, scores=["energy"])
    assert found.data.attrs["split_by"] == "group"
    # two groups are set apart: what is between the halves is one group against the other
    chance = found.data.sel(score="chance (halves of inside)")
    np.testing.assert_allclose(chance.auroc_low + chance.auroc_high, 1, atol=1e-9)


def test_without_a_head_there_is_no_energy() -> None:
    config = by_hooks.wrapped("llama").hf.config
    model = LensModel.wrap(LlamaModel(config).eval(), None, name="none", prove=False)
    found = ll.out_of_distribution(model, INSIDE, OUTSIDE)
    assert found.data.score.values.tolist()[:-1] == ["mahalanobis", "knn", "blood"]
    assert "no energy" in str(found.data.attrs["notes"])
    with pytest.raises(InputError, match="No score is left"):
        ll.out_of_distribution(model, INSIDE, OUTSIDE, scores=["energy"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "first"}, "pool is 'first'"),
        ({"scores": ["mahalonobis"]}, "did you mean 'mahalanobis'"),
        ({"scores": []}, "No score is left"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"neighbours": 9}, "scores are fitted on 8 texts"),
        ({"draws": 0}, "draws is 0"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"neighbours": 2, "scores": ["energy"]}, "with 'knn' among scores"),
        ({"test": 0.06}, "a single text is set apart"),
        ({"skip_first": 3}, "skip_first is 3"),
    ],
)
def test_what_does_not_fit(model: LensModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.out_of_distribution(model, INSIDE, OUTSIDE, **options)
