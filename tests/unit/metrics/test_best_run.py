"""The run of layers to take out: planted, by hand, and refused."""

from __future__ import annotations

from collections.abc import Callable

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError


def turn(angle: float) -> Callable[[Tensor], Tensor]:
    """Turn every state in the plane of its first two entries."""
    c, s = np.cos(angle), np.sin(angle)

    def does(h: Tensor) -> Tensor:
        out = h.clone()
        out[..., 0], out[..., 1] = c * h[..., 0] - s * h[..., 1], s * h[..., 0] + c * h[..., 1]
        return out

    return does


def test_a_planted_run_that_does_nothing_is_found() -> None:
    model = measuring.planted(2, [turn(a) for a in (0.9, 0.8, 0.0, 0.0, 0.0, 0.7)])
    result = ll.layer_metrics(model, measuring.TEXTS, ["angular_distance"])
    run = ll.best_run(result, 3)
    assert run.layers == range(2, 5) and run.distance == pytest.approx(0, abs=1e-4)
    # Of the runs of four, the one that also takes the smaller turn behind them.
    longer = ll.best_run(result, 4)
    assert longer.layers == range(2, 6) and longer.distance == pytest.approx(0.7 / np.pi, abs=1e-6)
    assert ll.best_run(result, 6).layers == range(6) and ll.best_run(result, 0).layers == range(0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_it_is_the_smallest_angle_of_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    result = ll.layer_metrics(
        model,
        measuring.TEXTS,
        ["angular_distance"],
        metric_options={"angular_distance": {"token": "last"}},
    )
    for n in (1, 2, 3):
        angles = []
        for text in measuring.TEXTS:
            h = torch.stack(measuring.states(model, text))[:, -1].double()
            angles.append(torch.cosine_similarity(h[:-n], h[n:], dim=-1).arccos() / np.pi)
        mean = torch.stack(angles).mean(0)
        found = ll.best_run(result, n)
        assert found.layers == range(int(mean.argmin()), int(mean.argmin()) + n)
        assert found.distance == pytest.approx(float(mean.min()), abs=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    model = measuring.tiny("llama")
    with pytest.raises(InputError, match="angular_distance"):
        ll.best_run(ll.layer_metrics(model, [1, 2, 3], ["lim"]), 1)
    for n in (4, -1, 1.5, True):
        with pytest.raises(InputError, match="n is"):
            ll.best_run(np.zeros((4, 4)), n)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="point"):
        ll.best_run(np.zeros((4, 3)), 1)
