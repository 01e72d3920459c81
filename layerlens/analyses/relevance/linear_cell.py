"""What a cell of ``linear_interpreter`` opens: the next token with a state pushed, really."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.relevance.linear_text import one_place, random_directions
from layerlens.analyses.sweeps.first_text import FirstText
from layerlens.run.edits import edit

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_push(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    position: Any,
    seed: int,
    **_: Any,
) -> Opened:
    """Double a token's state, and add as much in a random direction, everything free to react.

    One unit moves no probability that could be read; a push as long as the state does. The held
    model would double what the token carries of the answer.
    """
    with torch.no_grad():
        return _opened(job, model, tokens, place, position, seed)


def _opened(
    job: Job, model: LensModel, tokens: Tokens, place: Place, position: Any, seed: int
) -> Opened:
    label = str(place.need("point"))
    layer = -1 if label == "embed" else int(label.split("_")[0])
    first = FirstText(job, model, tokens)
    text = first.one.batch.tokens
    at = first.at if position is None else one_place(model, text, position)
    state = first.one.states[layer + 1]
    own = state[0, at].double()
    [direction] = random_directions(1, model.d_model, (seed, 0)).to(own)

    def pushed(along: Tensor) -> Tensor:
        changed = state.clone()
        changed[0, at] = (own + along).to(state)
        return first.one.run(changed, range(layer + 1, model.n_layers))

    finals = {
        "as much at random": pushed(direction * own.norm()),
        "doubled": pushed(own),
    }
    edits = []
    if place.one_text is not None:
        site = "resid_pre.0" if layer < 0 else f"resid_post.{layer}"
        edits = [edit(site, "scale", 2.0, position=at)]
    token = text.strings[0][at]
    title = f"The next token with the state of {token!r} doubled ({label})"
    return first.opened(title, place.run_with(edits), finals)
