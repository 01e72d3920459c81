"""What a cell of ``clamp`` opens: the next token as it is, and with the neuron held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.neurons.places import neuron_places
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change
from layerlens.run.edits import edit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_clamped(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    neuron: Any,
    positions: Any,
    **_: Any,
) -> Opened:
    """Run the text once more with the neuron held at the value of the cell."""
    value = float(place.need("value"))
    places = {f"{layer}.{index}": (layer, index) for layer, index in neuron_places(model, neuron)}
    layer, index = places[place.labels.get("neuron", next(iter(places)))]
    base = record_base(model, row_of(tokens, 0))
    job.tick()
    where = tuple(model.positions(base.tokens, positions))
    held = Change(Site("mlp_post", layer), "set", value, where, neurons=(index,))
    conditions = {
        "as it is": chances(model, base.final),
        "clamped": chances_with(model, base, [held]),
    }
    edits = [edit(f"mlp_post.{layer}", "set", value, position=positions, neuron=index)]
    return Opened(
        title=f"The next token with neuron {index} of layer {layer} held at {value:g}",
        code=place.run_with(edits if place.one_text is not None else []),
        tables=[next_token_table(model, conditions)],
    )
