"""What a cell of ``frequency_tags`` opens: what one neuron does at each word of a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.neurons.frequency_run import TEXTS
from layerlens.analyses.neurons.periodic import Rates, centred, periods
from layerlens.analyses.neurons.rhythm_texts import (
    WAYS,
    Sentence,
    halves,
    joined,
    read_words,
    sentences_of,
)
from layerlens.analyses.neurons.top_texts_cell import activations
from layerlens.errors import InputError
from layerlens.metrics.layer import sites_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RUNS = 3
"""Fewer than the analysis makes: what is shown is a picture, not a test."""
SHOWN = 6
"""Sentences that are written out."""


def open_rhythm(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    words: int,
    runs: int,
    layers: Any,
    seed: int,
    **_: Any,
) -> Opened:
    """Read a neuron again: of a cell of layers, the one with most power at the rate there."""
    parts = halves(sentences_of(tokens, words, model.vocabulary.special), seed)
    rates = Rates(words, words * len(parts[0]))
    faster = place.labels.get("rate") == "faster" or place.array.endswith("_faster")
    layer, neuron = _named(place)
    (site,) = sites_of(model, "mlp_post", layer)
    few = min(RUNS, runs)
    means: list[list[Any]] = []
    shares: list[list[Any]] = []
    for way, name in zip(WAYS, TEXTS, strict=True):
        read = read_words(job, model, parts, [site], way, few, seed).sums[site] / few
        found = torch.stack([rates.shares(centred(half)) for half in read]).mean(0)
        if neuron is None:
            neuron = int((found[1:].sum(0) if faster else found[0]).argmax())
        means.append([name, *_by_place(read[..., neuron], words)])
        shares.append([name, *found[:, neuron].tolist()])
    first = [word for sentence in parts[0][:SHOWN] for word in sentence]
    return Opened(
        title=f"Neuron {neuron} of layer {layer}: its rhythm",
        code=f"ll.record(model, {joined([first])!r}, 'mlp_post')"
        f"['mlp_post.{layer}'][0, :, {neuron}]",
        tables=[
            Table(["", *[f"word {i + 1}" for i in range(words)]], means, "Mean activation"),
            Table(
                ["", *[f"every {period:g} words" for period in periods(words)]],
                shares,
                "Share of variance",
            ),
        ],
        texts=[_marked(job, model, first, layer, neuron or 0)],
    )


def _named(place: Place) -> tuple[int, int | None]:
    """The layer of a cell and its neuron; None for the layer's best."""
    if "rank" not in place.labels:
        return int(place.need("layer")), None
    layer, neuron = (place.companions.get(name) for name in ("neuron_layer", "neuron"))
    if layer is None or neuron is None or layer < 0:
        raise InputError("No neuron has this rank yet.")
    return int(layer), int(neuron)


def _by_place(signal: Tensor, words: int) -> list[float]:
    """Means ``[half, word]`` at each place of a sentence."""
    found: list[float] = signal.unflatten(1, (-1, words)).mean((0, 1)).tolist()
    return found


def _marked(
    job: Job, model: LensModel, words: Sentence, layer: int, neuron: int
) -> list[tuple[str, float]]:
    """A text whose tokens are marked by the neuron's magnitude."""
    text = job.tokens(joined([words]))
    size = activations(model, text, layer, neuron).abs()
    marks = (size / size.max().clamp_min(1e-12)).tolist()
    return list(zip(text.strings[0], marks, strict=True))
