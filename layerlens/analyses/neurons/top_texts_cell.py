"""What a cell of ``top_texts`` opens: the text, each token marked by its activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.model.sites import Site
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
    """Run the text of a place once more and read the neuron at every token of it."""
    neuron, row = int(place.need("neuron")), place.companions.get("text", -1)
    if neuron not in wholes(neurons, "neurons", least=0) or row < 0:
        raise InputError("There is no text of this rank: fewer texts have a token that counts.")
    (number,) = model.layers(layer)
    text = row_of(tokens, int(row))
    job.tick()
    values = _activations(model, text, number, neuron)
    strings = text.strings[0]
    size = -values if side == "smallest" else np.abs(values) if side == "magnitude" else values
    marks = np.clip(size / max(float(size.max()), 1e-12), 0, 1)
    order = np.argsort(-size, kind="stable")[:ROWS].tolist()
    rows = [[position, strings[position], float(values[position])] for position in order]
    return Opened(
        title=f"Neuron {neuron} of layer {number} in text {int(row)}",
        code=f"ll.record(model, {text.ids[0].tolist()}, 'mlp_post')"
        f"['mlp_post.{number}'][0, :, {neuron}]",
        tables=[Table(["position", "token", "activation"], rows)],
        texts=[list(zip(strings, marks.tolist(), strict=True))],
    )


def _activations(model: LensModel, text: Tokens, layer: int, neuron: int) -> np.ndarray:
    held: list[Tensor] = []
    site = Site("mlp_post", layer)
    forward(model, text, [site], lambda _, value: held.append(value[0, :, neuron]), logits=None)
    found: np.ndarray = held[0].float().cpu().numpy()
    return found
