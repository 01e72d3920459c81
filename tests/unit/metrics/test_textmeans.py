"""Texts of one length are measured together: each must give what it gives by itself."""

from __future__ import annotations

import measuring
import pytest
import torch

from layerlens.metrics import registry
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.layer import Layer
from layerlens.metrics.runner import run_metrics
from layerlens.metrics.textmeans import TextMeans, TextStates, texts_of

KINDS = [kind for kind in registry.every().values() if issubclass(kind, TextMeans)]
NAMES = [*(kind.name for kind in KINDS), "anisotropy"]
UNEQUAL = [[5, 6, 7, 8], [3, 4], [9, 8, 7, 6], [1], [7, 5, 3, 1, 2, 4], [2, 1]]
"""Pairs of one length that are not neighbours, and a text of which no token counts."""


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_together_as_one_by_one(kind: type[TextMeans], width: int) -> None:
    """Fewer tokens than dimensions and more; the other Gram matrix is the smaller one."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 9, width, dtype=torch.float64, generator=generator)
    rows[1] = rows[1, :1]  # all tokens the same: only rounding is left by centring
    rows[2, 4:6] = rows[2, 3]
    rows[3, 2] = 0
    rows[4] += 1000
    metric = kind(ModelShape(1, 1, width, 9))
    together = torch.stack(metric.measure(TextStates(rows)))
    alone = [torch.stack(metric.measure(TextStates(rows[i : i + 1])))[:, 0] for i in range(5)]
    torch.testing.assert_close(
        together, torch.stack(alone, -1), rtol=1e-9, atol=1e-12, equal_nan=True
    )
    assert together[:, [0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_of_one_length_are_found_and_keep_their_states(side: str) -> None:
    model = measuring.tiny("gpt2")
    batches = split(model.tokens(UNEQUAL, padding_side=side), len(UNEQUAL))
    found: dict[tuple[int, int], torch.Tensor] = {}
    groups: list[list[int]] = []

    def look(layer: Layer) -> None:
        for rows, texts in texts_of(layer, "post"):
            groups.append(rows)
            found.update({(layer.number, r): h for r, h in zip(rows, texts.rows, strict=True)})

    metrics = MetricSet.make(model, NAMES, skip_first=True)
    run_metrics(model, batches, metrics, on_layer=look)
    assert groups == [[0, 2], [1, 5], [4]] * model.n_layers
    for row, text in enumerate(UNEQUAL):
        for number, h in enumerate(measuring.states(model, text)[1:]):
            if len(text) > 1:
                torch.testing.assert_close(found[number, row], h[1:].double(), rtol=1e-4, atol=1e-5)
            else:
                assert (number, row) not in found


def test_texts_of_unequal_length_give_what_each_gives_alone() -> None:
    model = measuring.tiny("llama")
    alone = measuring.measure(model, NAMES, UNEQUAL, size=1)
    together = measuring.measure(model, NAMES, UNEQUAL)
    measuring.assert_same(alone, together, rtol=1e-4, atol=1e-5)
