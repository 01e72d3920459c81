"""Every analysis of causes finds the circuit that was written into a model by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.model.lensmodel import LensModel

from .planted import (
    HEADS,
    INDUCTION,
    KNOWS,
    MOVES,
    PREVIOUS,
    answers,
    induction_model,
    lookup_model,
    suppressing_model,
)

CLEAN = [0, 3, 5, 7, 9, 3]
CORRUPT = [0, 7, 5, 3, 9, 3]
"""What followed token 3 was 5; with 3 and 7 changed over it is 9."""

MATCH = 2
"""Where the answer stands in the clean text: right after the first token 3."""

FACTS = {3: 8, 4: 9, 5: 10}
PROMPT = [1, 2, 3, 6, 7]
SUBJECT = (1, 2)


@pytest.fixture(scope="module")
def induction() -> LensModel:
    """The hand-written induction model."""
    return induction_model()


@pytest.fixture(scope="module")
def lookup() -> LensModel:
    """The hand-written lookup model."""
    return lookup_model(FACTS)


def only(shape: tuple[int, int], *places: tuple[int, int]) -> np.ndarray:
    """Zeros but for ones at these places."""
    grid = np.zeros(shape)
    for place in places:
        grid[place] = 1
    return grid


def test_the_models_do_what_was_written(induction: LensModel, lookup: LensModel) -> None:
    assert answers(induction, [CLEAN, CORRUPT, [0, 4, 6, 8, 4]]) == [5, 9, 6]
    assert answers(lookup, [[1, 2, subject, 6, 7] for subject in FACTS]) == list(FACTS.values())
    assert answers(suppressing_model(5, 0.75), [[1, 5], [5, 2]]) == [5, 2]


def test_heads_that_were_written_attend_where_they_should(induction: LensModel) -> None:
    trace = ll.record(induction, CLEAN, ["pattern"])
    before = trace["pattern", 0][0, PREVIOUS[1]]
    assert before.argmax(-1).tolist() == [0, 0, 1, 2, 3, 4]
    assert float(trace["pattern", 1][0, INDUCTION[1], -1, MATCH]) == pytest.approx(1, abs=1e-6)


def test_patching_heads_finds_both_and_nothing_else(induction: LensModel) -> None:
    """Either head alone brings the whole answer back."""
    for direction in ("denoise", "noise"):
        result = ll.patch_sweep(induction, CLEAN, CORRUPT, site="z", direction=direction)
        expected = only((2, HEADS), PREVIOUS, INDUCTION)
        np.testing.assert_allclose(result.data.recovered, expected, atol=1e-5)
        assert [check for check in result.checks if not check.ok] == []


def test_patching_head_by_position_finds_where(induction: LensModel) -> None:
    result = ll.patch_sweep(
        induction, CLEAN, CORRUPT, site="z", by="head_position", direction="denoise"
    )
    moved = result.data.recovered.sel(layer=1, head=INDUCTION[1]).values
    np.testing.assert_allclose(moved, [0, 0, 0, 0, 0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("receiver", "sends"),
    [
        ((*INDUCTION, "k"), [PREVIOUS]),
        ((*INDUCTION, "q"), []),
        ((*INDUCTION, "v"), []),
        ((1, 0, "k"), []),
        ("logits", [INDUCTION]),
    ],
)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_paths_are_previous_token_to_keys_and_induction_to_logits(
    induction: LensModel, receiver: Any, sends: list[tuple[int, int]], direction: str
) -> None:
    result = ll.path_patch(induction, CLEAN, CORRUPT, receiver=receiver, direction=direction)
    expected = only((2 if receiver == "logits" else 1, HEADS), *sends)
    np.testing.assert_allclose(result.data.recovered, expected, atol=1e-5)
    assert [check for check in result.checks if not check.ok] == []


def test_only_the_position_of_the_match_counts(induction: LensModel) -> None:
    """The previous-token head matters where the answer stands, before and after the change."""
    receiver = (*INDUCTION, "k")
    found = [
        float(
            ll.path_patch(induction, CLEAN, CORRUPT, receiver=receiver, positions=where)
            .data["recovered"]
            .sel(layer=0, head=PREVIOUS[1])
        )
        for where in ([MATCH, 4], 0, 3)
    ]
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-5)


def test_blocking_the_previous_token_breaks_it(induction: LensModel) -> None:
    """Two edges carry the answer: from where it stands to the token before, and from the end."""
    edges = {}
    for query in range(1, len(CLEAN)):
        data = ll.knockout(induction, CLEAN, query=query, window=1).data.percent_change
        for source, row in enumerate(data.values):
            for layer, change in enumerate(row):
                if abs(change) > 1:
                    edges[layer, query, source] = change
    assert set(edges) == {(0, MATCH, 1), (1, 5, MATCH), (0, 1, 0)}
    assert edges[0, MATCH, 1] == pytest.approx(-100, abs=0.01)
    assert edges[1, 5, MATCH] == pytest.approx(-100, abs=0.01)
    # Blocked from token 0, position 1 falls back on itself, and so looks like a second match.
    assert edges[0, 1, 0] == pytest.approx(-50, abs=0.1)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_ablation_names_both_heads(induction: LensModel, how: str) -> None:
    texts = [[0, 4, 6, 8, 10, 4], [0, 2, 9, 11, 1, 2]]
    reference = None if how == "zero" else texts
    result = ll.ablate_sweep(induction, CLEAN, how=how, reference=reference)
    effect = result.data.effect.values
    touched = np.abs(effect) > 1e-3
    np.testing.assert_array_equal(touched, only((2, HEADS), PREVIOUS, INDUCTION) == 1)
    assert (effect[touched] < -10).all()
    if how == "zero":
        kept = result.data.attrs["clean_metric"]
        assert effect[INDUCTION] == pytest.approx(-kept, abs=1e-3), "nothing else writes an answer"


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("mlp_out", {(KNOWS, 2)}),
        ("attn_out", {(MOVES, 4)}),
        ("resid_post", {(0, 2), (1, 2), (MOVES, 4), (3, 4)}),
    ],
)
def test_causal_tracing_finds_where_the_fact_is(
    lookup: LensModel, kind: str, places: set[tuple[int, int]]
) -> None:
    result = ll.causal_trace(lookup, PROMPT, subject=SUBJECT, kind=kind, window=1, seed=3)
    total = result.data.attrs["total_effect"]
    assert result.data.attrs["clean_metric"] == pytest.approx(1, abs=1e-6)
    assert total > 0.6, "noise on the subject takes the answer away"
    share = result.data.indirect_effect.values / total
    high = {(int(layer), int(place)) for layer, place in np.argwhere(share > 0.5)}
    assert high == places
    for place in places:
        assert share[place] == pytest.approx(1, abs=1e-3)
    assert [check for check in result.checks if not check.ok] == []


def test_causal_tracing_over_texts_names_the_last_subject_token(lookup: LensModel) -> None:
    texts = [[1, 2, subject, 6, 7] for subject in FACTS] + [[1, 4, 6, 11]]
    subjects: list[Any] = [list(SUBJECT)] * 3 + [1]
    data = ll.causal_trace(lookup, texts, subject=subjects, kind="mlp_out", window=1).data
    mean = data.group_effect_mean
    best = mean.argmax(("group", "layer"))
    assert int(best["layer"]) == KNOWS
    assert str(mean.group[best["group"]].values) == "last subject token"
    low = float(data.group_effect_low.sel(group="last subject token", layer=KNOWS))
    assert low > 0.3


def test_a_wide_window_makes_the_place_look_larger(lookup: LensModel) -> None:
    data = ll.causal_trace(lookup, PROMPT, subject=SUBJECT, kind="mlp_out", window=2, seed=3).data
    share = data.indirect_effect.sel(position=2).values / data.attrs["total_effect"]
    np.testing.assert_array_equal(share > 0.5, [False, True, True, False])


def test_attention_to_the_subject_is_needed_where_it_moves(lookup: LensModel) -> None:
    data = ll.knockout(lookup, PROMPT, subject=SUBJECT, window=1).data.percent_change
    np.testing.assert_allclose(data.sel(source=["other", "last"]), 0, atol=0.01)
    lost = data.sel(source="subject").values
    np.testing.assert_array_equal(lost < -50, [layer == MOVES for layer in range(4)])


def test_neurons_that_know_are_named(lookup: LensModel) -> None:
    data = ll.ablate_sweep(lookup, PROMPT, unit="neuron", how="zero").data
    touched = np.argwhere(np.abs(data.effect.values) > 1e-3).tolist()
    assert touched == [[KNOWS, list(FACTS).index(3)]]


def test_a_suppressing_mlp_is_found_with_its_size() -> None:
    """Removed, the token's logit is what the embedding alone gives it, to the digit."""
    share, token = 0.75, 5
    model = suppressing_model(token, share)
    data = ll.ablate_sweep(
        model, [1, token], unit="mlp", how="zero", metric="logit", answer=token
    ).data
    features = (model.d_model // 2) ** 0.5

    def logit(left: float) -> float:
        return 8 * left * features / (2 + left**2) ** 0.5

    assert data.attrs["clean_metric"] == pytest.approx(logit(1 - share), rel=1e-3)
    assert float(data.metric[0]) == pytest.approx(logit(1), rel=1e-3)
    other = ll.ablate_sweep(model, [1, 2], unit="mlp", how="zero", metric="logit", answer=2).data
    assert float(other.effect[0]) == pytest.approx(0, abs=1e-3)


def test_the_trained_toy_has_the_same_circuit() -> None:
    """In a trained model, too, the edges from the previous-token head to induction keys count."""
    model = ll.load("toy:induction")
    words = ["cat", "owl", "fox", "bee", "ant", "hen", "dog", "elk", "cat"]
    clean = model.tokens(" ".join(words))
    corrupt = " ".join(["fox", "owl", "cat", *words[3:]])
    trace = ll.record(model, clean, ["pattern"])
    last = clean.ids.shape[1] - 1
    before = [float(head.diagonal(-1).mean()) for head in trace["pattern", 0][0]]
    match = [float(head[last, 2]) for head in trace["pattern", 1][0]]
    assert max(before) > 0.8
    edges = {}
    for which in "qkv":
        for head in range(model.n_heads):
            receiver = (1, head, which)
            data = ll.path_patch(model, clean, corrupt, receiver=receiver, answer="owl").data
            for sender in range(model.n_heads):
                edges[sender, head, which] = float(data.recovered[0, sender])
    strong = {edge for edge, share in edges.items() if share > 0.2}
    assert strong, "some edge carries the answer"
    assert {(sender, which) for sender, _, which in strong} == {(int(np.argmax(before)), "k")}
    assert all(match[head] > 0.8 for _, head, _ in strong)
