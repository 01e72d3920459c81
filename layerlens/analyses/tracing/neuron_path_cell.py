"""What a cell of ``neuron_path`` opens: the next token as the path is taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_names import row_named
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change
from layerlens.run.edits import edit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_neuron_path(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    layers: Any,
    positions: Any,
    others: Any,
    **_: Any,
) -> Opened:
    """Run a text again with the neurons of a path at 0, up to the layer of the cell.

    A cell of one text opens that one and has the whole path, any other opens the first.
    """
    last = int(place.labels.get("layer", model.n_layers - 1))
    name = str(place.labels.get("path", "chosen"))
    rows = ("chosen", "own gradient x activation", "largest activation")
    if name not in rows:
        raise InputError("Random paths are many: open a cell of one of the other paths.")
    usable = [x for x in sorted(model.layers(layers)) if "mlp_post" in model.anatomy.blocks[x].taps]
    numbers = np.asarray(place.answer["neuron"])[rows.index(name)]
    path = [(x, int(n)) for x, n in zip(usable, numbers, strict=True) if x <= last and n >= 0]
    elsewhere = "other_text" in place.labels
    row = row_named(str(place.labels.get("other_text" if elsewhere else "text", "0")))
    text = row_of(job.tokens(others, like=tokens) if elsewhere else tokens, row)
    base = record_base(model, text)
    job.tick()
    where = (base.at,) if positions is None else tuple(model.positions(base.tokens, positions))
    removed = [Change(Site("mlp_post", x), "set", 0.0, where, neurons=(n,)) for x, n in path]
    conditions = {
        "as it is": chances(model, base.final),
        "last neuron at 0": chances_with(model, base, removed[-1:]),
        "path at 0": chances_with(model, base, removed),
    }
    edits = [edit(f"mlp_post.{x}", "set", 0.0, position=list(where), neuron=n) for x, n in path]
    return Opened(
        title=f"The next token without the {name} path up to layer {last}",
        code=place.call if text.chat else _written(place, text).run_with(edits),
        tables=[next_token_table(model, conditions)],
        texts=[[(token, float(at in where)) for at, token in enumerate(text.strings[0])]],
    )


def _written(place: Place, text: Tokens) -> Place:
    """The place with one text in the stead of several, so that it can be run by itself."""
    return replace(place, given={"text": text.texts[0] or text.ids[0].tolist()})
