"""What a cell of ``massive_ablation`` opens: the next token without the massive entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.removal.massive_text import DimensionMeans, Entries
from layerlens.analyses.sweeps.clean_pass import passes
from layerlens.analyses.sweeps.first_text import FirstText

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_massive(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    threshold: float,
    times_median: float,
    relative: bool,
    seed: int,
    skip_first: bool | int,
    batch_size: int | None,
    **_: Any,
) -> Opened:
    """Run the first text with its massive entries replaced, and with as many others set to 0."""
    layer = int(place.need("layer"))
    rule = {"threshold": threshold, "times_median": times_median, "relative": relative}
    means = DimensionMeans(1, model.d_model)
    for one in passes(model, tokens, skip_first, batch_size, job.tick):
        state = one.states[layer + 1]
        means.add(0, state, Entries(state, one.batch, rule))
    first = FirstText(job, model, tokens)
    state = first.one.states[layer + 1]
    entries = Entries(state, first.one.batch, rule)

    def after(mask: Tensor, new: Tensor | float) -> Tensor:
        changed = torch.where(mask, new, state)
        return first.one.run(changed, range(layer + 1, model.n_layers))

    finals = {
        "as many others 0": after(entries.drawn(layer, 0, seed), 0.0),
        "set to mean": after(entries.massive, means.of("massive", 0, state)),
        "set to 0": after(entries.massive, 0.0),
    }
    many = int(entries.texts[0])
    title = f"The next token with the massive entries after layer {layer} replaced ({many} here)"
    return first.opened(title, place.call, finals)
