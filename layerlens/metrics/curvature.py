"""How sharply the states of a text turn from token to token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.metrics.base import Output
from layerlens.metrics.entropy import SKEAN
from layerlens.metrics.registry import register
from layerlens.metrics.textmeans import TextMeans, TextStates


def mean_angle(steps: Tensor) -> Tensor:
    """Mean angle in radians between each of the rows [..., n, d] and the next: [...].

    A pair with a zero row has none; NaN where there is no pair.
    """
    size = steps.norm(dim=-1)
    sizes = size[..., 1:] * size[..., :-1]
    real = (size[..., 1:] > 0) & (size[..., :-1] > 0)
    dots = torch.linalg.vecdot(steps[..., 1:, :], steps[..., :-1, :])
    angle = (dots / sizes).clamp(-1, 1).arccos()
    mean: Tensor = angle.where(real, 0.0).sum(-1) / real.sum(-1)
    return mean


@register
class Curvature(TextMeans):
    """Curvature of the path of a text's states."""

    name = "curvature"
    question = "Are the paths from token to token straightened with depth?"
    formula = (
        "mean over texts of mean_k arccos(v_k . v_k+1 / (|v_k| |v_k+1|)), v_k = z_k+1 - z_k; "
        "_first: mean_k of the angle between z_k and z_k+1 themselves, less the text's mean"
    )
    units = "rad"
    source = f"Hosseini and Fedorenko (2023), arXiv 2311.04930; {SKEAN}"
    outputs: ClassVar[Mapping[str, Output]] = {
        "curvature": Output(("point",), "rad", "angle between steps from token to token"),
        "curvature_first": Output(("point",), "rad", "angle between neighbouring tokens"),
    }

    def measure(self, texts: TextStates) -> tuple[Tensor, Tensor]:
        """Of second and of first order; NaN below three or two tokens."""
        return mean_angle(texts.rows.diff(dim=-2)), mean_angle(texts.centred)
