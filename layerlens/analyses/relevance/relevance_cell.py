"""What a cell of ``relevance`` opens: the next token with that token's state taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.sweeps.first_text import FirstText
from layerlens.run.edits import edit

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_relevance(
    job: Job, model: LensModel, tokens: Tokens, place: Place, *, seed: int, **_: Any
) -> Opened:
    """Put the mean of the text's states in the place of one, and of another one drawn at random.

    A map is a claim about the model; this is the model.
    """
    with torch.no_grad():
        return _opened(job, model, tokens, place, seed)


def _opened(job: Job, model: LensModel, tokens: Tokens, place: Place, seed: int) -> Opened:
    label, position = str(place.need("point")), int(place.need("position"))
    layer = -1 if label == "embed" else int(label.split("_")[0])
    first = FirstText(job, model, tokens)
    state = first.one.states[layer + 1]

    def without(at: int) -> Tensor:
        changed = state.clone()
        changed[:, at] = state.mean(1)
        return first.one.run(changed, range(layer + 1, model.n_layers))

    finals = {"without it": without(position)}
    others = [at for at in range(state.shape[1]) if at not in (position, first.at)]
    if others:
        drawn = int(np.random.default_rng((seed, position)).choice(others))
        finals = {f"without position {drawn}": without(drawn), **finals}
    edits = []
    if place.one_text is not None:
        site = "resid_pre.0" if layer < 0 else f"resid_post.{layer}"
        edits = [edit(site, "mean", place.one_text, position=position)]
    token = first.one.batch.tokens.strings[0][position]
    title = f"The next token with the mean state in the place of {token!r} ({label})"
    return first.opened(title, place.run_with(edits), finals)
