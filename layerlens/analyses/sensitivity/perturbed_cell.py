"""What a cell of ``perturbation_growth`` opens: how far each token of the first text has moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.sensitivity.perturbed_text import Growth

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_perturbed(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    epsilon: float,
    steps: int,
    draws: int,
    seed: int,
    skip_first: bool | int,
) -> Opened:
    """Change the first text once more, and list its tokens by how far the worst change moved them.

    A number of no layer opens after the last one.
    """
    layer = int(place.labels.get("layer", model.n_layers - 1))
    growth = Growth(job, model, tokens, epsilon, int(skip_first))
    found = growth.changes(0, steps, draws, seed)
    clean = found.clean[layer + 1].detach()

    def moved(change: Tensor) -> np.ndarray:
        with torch.no_grad():
            after = growth.run(change)[0][layer + 1].detach()
        sizes: np.ndarray = ((after - clean).norm(dim=-1) / clean.norm(dim=-1)).cpu().numpy()
        return sizes

    random = np.mean([moved(change) for change in found.random], axis=0)
    worst, strings = moved(found.worst), growth.text.strings[0]
    order = np.argsort(-worst, kind="stable").tolist()
    marks = worst / max(float(worst.max()), 1e-12)
    return Opened(
        title=f"How far each token's state after layer {layer} has moved, of its length",
        code=place.call,
        tables=[
            Table(
                ["position", "token", "random changes", "worst change"],
                [[at, strings[at], float(random[at]), float(worst[at])] for at in order],
            )
        ],
        texts=[list(zip(strings, marks.tolist(), strict=True))],
    )
