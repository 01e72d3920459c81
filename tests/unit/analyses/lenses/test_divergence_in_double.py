"""Divergences of a lens, at every point, against their definition in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.model.tiny import tiny_model

IDS = list(range(3, 30))


def by_definition(model: ll.LensModel) -> np.ndarray:
    """``[point, position]``, from the states that the model itself passed, all in float64."""
    points = model.anatomy.points()
    trace = ll.record(model, IDS, [str(site) for _, site, _ in points])
    norm, weight = model.hf.model.norm, model.hf.lm_head.weight.double()

    def log_probabilities(state: Tensor) -> Tensor:
        state = state.double()
        size = state.square().mean(-1, keepdim=True).add(norm.variance_epsilon).sqrt()
        return (state / size * norm.weight.double() @ weight.T).log_softmax(-1)

    with torch.inference_mode():
        rows = [log_probabilities(trace[str(site)][0]) for _, site, _ in points]
        found = torch.stack([(rows[-1].exp() * (rows[-1] - row)).sum(-1) for row in rows])
    return found.numpy()


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_divergence_at_every_point(dtype: torch.dtype, allowed: float) -> None:
    hf = tiny_model("llama", vocab_size=997).to(dtype)
    with torch.no_grad():
        hf.lm_head.weight.mul_(5)  # divergences of tens of nats, as in trained models
    model = ll.load(hf)
    data = ll.logit_lens(model, IDS).data
    labels = [label for label, _, _ in model.anatomy.points()]
    expected = by_definition(model)
    found = data.kl_to_final.sel(point=labels[:-1]).values
    assert expected.max() > 10
    assert np.abs(found - expected[:-1]).max() <= allowed * expected.max()
