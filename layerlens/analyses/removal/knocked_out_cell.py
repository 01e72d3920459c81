"""What a cell of ``knockout`` opens: the next token with attention as it is, and blocked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.removal.blocked_keys import (
    BLIND,
    attending_layers,
    blind,
    blocked,
    looks,
    plan_of,
)
from layerlens.analyses.sweeps.layer_windows import window_layers
from layerlens.analyses.texts.subjects import each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.run.base import record_base
from layerlens.run.changes import Change
from layerlens.run.edits import Edit, edit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_knocked_out(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    sources: Any,
    subject: Any,
    query: Any,
    window: int,
    **_: Any,
) -> Opened:
    """Run the text once more with the group blocked in the layers of the cell's window."""
    name, layer = str(place.need("source")), int(place.need("layer"))
    text = row_of(tokens, 0)
    named, spans = (
        each(value, 1, tokens.single, option)[0]
        for value, option in ((sources, "sources"), (subject, "subject"))
    )
    plan = plan_of(model, text, query, named, spans)
    if name not in plan.groups:
        raise InputError(f"This text has no source {name!r}: its cells are empty.")
    attending = attending_layers(model)
    layers = [one for one in window_layers(layer, window, model.n_layers) if one in attending]
    if blind(looks(model, text, plan.query, layers), plan, name, layers):
        raise InputError(BLIND.format(name=name))
    base = record_base(model, text)
    job.tick()
    changes = blocked(plan, name, layers)
    conditions = {
        "as it is": chances(model, base.final),
        "blocked": chances_with(model, base, changes),
    }
    asking = text.strings[0][plan.query]
    return Opened(
        title=f"The next token where {asking!r} may not look at {name!r}, around layer {layer}",
        code=place.run_with(_edits(changes) if place.one_text is not None else []),
        tables=[next_token_table(model, conditions)],
    )


def _edits(changes: list[Change]) -> list[Edit]:
    """The same, as one edit; none where nothing is blocked."""
    if not changes:
        return []
    layers = [change.site.block for change in changes]
    (query,), keys = changes[0].positions or (), changes[0].keys or ()
    return [edit("attn_scores", "block", layer=layers, position=query, key=list(keys))]
