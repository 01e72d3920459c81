"""Estimates of paths against small steps of the four runs, and where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.errors import Cancelled

from .. import by_hooks as by
from ..by_hooks import FAMILIES, IDS, OTHER
from ..lenses.test_logit_lens import Recorder
from .test_path_patch import ANSWER, WRONG, four_runs

STEP = 0.02
TOKENS: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("sender", "receiver", "freeze"),
    [
        (None, "logits", False),
        (None, (2, 1, "q"), False),
        (None, (2, 0, "v"), True),
        ("mlp_out", "logits", True),
        ("mlp_out", (2, 1, "k"), False),
        ("attn_out", "logits", False),
    ],
)
def test_it_is_the_slope_of_the_four_runs(
    family: str, sender: Any, receiver: Any, freeze: bool
) -> None:
    how: dict[str, Any] = {**TOKENS, "sender": sender, "receiver": receiver, "freeze_mlps": freeze}
    result = ll.path_patch(by.wrapped(family), IDS, OTHER, estimate_first=True, **how)
    data, hf = result.data, by.plain(family)
    assert result.checks.ok
    gap = float(data.attrs["corrupt_metric"] - data.attrs["clean_metric"])
    receivers = [] if receiver == "logits" else [receiver]
    found, slopes = [], []
    for row, layer in enumerate(data.layer.values.tolist()):
        for column in (0, 2) if sender is None else (0,):
            place = (layer, column if sender is None else sender)
            ahead, back = (
                four_runs(hf, IDS, OTHER, place, receivers, freeze_mlps=freeze, share=share)
                for share in (STEP, -STEP)
            )
            found.append(float(data.estimate[row, column]) * gap)
            slopes.append((ahead - back) / (2 * STEP))
    np.testing.assert_allclose(found, slopes, rtol=0.02, atol=5e-5)
    assert np.abs(slopes).max() > 1e-3, "no sender does anything: the test is blind"


@pytest.mark.parametrize("receiver", ["logits", (2, 1, "q")])
def test_the_sweep_itself_is_the_same(receiver: Any) -> None:
    model = by.wrapped("llama")
    how = {**TOKENS, "receiver": receiver}
    plain = ll.path_patch(model, IDS, OTHER, **how).data
    first = ll.path_patch(model, IDS, OTHER, estimate_first=True, **how).data
    assert "estimate" not in plain
    np.testing.assert_allclose(first.effect, plain.effect, atol=2e-5)
    extra = 3 if receiver == "logits" else 6
    assert first.attrs["passes"] == pytest.approx(plain.attrs["passes"] + extra, abs=1)
    assert first.attrs["estimate_cells"] == plain.effect.size
    expected = np.corrcoef(first.estimate.values.ravel(), first.recovered.values.ravel())[0, 1]
    assert first.attrs["estimate_pearson"] == pytest.approx(expected, abs=1e-4)
    work = [
        ll.path_patch.work(model, IDS, OTHER, estimate_first=e, **how).passes for e in (False, True)
    ]
    assert work[1] == work[0] + extra


def test_several_rounds_are_compared_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerlens.analyses.tracing.sender_paths.TOGETHER", 3)
    how: dict[str, Any] = {
        **TOKENS,
        "receiver": (2, 1, "q"),
        "estimate_first": True,
        "method": "naive",
    }
    model = by.wrapped("llama")
    data = ll.path_patch(model, IDS, OTHER, **how).data
    assert data.attrs["estimate_cells"] == data.effect.size
    with pytest.raises(Cancelled) as stop:
        ll.path_patch.run(model, {"clean": IDS, "corrupt": OTHER}, how, Recorder(stop_at=7))
    part = stop.value.partial.data  # type: ignore[union-attr]
    known = np.isfinite(part.effect.values)
    assert 0 < known.sum() < known.size
    size = np.abs(data.estimate.values)
    assert size[known].min() >= size[~known].max() - 1e-7


def test_where_there_is_none_it_says_why() -> None:
    model = by.wrapped("llama")
    found = ll.path_patch(model, IDS, OTHER, estimate_first=True, metric="kl").data
    assert "at its minimum" in found.attrs["no_estimate"]
    assert found.estimate.isnull().all()
    assert np.isfinite(found.effect).all()
