"""What a place that excites a neuron opens: the text, each token marked by its activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

ROWS = 8
"""Tokens that are listed, the strongest first."""


def open_text(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    layer: int,
    neurons: int | Sequence[int],
    side: str,
    **_: Any,
) -> Opened:
    """Read the text of a place of ``top_texts``."""
    neuron = int(place.need("neuron"))
    if neuron not in wholes(neurons, "neurons", least=0):
        raise InputError(f"Neuron {neuron} was not asked for.")
    return _opened(job, model, tokens, place, (layer, neuron), side)


def open_place(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    layer: int,
    number: int,
    side: str,
    **_: Any,
) -> Opened:
    """Read the text of a place of ``neuron``."""
    place.need("rank")
    return _opened(job, model, tokens, place, (layer, number), side)


def _opened(
    job: Job, model: LensModel, tokens: Tokens, place: Place, which: tuple[int, int], side: str
) -> Opened:
    """Run the text once more, read the neuron at every token, and run it without at the place."""
    row, at = (int(place.companions.get(name, -1)) for name in ("text", "position"))
    if row < 0:
        raise InputError("There is no text of this rank: fewer texts have a token that counts.")
    [layer], neuron = model.layers(which[0]), which[1]
    text = row_of(tokens, row)
    job.tick()
    values = _activations(model, text, layer, neuron)
    strings = text.strings[0]
    size = -values if side == "smallest" else np.abs(values) if side == "magnitude" else values
    marks = np.clip(size / max(float(size.max()), 1e-12), 0, 1)
    order = np.argsort(-size, kind="stable")[:ROWS].tolist()
    rows = [[position, strings[position], float(values[position])] for position in order]
    tables = [Table(["position", "token", "activation"], rows)]
    if model.anatomy.head is not None:
        tables.append(_without(model, text, layer, neuron, at))
    return Opened(
        title=f"Neuron {neuron} of layer {layer} in text {row}",
        code=f"ll.record(model, {text.ids[0].tolist()}, 'mlp_post')"
        f"['mlp_post.{layer}'][0, :, {neuron}]",
        tables=tables,
        texts=[list(zip(strings, marks.tolist(), strict=True))],
    )


def _without(model: LensModel, text: Tokens, layer: int, neuron: int, at: int) -> Table:
    """The next token at a place, as it is and with the neuron set to 0 there."""
    base = record_base(model, text, asked=at)
    off = Change(Site("mlp_post", layer), "set", 0.0, (at,), neurons=(neuron,))
    conditions = {
        "as it is": chances(model, base.final),
        "without": chances_with(model, base, [off]),
    }
    return next_token_table(model, conditions)


def _activations(model: LensModel, text: Tokens, layer: int, neuron: int) -> np.ndarray:
    held: list[Tensor] = []
    site = Site("mlp_post", layer)
    forward(model, text, [site], lambda _, value: held.append(value[0, :, neuron]), logits=None)
    found: np.ndarray = held[0].float().cpu().numpy()
    return found
