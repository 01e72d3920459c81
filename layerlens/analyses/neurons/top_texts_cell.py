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
from layerlens.run.until import read_until

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
    return opened_place(job, model, *_place_in(tokens, place), (layer, neuron), side)


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
    return opened_place(job, model, *_place_in(tokens, place), (layer, number), side)


def _place_in(tokens: Tokens, place: Place) -> tuple[Tokens, int, int]:
    """The text of a place alone, its number, and the position."""
    row, at = (int(place.companions.get(name, -1)) for name in ("text", "position"))
    if row < 0:
        raise InputError("There is no text of this rank: fewer texts have a token that counts.")
    return row_of(tokens, row), row, at


def opened_place(
    job: Job,
    model: LensModel,
    text: Tokens,
    number: int,
    at: int,
    which: tuple[int, int],
    side: str,
) -> Opened:
    """Run a text once more, read a neuron at every token, and run it without at the place.

    Parameters
    ----------
    text, number, at
        The text, its number among all, and the position in it.
    which
        Layer and number of the neuron.
    side
        Which activations are marked, as in ``ll.top_texts``.
    """
    [layer], neuron = model.layers(which[0]), which[1]
    job.tick()
    values = activations(model, text, layer, neuron).numpy()
    strings = text.strings[0]
    size = -values if side == "smallest" else np.abs(values) if side == "magnitude" else values
    marks = np.clip(size / max(float(size.max()), 1e-12), 0, 1)
    order = np.argsort(-size, kind="stable")[:ROWS].tolist()
    rows = [[position, strings[position], float(values[position])] for position in order]
    tables = [Table(["position", "token", "activation"], rows)]
    if model.anatomy.head is not None:
        tables.append(_without(model, text, layer, neuron, at))
    return Opened(
        title=f"Neuron {neuron} of layer {layer} in text {number}",
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


def activations(model: LensModel, text: Tokens, layer: int, neuron: int) -> Tensor:
    """A neuron at every token of one text, ``[position]`` float32 on the CPU."""
    site = Site("mlp_post", layer)
    found = read_until(model, text, [site], lambda _, value: value[0, :, neuron].clone())
    return found[site].float().cpu()
