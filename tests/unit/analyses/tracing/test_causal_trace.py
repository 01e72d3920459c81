"""Causal tracing against plain hooks, identities and bad input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.sweeps.layer_windows import window_layers
from layerlens.analyses.texts.subjects import GROUPS, position_groups
from layerlens.errors import Cancelled, InputError

from .. import by_hooks as by
from ..by_hooks import FAMILIES, IDS
from ..lenses.test_logit_lens import Recorder

SUBJECT = [1, 2]
SAMPLES, SEED, ANSWER = 3, 5, 7
PLACES = {"resid_post": None, "mlp_out": "mlp", "attn_out": "attn"}


def by_definition(family: str, kind: str, window: int, noise: float) -> dict[str, np.ndarray]:
    """Every cell by hooks: noise on the embedding, one window of one kind restored."""
    hf = by.plain(family)
    layers = range(3)
    modules = [
        by.blocks(hf)[layer] if kind == "resid_post" else by.part(hf, layer, str(PLACES[kind]))
        for layer in layers
    ]
    places = [(by.embedding(hf), "out"), *[(module, "out") for module in modules]]
    clean = by.kept(hf, IDS, places)
    embedded = clean[places[0]][0]
    std = noise * float(embedded[SUBJECT].std())
    drawn = np.random.RandomState(SEED).randn(SAMPLES, len(SUBJECT), embedded.shape[-1]) * std
    low, grid = np.zeros(SAMPLES), np.zeros((SAMPLES, 3, len(IDS)))
    for sample, values in enumerate(drawn):
        spoilt = embedded[SUBJECT] + torch.from_numpy(values).float()
        hook = (by.embedding(hf), "out", by.putting(spoilt, positions=SUBJECT))
        low[sample] = by.probability(by.run(hf, IDS, [hook]), ANSWER)
        for layer in layers:
            around = [i for i in layers if layer - window // 2 <= i < layer + (window + 1) // 2]
            for position in range(len(IDS)):
                hooks = [hook]
                for i in around:
                    value = clean[places[1 + i]][0, [position]]
                    hooks.append((modules[i], "out", by.putting(value, positions=[position])))
                logits = by.run(hf, IDS, hooks)
                grid[sample, layer, position] = by.probability(logits, ANSWER)
    effect = grid - low[:, None, None]
    return {
        "restored": grid.mean(0),
        "indirect_effect": effect.mean(0),
        "standard_error": effect.std(0, ddof=1) / np.sqrt(SAMPLES),
        "ends": np.array([by.probability(by.run(hf, IDS), ANSWER), low.mean(), std]),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "window"), [("resid_post", 1), ("mlp_out", 2), ("attn_out", 3)])
def test_every_cell_equals_plain_hooks(family: str, kind: str, window: int) -> None:
    result = ll.causal_trace(
        by.wrapped(family),
        IDS,
        subject=SUBJECT,
        kind=kind,
        window=window,
        noise=2.0,
        samples=SAMPLES,
        seed=SEED,
        answer=ANSWER,
    )
    expected = by_definition(family, kind, window, 2.0)
    for name in ("restored", "indirect_effect", "standard_error"):
        np.testing.assert_allclose(result.data[name], expected[name], atol=2e-6, err_msg=name)
    attrs = result.data.attrs
    found = [attrs["clean_metric"], attrs["corrupt_metric"], attrs["noise_std"]]
    np.testing.assert_allclose(found, expected["ends"], atol=1e-6)
    assert attrs["total_effect"] == pytest.approx(found[0] - found[1], abs=1e-9)
    assert [check for check in result.checks if not check.ok] == []
    names = {check.name for check in result.checks}
    assert names == {
        "all restored is the clean run",
        "no effect before the subject",
        "cells equal the naive run",
    }


def test_the_last_state_restored_is_the_clean_run() -> None:
    data = ll.causal_trace(by.wrapped("llama"), IDS, subject=SUBJECT, samples=2).data
    total = data.attrs["total_effect"]
    assert float(data.indirect_effect[-1, -1]) == pytest.approx(total, abs=1e-6)
    np.testing.assert_allclose(data.indirect_effect[-1, :-1], 0, atol=1e-6)
    np.testing.assert_allclose(data.indirect_effect[:, 0], 0, atol=1e-6)


def test_windows_are_those_of_the_authors_code() -> None:
    for window in range(1, 12):
        for layer in range(30):
            theirs = range(max(0, layer - window // 2), min(30, layer - (-window // 2)))
            assert window_layers(layer, window, 30) == theirs
    with pytest.raises(InputError, match="window is 0"):
        window_layers(3, 0, 30)


def test_groups_of_positions() -> None:
    groups = position_groups((2, 3, 4, 5), 10)
    assert list(groups.values()) == [[2], [3, 4], [5], [6], [7, 8], [9]]
    assert list(position_groups((1,), 3).values()) == [[1], [], [1], [2], [], [2]]
    assert list(position_groups((1, 2), 3).values()) == [[1], [], [2], [], [], [2]]


def test_several_texts_average_by_group_with_an_interval() -> None:
    model = by.wrapped("gpt2")
    texts, subjects = [IDS, [8, 9, 10, 11], [4, 30, 31, 32, 33, 34, 35]], [[1, 2], 1, [2, 3, 4]]
    how: dict[str, Any] = {"samples": 2, "answer": ANSWER, "kind": "mlp_out", "window": 1}
    data = ll.causal_trace(model, texts, subject=subjects, **how).data
    assert data.indirect_effect.dims == ("batch", "layer", "position")
    assert np.isnan(data.indirect_effect[1, :, 4:]).all()
    assert data.attrs["complete"] == 1
    std = data.attrs["embedding_std"]
    weight = model.hf.get_input_embeddings().weight.detach()
    ids = [IDS[1], IDS[2], 9, 31, 32, 33]
    assert std == pytest.approx(float(weight[ids].std()), rel=1e-5), "one number over all texts"
    groups = data.group_effect.values
    for row, (text, subject) in enumerate(zip(texts, ([1, 2], [1], [2, 3, 4]), strict=True)):
        for place, columns in enumerate(position_groups(subject, len(text)).values()):
            expected = data.indirect_effect.values[row][:, columns].mean(1) if columns else np.nan
            np.testing.assert_allclose(groups[row, place], expected, atol=1e-7)
    np.testing.assert_allclose(data.group_effect_mean, np.nanmean(groups, 0), atol=1e-6)
    known = np.isfinite(groups).sum(0) > 1
    low, high = data.group_effect_low.values, data.group_effect_high.values
    assert (low[known] <= high[known]).all()
    assert np.isnan(low[~known]).all(), "one text has no interval"
    assert data.group.values.tolist() == list(GROUPS)
    assert len(json.loads(data.attrs["total_effect"])) == 3


def test_the_default_subject_is_all_but_the_last_token() -> None:
    model = by.wrapped("gpt2")
    found = ll.causal_trace(model, IDS, samples=2).data
    named = ll.causal_trace(model, IDS, subject=range(5), samples=2).data
    np.testing.assert_array_equal(found.indirect_effect, named.indirect_effect)


def test_layers_and_positions_are_slices_of_the_whole() -> None:
    model = by.wrapped("llama")
    how: dict[str, Any] = {"subject": SUBJECT, "samples": 2, "kind": "mlp_out", "window": 2}
    whole = ll.causal_trace(model, IDS, **how).data
    part = ll.causal_trace(model, IDS, layers=[2], positions=[1, -1], **how).data
    assert part.layer.values.tolist() == [2]
    assert part.position.values.tolist() == [1, 5]
    same = whole.indirect_effect.sel(layer=[2], position=[1, 5])
    np.testing.assert_allclose(part.indirect_effect, same, atol=1e-6)


def test_noise_is_the_same_each_time_and_depends_on_the_seed() -> None:
    model = by.wrapped("gpt2")
    one, again, other = (
        ll.causal_trace(model, IDS, subject=SUBJECT, samples=2, seed=seed).data.restored
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert float(abs(one - other).max()) > 1e-6


def test_a_stop_keeps_the_mean_over_finished_samples() -> None:
    model = by.wrapped("gpt2")
    options = {"subject": SUBJECT, "samples": 4}
    heard = Recorder()
    ll.causal_trace.run(model, IDS, options, heard)
    parts = sum("indirect_effect" in arrays for _, arrays in heard.parts)
    with pytest.raises(Cancelled) as caught:
        ll.causal_trace.run(model, IDS, options, Recorder(stop_at=parts // 4))
    found = caught.value.partial.data.indirect_effect  # type: ignore[union-attr]
    one = ll.causal_trace(model, IDS, subject=SUBJECT, samples=1).data.indirect_effect
    np.testing.assert_allclose(found, one, atol=1e-6)


def test_a_wrong_state_is_caught_by_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.analyses.tracing import trace_text as module

    real = module.Change

    def rolled(site: Any, op: str, value: Any, **where: Any) -> Any:
        return real(site, op, value.roll(1, -1) if op == "set" else value, **where)

    monkeypatch.setattr(module, "Change", rolled)
    checks = ll.causal_trace(by.wrapped("gpt2"), IDS, subject=SUBJECT, samples=1).checks
    bad = {check.name for check in checks if not check.ok}
    assert "no effect before the subject" in bad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mlp"}, "'mlp' is not known"),
        ({"samples": 0}, "samples is 0"),
        ({"noise": 0}, "noise is 0"),
        ({"window": 0}, "window is 0"),
        ({"subject": "France"}, "does not occur in the text"),
        ({"subject": []}, "names no position"),
        ({"layers": [7]}, "Layer 7 does not exist"),
        ({"positions": []}, "No position was chosen"),
        ({"answer": 99}, "does not exist"),
        ({"sample": 3}, "did you mean 'samples'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.causal_trace(by.wrapped("gpt2"), IDS, **{"subject": SUBJECT, **options})


def test_one_token_has_no_subject_before_its_end() -> None:
    with pytest.raises(InputError, match="one token long"):
        ll.causal_trace(by.wrapped("gpt2"), [5])


def test_work_is_counted_without_running() -> None:
    model = by.wrapped("gpt2")
    work = ll.causal_trace.work(model, IDS, samples=4, layers=[1, 2])
    assert work.head_rows == 4 * 2 * len(IDS)
    assert 5 < work.passes < 5 + work.head_rows
