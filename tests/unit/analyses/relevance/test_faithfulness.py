"""Tokens taken away in the order of their relevance: by hand, and against every other order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model.tiny import tiny_model

IDS = [5, 17, 33, 8, 21, 40]


@pytest.fixture(scope="module")
def llama() -> ll.LensModel:
    return ll.load(tiny_model("llama"))


def probability(model: ll.LensModel, gone: list[int]) -> float:
    """By transformers alone: the mean embedding of all but the first in the place of some."""
    embedded = model.hf.model.embed_tokens(torch.tensor([IDS])).detach()
    answer = model.hf(torch.tensor([IDS])).logits[0, -1].argmax()
    embedded[0, gone] = embedded[0, 1:].mean(0)
    with torch.no_grad():
        return model.hf(inputs_embeds=embedded).logits[0, -1].softmax(-1)[answer].item()


def test_scores_of_ones_own_by_hand(llama: ll.LensModel) -> None:
    found = ll.faithfulness(llama, IDS, rules=[], scores={"mine": [9, 1, 3, 2, 4, 9]}, draws=0)
    assert found.checks.ok
    mine = found.data.sel(order="mine")
    whole = probability(llama, [])
    order = [4, 2, 3, 1]  # of four that can be taken away, the first and the last stay
    for share, count in ((0.01, 1), (0.2, 1), (0.5, 2)):
        here = mine.sel(share=share)
        np.testing.assert_allclose(
            here.deletion, whole - probability(llama, order[:count]), atol=1e-6
        )
        kept = whole - probability(llama, order[count:])
        np.testing.assert_allclose(here.sufficiency_curve, kept, atol=1e-6)
    np.testing.assert_allclose(mine.comprehensiveness, mine.deletion.mean(), atol=1e-9)
    backwards = found.data.sel(order="mine reversed", share=0.5).deletion
    np.testing.assert_allclose(backwards, whole - probability(llama, [1, 3]), atol=1e-6)


def test_no_order_takes_more_with_one_token_than_what_the_model_does_without_each(
    llama: ll.LensModel,
) -> None:
    found = ll.faithfulness(llama, IDS, metric="logit", draws=3).data
    one = found.deletion.sel(share=0.01)
    assert (one <= one.sel(order="model itself") + 1e-6).all()


def test_the_random_band_is_that_of_all_orders(llama: ll.LensModel) -> None:
    found = ll.faithfulness(llama, IDS, rules=["cp"], draws=200).data
    whole, all_of_them = probability(llama, []), []
    known: dict[frozenset[int], float] = {}
    for order in permutations([1, 2, 3, 4]):
        falls = []
        for count in (1, 1, 1, 1, 2):
            gone = frozenset(order[:count])
            if gone not in known:
                known[gone] = probability(llama, sorted(gone))
            falls.append(whole - known[gone])
        all_of_them.append(np.mean(falls))
    ends = np.quantile(all_of_them, [0.025, 0.975])
    spread = np.ptp(all_of_them)
    assert abs(found.comprehensiveness_chance_low - ends[0]) < 0.15 * spread
    assert abs(found.comprehensiveness_chance_high - ends[1]) < 0.15 * spread


def test_several_texts_and_their_intervals(llama: ll.LensModel) -> None:
    texts = [IDS, [4, 9, 2, 30, 12], [7, 3, 3, 18, 25, 6, 11]]
    found = ll.faithfulness(llama, texts, rules=["attnlrp"], draws=2)
    each = [ll.faithfulness(llama, text, rules=["attnlrp"], draws=0).data for text in texts]
    mean = np.mean([one.comprehensiveness.sel(order="attnlrp") for one in each])
    own = found.data.sel(order="attnlrp")
    np.testing.assert_allclose(own.comprehensiveness, mean, atol=1e-6)
    assert own.comprehensiveness_low <= mean <= own.comprehensiveness_high
    # a title names no text's answer for all
    assert found.data.attrs["metric_words"] == "probability of each text's own answer"
    alike = ll.faithfulness(llama, texts[:2], rules=["attnlrp"], draws=0, answer=7)
    assert alike.data.attrs["metric_words"].startswith("probability of '")


def test_steps_count_where_integrated_is_one_of_the_rules(llama: ll.LensModel) -> None:
    found = ll.faithfulness(llama, IDS, rules=["cp", "integrated"], steps=2, draws=0)
    assert found.checks.ok and "integrated" in found.data.order.values


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rules": ["lrp"]}, "attnlrp"),
        ({"rules": "cp"}, "list"),
        ({"rules": []}, "no order"),
        ({"scores": {"cp": [1] * 6}}, "already"),
        ({"scores": {"mine": [1, 2]}}, "6 numbers"),
        ({"draws": -1}, "0 or more"),
        ({"steps": 4}, "integrated"),
    ],
)
def test_what_does_not_fit(llama: ll.LensModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.faithfulness(llama, IDS, **options)
    with pytest.raises(InputError, match="3 or more"):
        ll.faithfulness(llama, [4, 5])
