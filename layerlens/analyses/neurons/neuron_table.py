"""The tokens of neurons, layer by layer, and the neurons that have a token most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable
from layerlens.analyses.neurons.neuron_directions import (
    TokenScores,
    neuron_rows,
    through_norms,
    token_rows,
)
from layerlens.errors import InputError
from layerlens.metrics.projections import projections

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SIDES = ("largest", "smallest")
RANDOM = 64
"""Random directions of each layer, beside its neurons."""
_CELL = ("layer", "neuron")
_ENDS = (*_CELL, "side", "k")
_FOUND = ("tracked", "rank")
VARIABLES = {
    "prominence": Variable(
        _CELL,
        "float32",
        "sd",
        "how far the neuron's first token stands out of its vocabulary",
        formula="(max_t s_t - mean_t s_t) / sd_t s_t",
    ),
    "median_prominence": Variable(("layer",), "float32", "sd", "median over the layer's neurons"),
    "random_median_prominence": Variable(
        ("layer",), "float32", "sd", "median over random directions, as long as the neurons"
    ),
    "token": Variable(_ENDS, "int32", "1", "tokens at either end", is_token=True),
    "score": Variable(_ENDS, "float32", "1", "of the tokens at either end", signed=True),
    "tracked_score": Variable(
        (*_CELL, "tracked"), "float32", "1", "of the tracked token", signed=True
    ),
    "found_layer": Variable(_FOUND, "int32", "1", "layer of the neuron that has the token most"),
    "found_neuron": Variable(_FOUND, "int32", "1", "number of the neuron that has the token most"),
    "found_score": Variable(
        _FOUND, "float32", "1", "of the token, in the neurons that have it most", signed=True
    ),
    "random_found_score": Variable(
        _FOUND, "float32", "1", "of the token, among as many random directions", signed=True
    ),
}


def width_of(model: LensModel, layer: int) -> int:
    """Number of neurons of a layer; 0 where it has none of its own."""
    parts = {part.name: part for part in projections(model, layer)}
    return int(parts["down"].matrices[0].weight.shape[1]) if "down" in parts else 0


class NeuronTable:
    """What is kept of the layers that were read."""

    def __init__(
        self, job: Job, model: LensModel, layers: Sequence[int], k: int, tracked: list[int]
    ) -> None:
        self.job, self.model, self.layers, self.k, self.tracked = job, model, layers, k, tracked
        self.width = max(width_of(model, layer) for layer in layers)
        if not self.width:
            raise InputError(
                f"No neurons in layers {list(layers)} of {model.name}: their MLPs are made of "
                "experts, or there are none."
            )
        self.weight = token_rows(model)
        self.error = 0.0
        self._found: list[tuple[Tensor, int]] = []
        self._random: list[Tensor] = []
        self._last: TokenScores | None = None
        self._declare()

    def _declare(self) -> None:
        names = [self.model.token_string(token) for token in self.tracked]
        ranks = np.arange(1, self.k + 1, dtype=np.int32)
        self.job.declare(
            {
                "layer": len(self.layers),
                "neuron": self.width,
                "side": 2,
                "k": self.k,
                "tracked": len(names),
                "rank": self.k,
            },
            {
                "layer": (("layer",), np.array(self.layers, dtype=np.int32)),
                "neuron": (("neuron",), np.arange(self.width, dtype=np.int32)),
                "side": (("side",), np.array(SIDES)),
                "k": (("k",), ranks),
                "tracked": (("tracked",), np.array(names, dtype=str)),
                "rank": (("rank",), ranks),
            },
            [
                name
                for name, variable in VARIABLES.items()
                if self.tracked or "tracked" not in variable.dims
            ],
        )

    def read(
        self,
        number: int,
        layer: int,
        direction: str,
        norm: str,
        rank: str,
        generator: torch.Generator,
    ) -> None:
        """Decode the neurons of one layer, and as many random directions for the tracked."""
        rows = neuron_rows(self.model, layer, direction)
        drawn = torch.randn(rows.shape, generator=generator).to(rows)
        drawn *= rows.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        if norm == "gamma":
            rows, drawn = (through_norms(self.model, layer, direction, x) for x in (rows, drawn))
        decoder = self._decoder(rank, rows)
        tokens, scores = decoder.ends(rows, self.k, self.job.tick)
        control = drawn[:RANDOM]
        standing = prominence(decoder, rows, scores)
        by_chance = prominence(decoder, control, decoder.ends(control, 1, self.job.tick)[1])
        self.error = max(self.error, _off(decoder, rows, scores))
        arrays = {
            "prominence": self._padded(standing, "prominence"),
            "token": self._padded(tokens.int(), "token"),
            "score": self._padded(scores, "score"),
            "median_prominence": standing.median().numpy(),
            "random_median_prominence": by_chance.median().numpy(),
        }
        if self.tracked:
            theirs = decoder.of(rows, self.tracked).cpu()
            arrays["tracked_score"] = self._padded(theirs, "tracked_score")
            self._found.append((theirs, layer))
            self._random.append(decoder.of(drawn, self.tracked).cpu())
        self.job.emit({"layer": number}, arrays)
        if self.tracked:
            self._show_found()

    def _decoder(self, rank: str, rows: Tensor) -> TokenScores:
        """One for all layers, but for scores that are measured over the layer's own neurons."""
        if rank == "zscore" or self._last is None:
            self._last = TokenScores(self.weight, rank, rows)
        return self._last

    def _padded(self, values: Tensor, name: str) -> np.ndarray:
        """An array over all neurons, missing where the layer has fewer."""
        array = values.cpu().numpy()
        out = np.full((self.width, *array.shape[1:]), self.job.missing(name), dtype=array.dtype)
        out[: len(array)] = array
        return out

    def _show_found(self) -> None:
        """The neurons that have each tracked token most, of the layers read so far."""
        scores = torch.cat([theirs for theirs, _ in self._found])
        places = [(layer, i) for theirs, layer in self._found for i in range(len(theirs))]
        most = min(self.k, len(scores))
        best = scores.topk(most, dim=0)
        where = np.array(places, dtype=np.int32)[best.indices.T.numpy()]
        found = {
            "found_layer": where[..., 0],
            "found_neuron": where[..., 1],
            "found_score": best.values.T.numpy(),
            "random_found_score": torch.cat(self._random).topk(most, dim=0).values.T.numpy(),
        }
        self.job.emit({"rank": slice(0, most)}, found)

    def check(self) -> None:
        """Compare with a full search in float64."""
        self.job.check(
            "largest scores", self.error, 1e-4, "of some neurons of each layer, in float64, over sd"
        )


def prominence(decoder: TokenScores, rows: Tensor, scores: Tensor) -> Tensor:
    """How far the first token of each direction lies above the mean of its scores, in their sd."""
    mean, spread = (x.cpu() for x in decoder.over_tokens(rows))
    return (scores[:, 0, 0] - mean) / spread


def _off(decoder: TokenScores, rows: Tensor, scores: Tensor) -> float:
    """Largest difference to scores by a plain sort in float64, for two neurons of a layer."""
    bias = 0 if decoder.bias is None else decoder.bias.double()
    off = 0.0
    for i in {0, len(rows) - 1}:
        row = decoder.taken(rows[i : i + 1])[0].double()
        exact = torch.cat([part.double() @ row for part in decoder.weight.split(4096)]) + bias
        ordered = exact.sort(descending=True).values.cpu()
        k = scores.shape[2]
        ends = torch.stack([ordered[:k], ordered.flip(0)[:k]])
        off = max(off, float((ends - scores[i]).abs().max() / exact.std().clamp_min(1e-12).cpu()))
    return off
