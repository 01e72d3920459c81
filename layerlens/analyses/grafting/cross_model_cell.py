"""What a cell of ``cross_model_patch`` opens: the next token of both models, and in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.grafting.cross_model_text import other_states
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.required import require_model
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_crossed(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    other: LensModel | None,
    positions: Any,
    **_: Any,
) -> Opened:
    """Run both models, and this one from the other one's states after the block."""
    require_model(other, "other")
    assert other is not None
    layer = int(place.need("layer"))
    text = row_of(tokens, 0)
    base = record_base(model, text)
    states, logits = other_states(job, model, other, base, [layer])
    places = model.positions(text, positions)
    change = Change(Site("resid_post", layer), "set", states[layer][places], tuple(places))
    conditions = {
        "the other model": _theirs(logits, model.d_vocab),
        "as it is": chances(model, base.final),
        "patched": chances_with(model, base, [change]),
    }
    return Opened(
        title=f"The next token with the states of {other.name} after block {layer}",
        code=place.call,
        tables=[next_token_table(model, conditions)],
    )


def _theirs(logits: Tensor, count: int) -> np.ndarray:
    """Probabilities of the other model for this many tokens; NaN for those that it lacks."""
    found = np.full(count, np.nan, np.float32)
    known = logits.softmax(-1).cpu().numpy()[:count]
    found[: len(known)] = known
    return found
