"""What a cell of ``residual_erasure`` opens: the next token with the state and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.answers.output_distance import distances
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.depth.erased_rows import answer_places
from layerlens.analyses.depth.erased_states import Means, instead, put
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_erased(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    reference: Any,
    answers: Any,
    skip_first: bool | int,
    seed: int,
    **_: Any,
) -> Opened:
    """Run the text with the state moved as far at random, and erased.

    Of several answers, the prediction that is shown is the one that moves most.
    """
    layer, at = int(place.need("layer")), int(place.need("position"))
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    mean = Means(job, model, texts, reference, int(skip_first)).of(0)[layer]
    base = record_base(model, texts[0])
    job.tick()
    state = base.state(layer)[at]
    random = torch.Generator().manual_seed(seed)
    moved, erased = (put(layer, at, instead(state, mean, r)) for r in (random, None))
    if answers is not None:
        places = answer_places(model, tokens, answers)[0]
        base = record_base(model, texts[0], asked=_moves_most(job, model, base, erased, places))
    conditions = {
        "as it is": chances(model, base.final),
        "moved at random": chances_with(model, base, [moved]),
        "erased": chances_with(model, base, [erased]),
    }
    strings = texts[0].strings[0]
    title = (
        f"The token after {strings[base.at]!r} with the state of {strings[at]!r} before layer "
        f"{layer} erased"
    )
    return Opened(title, place.call, [next_token_table(model, conditions)])


def _moves_most(job: Job, model: LensModel, base: Base, erased: Change, places: list[int]) -> int:
    last = Site("resid_post", model.n_layers - 1)
    finals: list[torch.Tensor] = []
    forward(
        model,
        base.tokens,
        [last],
        lambda _, value: finals.append(value.clone()),
        logits=None,
        changes=[erased],
    )
    off = distances(model, base.last, finals[0], places, job.tick)
    return places[int(off[0].argmax())]
