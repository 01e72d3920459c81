"""Doubts about tokens, against plain logits and lm-polygraph's formulas written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.auroc import auroc, with_controls
from layerlens.analyses.lenses.claims import claim_probability, relation
from layerlens.analyses.lenses.token_uncertainty import token_uncertainty
from layerlens.errors import Cancelled, InputError
from layerlens.views.answer_cell import place_of

from .test_generation_lens import PARTS, logprobs_by_hand, model_of, states_by_hand

IDS = [5, 17, 20, 3, 90, 41]
TEXTS = [IDS, [8, 2, 63, 7], [11, 30, 9, 44, 2]]


@pytest.mark.parametrize("family", list(PARTS))
def test_numbers_of_a_generation_are_lm_polygraphs(family: str) -> None:
    """By the formulas of its estimators (Fadeeva et al. 2023), over greedy tokens alone."""
    model, new = model_of(family), 4
    found = ll.token_uncertainty(model, IDS, max_new_tokens=new).data
    with torch.no_grad():
        whole = model.hf.generate(torch.tensor([IDS]), max_new_tokens=new, do_sample=False)[0]
        logprob = model.hf(whole[None]).logits[0, :-1].double().log_softmax(-1).numpy()
    assert found.token_id.values.tolist() == whole.tolist()
    greedy = logprob[len(IDS) - 1 :]
    likelihoods = greedy[np.arange(new), whole[len(IDS) :]]
    entropies = np.array([-np.sum(np.exp(row) * row) for row in greedy])  # EntropyCalculator
    written = found.isel(position=slice(len(IDS), None))
    np.testing.assert_allclose(written.surprisal, -likelihoods, rtol=1e-4)
    np.testing.assert_allclose(written.entropy, entropies, rtol=1e-4)  # TokenEntropy
    assert float(found.sequence_surprisal) == pytest.approx(-np.sum(likelihoods), rel=1e-4)
    assert float(found.mean_surprisal) == pytest.approx(-np.mean(likelihoods), rel=1e-4)
    assert float(found.mean_entropy) == pytest.approx(np.mean(entropies), rel=1e-4)
    assert float(found.worst_surprisal) == pytest.approx(max(-likelihoods), rel=1e-4)
    # Min-K%++ as its authors compute it (run.py of zjysteven/mink-plus-plus).
    mu = (np.exp(greedy) * greedy).sum(-1)
    sigma = (np.exp(greedy) * np.square(greedy)).sum(-1) - np.square(mu)
    scores = (likelihoods - mu) / np.sqrt(sigma)
    np.testing.assert_allclose(written.standard_score, scores, rtol=1e-3, atol=1e-4)
    assert float(found.worst_standard_score) == pytest.approx(min(scores), rel=1e-3)
    # What was written is on top, so doubt about it and about the likeliest are the same.
    assert (written["rank"] == 1).all()
    doubt = written.doubt
    np.testing.assert_allclose(doubt.sel(measure="token"), 1 - np.exp(likelihoods), rtol=1e-4)
    np.testing.assert_allclose(doubt.sel(measure="token"), doubt.sel(measure="top"), atol=1e-6)


@pytest.mark.parametrize("family", list(PARTS))
def test_numbers_of_a_text_are_those_of_plain_softmaxes(family: str) -> None:
    model = model_of(family)
    result = ll.token_uncertainty(model, IDS, top_k=5)
    found = result.data
    assert result.checks.ok and "claim_probability" not in found and "auroc" not in found
    for at in range(1, len(IDS)):
        logp = logprobs_by_hand(model, family, states_by_hand(model, family, IDS[:at]))
        here, p = found.isel(position=at), logp[-1].exp()
        top = p.topk(5)
        assert float(here.surprisal) == pytest.approx(-float(logp[-1, IDS[at]]), rel=1e-4)
        assert int(here["rank"]) == int((p > p[IDS[at]]).sum()) + 1
        assert float(here.margin) == pytest.approx(float(top.values[0] - top.values[1]), abs=1e-6)
        np.testing.assert_array_equal(here.top_id, top.indices)
        np.testing.assert_allclose(here.top_probability, top.values, rtol=1e-4)
        assert (np.diff(here.top_probability) <= 0).all()
        agree = (logp[:-1].argmax(-1) == logp[-1].argmax()).double().mean()
        assert float(here.layer_agreement) == pytest.approx(float(agree))
        entropy = -float((p * logp[-1]).sum()) / np.log(model.d_vocab)
        assert float(here.doubt.sel(measure="entropy")) == pytest.approx(entropy, rel=1e-4)
    assert np.isnan(found.surprisal[0]) and int(found["rank"][0]) == -1
    mean = float(found.surprisal[1:].mean())
    assert float(found.mean_surprisal) == pytest.approx(mean)
    with torch.no_grad():  # the model's own loss
        loss = model.hf(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss
    assert mean == pytest.approx(float(loss), rel=1e-4)


def test_several_texts_are_each_of_them_alone() -> None:
    model = model_of("llama")
    both = ll.token_uncertainty(model, TEXTS).data
    for row, ids in enumerate(TEXTS):
        alone = ll.token_uncertainty(model, ids).data
        here = both.isel(text=row)
        for name in ("surprisal", "layer_agreement", "doubt", "top_probability"):
            values = here[name].isel(position=slice(len(ids)))
            np.testing.assert_allclose(values, alone[name], rtol=2e-5, atol=1e-6)
        assert np.isnan(here.surprisal[len(ids) :]).all()
        assert float(here.mean_entropy) == pytest.approx(float(alone.mean_entropy), rel=1e-5)


def test_a_word_that_breaks_a_pattern_is_doubted_and_told_from_those_that_keep_it() -> None:
    model = ll.load("toy:induction")
    texts = [
        "cat dog owl cat dog owl cat ape owl cat dog",
        "fox bee hen fox bee hen fox bee cow fox bee hen",
        "eel emu pig eel emu pig eel rat pig eel emu pig",
    ]
    labels = [{"ape": 1, 5: 0, 6: 0}, {"cow": 1, 5: 0, 12: 0}, {"rat": 1, 5: 0, 12: 0}]
    found = ll.token_uncertainty(model, texts, labels=labels)
    data = found.data
    assert float(data.auroc.sel(score="token")) == 1
    assert (int(data.wrong), int(data.right)) == (3, 6)
    # The position alone tells less, shuffled labels nothing.
    assert float(data.auroc.sel(score="position")) < 0.8
    assert (abs(data.auroc_shuffled - 0.5) < 0.1).all()
    assert float(data.auroc_shuffled_high.sel(score="token")) < 1
    assert float(data.doubt.isel(text=1).sel(measure="token", position=9)) > 0.99
    # The same as a label for each token.
    listed: list[list[Any]] = [[None] * 12, [None] * 13, [None] * 13]
    for text, places in enumerate(({8: 1, 5: 0, 6: 0}, {9: 1, 5: 0, 12: 0}, {8: 1, 5: 0, 12: 0})):
        for at, label in places.items():
            listed[text][at] = label
    again = ll.token_uncertainty(model, texts, labels=listed).data
    np.testing.assert_allclose(again.auroc, data.auroc)


def test_the_score_of_a_span() -> None:
    model = model_of("llama")
    spans = {(1, 2): 1, (3, 4, 5): 0}
    found = ll.token_uncertainty(model, IDS, labels=spans).data
    mean = [float(found.surprisal[list(span)].mean()) for span in spans]
    assert float(found.auroc.sel(score="token")) == float(mean[0] > mean[1])
    mean = [float(found.entropy[list(span)].mean()) for span in spans]
    assert float(found.auroc.sel(score="entropy")) == float(mean[0] > mean[1])


def judge_of(verdicts: dict[tuple[str, str], str]) -> Any:
    return lambda one, other: verdicts.get((one, other), "neutral")


def test_claims_by_hand() -> None:
    """Of lm-polygraph: P(entailed) / (P(entailed) + P(contradicted)), the token itself entailed."""
    said, others = ("a", 0.5), [("b", 0.1), ("c", 0.2), ("d", 0.15)]
    both = {("a", "b"): "entailment", ("b", "a"): "entailment", ("a", "c"): "contradiction"}
    assert claim_probability(judge_of(both), "", said, others) == pytest.approx(0.6 / 0.8)
    against = both | {("d", "a"): "entailment", ("a", "d"): "contradiction"}  # cancel out
    assert claim_probability(judge_of(against), "", said, others) == pytest.approx(0.6 / 0.8)
    assert claim_probability(judge_of({}), "", said, others) == 1
    assert relation(judge_of({}), " a b", "a  b") == "entailment"
    with pytest.raises(InputError, match="judge said 'yes'"):
        relation(lambda one, other: "yes", "a", "b")


def test_claims_of_a_text_are_those_of_its_likeliest_tokens() -> None:
    model = ll.load("toy:induction")
    asked: list[tuple[str, str]] = []

    def judge(one: str, other: str) -> str:
        asked.append((one, other))
        return "contradiction" if one.endswith(("t", "w")) else "neutral"

    found = ll.token_uncertainty(model, "cat dog owl", judge=judge, top_k=3).data
    assert all("<bos>" not in one + other for one, other in asked)
    product = 1.0
    for at in range(1, 4):
        here = found.isel(position=at)
        said = float(np.exp(-here.surprisal))
        token = str(here.token.values)
        contrary = 0.0
        for index, p in zip(here.top_id.values, here.top_probability.values, strict=True):
            other = model.token_string(int(index))
            firm = token.endswith(("t", "w")) or other.endswith(("t", "w"))
            contrary += float(p) * (firm and other != token)
        assert float(here.claim_probability) == pytest.approx(said / (said + contrary))
        product *= said / (said + contrary)
    assert float(found.claim_score) == pytest.approx(product)
    assert float(found.doubt.sel(measure="claim")[2]) == pytest.approx(
        1 - float(found.claim_probability[2])
    )


def test_the_area_is_mann_and_whitneys() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, 60).astype(float)  # with ties
    positive = random.random(60) < 0.3
    expected = mannwhitneyu(scores[positive], scores[~positive]).statistic
    pairs = positive.sum() * (~positive).sum()
    found = with_controls(scores, positive, np.arange(60) // 6)
    assert float(found["auroc"]) == pytest.approx(expected / pairs)
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert abs(float(found["auroc_shuffled"]) - 0.5) < 0.01
    # Weights are copies.
    copies = random.integers(0, 3, 60)
    again = np.repeat(np.arange(60), copies)
    one = mannwhitneyu(scores[again][positive[again]], scores[again][~positive[again]]).statistic
    weighed = auroc(scores, (copies * positive)[None], (copies * ~positive)[None])
    pairs = (copies * positive).sum() * (copies * ~positive).sum()
    assert float(weighed[0]) == pytest.approx(one / pairs)
    # A score that is always the same tells nothing; one that is missing is left out.
    assert float(with_controls(np.ones(60), positive, np.arange(60))["auroc"]) == 0.5
    holed = np.where(np.arange(60) < 5, np.nan, scores)
    rest = with_controls(holed, positive, np.arange(60))["auroc"]
    expected = mannwhitneyu(scores[5:][positive[5:]], scores[5:][~positive[5:]]).statistic
    assert float(rest) == pytest.approx(expected / positive[5:].sum() / (~positive[5:]).sum())
    assert np.isnan(with_controls(scores, positive & False, np.arange(60))["auroc"])


def test_a_cell_opens_the_coloured_text_and_what_else_was_likely() -> None:
    model = ll.load("toy:induction")
    found = ll.token_uncertainty(model, ["cat dog cat", "cat dog owl cat dog"], top_k=4)
    assert found.given is not None
    at = {"array": "doubt", "index": [1, 2, 5]}  # text 1, margin, position 5
    cell = token_uncertainty.open(model, *found.given, place_of(found.data, at))
    data = found.data.isel(text=1)
    assert [row[1] for row in cell.tables[0].rows] == data.top_probability[5].values.tolist()
    assert cell.tables[0].rows[0][0] == "dog"
    marks = np.nan_to_num(data.doubt.sel(measure="margin"))
    assert [mark for _, mark in cell.texts[0]] == marks.tolist()
    assert [word for word, _ in cell.texts[0]][1:] == ["cat", "dog", "owl", "cat", "dog"]


WRONG: dict[str, dict[str, Any]] = {
    "has one token": {"text": [5]},
    "top_k is 1": {"top_k": 1},
    "judge is 'nli'": {"judge": "nli"},
    "from 0": {"max_new_tokens": -1},
    "all with the same label": {"labels": {1: 1}},
    "no token with a score": {"labels": {0: 1, 2: 0}},
    "A label is 2": {"labels": {1: 2, 2: 0}},
    "a list of 6": {"labels": [1, 0]},
    "does not exist": {"labels": {9: 1, 1: 0}},
}


@pytest.mark.parametrize("words", list(WRONG))
def test_what_does_not_fit_is_said(words: str) -> None:
    options = dict(WRONG[words])
    with pytest.raises(InputError, match=words):
        ll.token_uncertainty(model_of("llama"), options.pop("text", IDS), **options)


def test_stopped_it_keeps_the_texts_that_it_has_read() -> None:
    class Stopper(Silent):
        seen = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.seen += "mean_entropy" in arrays

        def cancelled(self) -> bool:
            return self.seen >= 2

    with pytest.raises(Cancelled) as stop:
        token_uncertainty.run(model_of("llama"), TEXTS, {}, Stopper())
    entropy = stop.value.partial.data.mean_entropy
    assert np.isfinite(entropy[:2]).all() and np.isnan(entropy[2])
