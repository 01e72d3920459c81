"""Early exits on texts, against plain hooks, planted numbers and what a threshold must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses.exit_tally import ExitTally, When
from layerlens.analyses.lenses.exits import RULES
from layerlens.errors import InputError

from .test_generation_lens import logprobs_by_hand, model_of, states_by_hand

TEXTS = [[5, 17, 20, 3, 90, 41], [8, 2, 63, 7], [11, 30, 9, 44, 2]]


@pytest.mark.parametrize(
    ("family", "rule", "least"),
    [("gpt2", "margin", 0), ("gemma2", "margin", 0), ("gpt2", "confidence", 1)],
)
def test_every_number_is_that_of_plain_hooks(family: str, rule: str, least: int) -> None:
    model = model_of(family)
    thresholds = [0.0, 0.01, 0.02, 0.05]
    found = ll.early_exit(model, TEXTS, rule=rule, thresholds=thresholds, min_layers=least)
    data = found.data
    depths, agrees, texts, changes = ([[] for _ in thresholds] for _ in range(4))
    for ids in TEXTS:
        same = [True] * len(thresholds)
        for end in range(1, len(ids) + 1):
            kept: list[torch.Tensor] = []
            first = model.hf.get_submodule(
                "transformer.h.0" if family == "gpt2" else "model.layers.0"
            )
            hook = first.register_forward_pre_hook(
                lambda _, args, kept=kept: kept.append(args[0][0, -1])
            )
            after = states_by_hand(model, family, ids[:end])
            hook.remove()
            logprobs = logprobs_by_hand(model, family, [kept[0], *after])
            best = logprobs.exp().topk(2).values
            scores = (best[:, 0] - (best[:, 1] if rule == "margin" else 0)).tolist()
            for place, threshold in enumerate(thresholds):
                ready = [d for d in range(least, model.n_layers) if scores[d] > threshold]
                depth = ready[0] if ready else model.n_layers
                agree = bool(logprobs[depth].argmax() == logprobs[-1].argmax())
                depths[place].append(depth)
                agrees[place].append(agree)
                same[place] = same[place] and agree
                if end < len(ids):
                    pair = logprobs[depth, ids[end]], logprobs[-1, ids[end]]
                    changes[place].append(float(pair[0] - pair[1]))
        for place, value in enumerate(same):
            texts[place].append(value)
    mean = np.mean(depths, 1)
    np.testing.assert_allclose(data.mean_layers, mean)
    np.testing.assert_allclose(data.saved, 1 - mean / model.n_layers)
    np.testing.assert_allclose(data.agreement.sel(exits="rule"), np.mean(agrees, 1))
    np.testing.assert_allclose(data.text_agreement, np.mean(texts, 1))
    change = data.logprob_change.sel(exits="rule")
    np.testing.assert_allclose(change, np.mean(changes, 1), atol=1e-4)
    assert mean.min() < model.n_layers  # some token exits
    assert found.checks.ok


@pytest.mark.parametrize("rule", list(RULES))
def test_no_score_above_the_threshold_is_the_full_model(rule: str) -> None:
    model = model_of("llama")
    data = ll.early_exit(model, TEXTS, rule=rule, thresholds=[-2, 100]).data
    never = data.sel(threshold=100)
    assert never.agreement.values.tolist() == [1, 1, 1]
    assert float(never.saved) == 0 and float(never.text_agreement) == 1
    np.testing.assert_array_equal(never.logprob_change, 0)
    always = data.sel(threshold=-2)
    first = "0_post" if rule == "state" else "embed"  # nothing comes before the embedding
    assert float(always.exit_share.sel(point=first)) == 1
    # Where all exit at one layer, a rule is no better than its controls.
    np.testing.assert_allclose(always.agreement, always.agreement[0])
    np.testing.assert_allclose(data.exit_share.sum("point"), 1)
    assert (np.diff(data.mean_layers) >= 0).all()


def test_a_rule_has_thresholds_of_its_own_size() -> None:
    shares = tuple(round(0.05 * step, 2) for step in range(21))
    for rule in ("margin", "confidence", "entropy"):
        assert RULES[rule].thresholds() == shares
    assert RULES["state"].thresholds() == tuple(round(0.8 + 0.01 * step, 2) for step in range(21))
    assert RULES["patience"].thresholds() == tuple(range(11))
    for one in RULES.values():
        assert one.low <= one.threshold <= one.high


def tally(
    rule: str = "margin", threshold: float = 0.5, decay: float = 0.0, min_layers: int = 0
) -> ExitTally:
    """Four tokens of two texts, at three depths, of which all is known."""
    made = ExitTally(When(rule, [threshold], decay, min_layers), np.array([0, 1, 2]), 2, 10)
    numbers = {
        "margin": np.array([[0.9, 0.1, 0.1, 0.49], [0.1, 0.9, 0.1, 0.1], [0.1] * 4]),
        "probability": np.array([[0.9, 0.4, 0.4, 0.7], [0.4, 0.9, 0.5, 0.4], [0.4] * 4]),
        "top_id": np.array([[1, 7, 7, 7], [1, 2, 7, 4], [1, 2, 3, 4]]),
        "logprob": np.array([[-1.0, -3.0, -3.0, -3.0], [-1.0, -1.0, -2.0, -1.0], [-1.0] * 4]),
    }
    numbers["logprob"][:, 3] = np.nan
    made.add(numbers, np.array([0.0, 0.5, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    return made


def test_a_rule_that_knows_beats_the_same_exits_dealt_at_random() -> None:
    means = tally().means()
    np.testing.assert_allclose(means["exit_share"], [[0.25, 0.25, 0.5]])
    np.testing.assert_allclose(means["mean_layers"], [1.25])
    # By layer 1/4, 3/4 and 1 agree: 1/16 + 3/16 + 1/2 at random, 3/4 + 1/16 at depth 1.25.
    np.testing.assert_allclose(means["agreement"][:, 0], [1, 0.75, 0.8125])
    # The changes of the three known tokens are 0, -2, -2 first, then 0, 0, -1.
    np.testing.assert_allclose(
        means["logprob_change"][:, 0], [0, -4 / 12 - 1 / 12, 0.75 * -1 / 3], atol=1e-12
    )
    assert means["oracle_layers"] == means["oracle_stable_layers"] == 1.0
    np.testing.assert_allclose(means["oracle_share"], [0.25, 0.5, 0.25])
    assert means["oracle_layers"] <= means["mean_layers"][0]  # the rule agrees always
    assert means["text_agreement"] == [1]


def test_the_threshold_falls_along_a_text_as_in_calm() -> None:
    # The last token's margin of 0.49 stays below 0.5, and lies above 0.45 + 0.05 exp(-4).
    fell = tally(decay=4.0).means()
    np.testing.assert_allclose(fell["exit_share"], [[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(fell["agreement"][0], [0.75])
    assert fell["text_agreement"] == [0.5]


def test_a_likely_top_token_may_not_stand_out() -> None:
    # The last token's 0.7 exceeds one half, its margin of 0.49 does not; 0.5 itself does not.
    np.testing.assert_allclose(tally("confidence").means()["exit_share"], [[0.5, 0.25, 0.25]])


def test_nothing_exits_before_the_fewest_layers() -> None:
    held = tally(min_layers=1).means()
    # The first token, ready at the embedding, is not ready any more after one layer.
    np.testing.assert_allclose(held["exit_share"], [[0, 0.25, 0.75]])
    np.testing.assert_allclose(held["oracle_share"], tally().means()["oracle_share"])
    np.testing.assert_allclose(tally(min_layers=2).means()["exit_share"], [[0, 0, 1]])


def test_patience_counts_the_states_before_the_fewest_layers() -> None:
    # Two tokens have the same top at the embedding and after one layer: two states in a row.
    share = tally("patience", threshold=1, min_layers=1).means()["exit_share"]
    np.testing.assert_allclose(share, [[0, 0.5, 0.5]])


def test_texts_of_a_corpus_and_a_list_are_the_same() -> None:
    model = ll.load("toy:induction")
    words = ["cat dog owl cat dog owl", "fox bee fox bee", "dog owl dog"]
    listed, corpus = ll.early_exit(model, words).data, ll.early_exit(model, ll.texts(words)).data
    for name in ("agreement", "saved", "text_agreement", "logprob_change"):
        np.testing.assert_allclose(listed[name], corpus[name], atol=1e-6)


def test_exits_of_a_written_token_are_those_of_the_text_that_was_written() -> None:
    model = model_of("llama")
    lens = ll.generation_lens(
        model, TEXTS[0], max_new_tokens=4, points=["embed", "post"], threshold=0.02
    ).data
    whole = [*TEXTS[0], *lens.written_id.values.tolist()][:-1]
    skipped = len(TEXTS[0]) - 1
    data = ll.early_exit(model, whole, thresholds=[0.02], positions_skipped=skipped).data
    layers = np.minimum(lens.exit_layer.values + 1, model.n_layers)
    np.testing.assert_allclose(data.mean_layers, [layers.mean()])


def test_what_does_not_fit_is_said() -> None:
    model = model_of("llama")
    for wrong in ({"rule": "hope"}, {"thresholds": []}, {"thresholds": "x"}, {"decay": -1.0}):
        with pytest.raises(InputError):
            ll.early_exit(model, TEXTS, **wrong)
    with pytest.raises(InputError, match="min_layers is 99; expected 0 to"):
        ll.early_exit(model, TEXTS, min_layers=99)
    with pytest.raises(InputError, match="No token counts when the first 40"):
        ll.early_exit(model, TEXTS, positions_skipped=40)
