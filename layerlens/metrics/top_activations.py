"""The texts, and the tokens in them, at which chosen neurons are most active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register
from layerlens.model.integers import is_whole, wholes

SIDES = ("largest", "smallest", "magnitude")
_AXES = ("neuron", "top_activations_rank")
_PLACE = ("text", "position", "token")


@register
class TopActivations(LayerMetric):
    """The largest activations of chosen neurons over all texts, and where they were.

    Parameters
    ----------
    layer
        Of the neurons, from 0.
    neurons
        Their numbers.
    k
        How many activations of each.
    side
        The ``"largest"``, the ``"smallest"`` (gated neurons and GELU go below zero), or those of
        the largest ``"magnitude"``.
    per_text
        Only the first place of each text.
    """

    name = "top_activations"
    question = "At which texts and tokens are chosen neurons most active?"
    formula = "the k largest a_j over all tokens (per_text: over the largest of each text)"
    units = "activation"
    axes = _AXES
    source = (
        "Geva et al. (2021), Transformer Feed-Forward Layers Are Key-Value Memories, arXiv "
        "2012.14913"
    )
    parts = ("mlp_post",)
    outputs: ClassVar[Mapping[str, Output]] = {
        "top_activations": Output(_AXES, units, "activation", interval=False),
        "top_activations_text": Output(
            _AXES, "1", "number of its text", dtype="int32", interval=False
        ),
        "top_activations_position": Output(
            _AXES, "1", "its position in the text", dtype="int32", interval=False
        ),
        "top_activations_token": Output(
            _AXES, "1", "its token", dtype="int32", interval=False, is_token=True
        ),
    }

    def __init__(
        self,
        shape: ModelShape,
        *,
        layer: int = 0,
        neurons: Sequence[int] = (0,),
        k: int = 10,
        side: str = "largest",
        per_text: bool = True,
    ) -> None:
        if not is_whole(layer) or not 0 <= layer < shape.n_layers:
            raise InputError(f"layer is {layer}; expected 0 to {shape.n_layers - 1}.")
        chosen = wholes(neurons, "neurons", least=0)
        if isinstance(neurons, Sequence) and len(chosen) < len(neurons):
            raise InputError(
                f"neurons is {neurons}; name each once, for each has a row of its own."
            )
        if not is_whole(k) or k < 1:
            raise InputError(f"k is {k}; expected a positive number.")
        if side not in SIDES:
            raise InputError(f"side is {side!r}; expected one of {', '.join(SIDES)}.")
        super().__init__(
            shape, layer=layer, neurons=chosen, k=k, side=side, per_text=bool(per_text)
        )
        self.zeros("value", len(chosen), k, fill=np.nan)
        for name in _PLACE:
            self.zeros(name, len(chosen), k, dtype="int64", fill=-1)

    def sizes(self) -> dict[str, int]:
        """Neurons and ranks."""
        return {"neuron": len(self.options["neurons"]), _AXES[1]: self.options["k"]}

    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Numbers of the neurons, and ranks from 1."""
        return {
            "neuron": (("neuron",), np.array(self.options["neurons"], dtype=np.int32)),
            _AXES[1]: ((_AXES[1],), np.arange(1, self.options["k"] + 1, dtype=np.int32)),
        }

    def update(self, layer: Layer) -> None:
        """Look at the neurons when their layer comes."""
        if layer.number != self.options["layer"]:
            return
        if not layer.has(*self.parts):
            raise InputError(f"Layer {layer.number} has no neurons that could be watched.")
        activation = layer.rows("mlp_post")
        if max(self.options["neurons"]) >= activation.shape[1]:
            raise InputError(
                f"Neuron {max(self.options['neurons'])} does not exist: layer {layer.number} has "
                f"0 to {activation.shape[1] - 1}."
            )
        values = activation[:, self.options["neurons"]].T.cpu().double()
        rows = [values[:, :0]], [values[:, :0].long()]
        spans = layer.batch.kept.rows() if self.options["per_text"] else [(0, slice(None))]
        most = 1 if self.options["per_text"] else self.options["k"]
        for _, span in spans:
            score = self._score(values[:, span])
            # A stable sort: of equal ones the earlier.
            best = score.sort(stable=True, dim=-1, descending=True).indices[:, :most]
            rows[0].append(values[:, span].gather(1, best))
            rows[1].append(best + (span.start or 0))
        self._enter(self._placed(torch.cat(rows[0], 1), torch.cat(rows[1], 1), layer.batch))

    def _score(self, values: torch.Tensor) -> torch.Tensor:
        """What is largest for the best."""
        side = self.options["side"]
        return values.abs() if side == "magnitude" else values if side == "largest" else -values

    def _placed(self, values: torch.Tensor, rows: torch.Tensor, batch: Batch) -> Arrays:
        """Activations [neuron, n] and where they are, of rows of the tokens that count."""
        return {
            "value": values.numpy(),
            "text": batch.numbers[batch.kept.text[rows].numpy()],
            "position": batch.kept.position[rows].numpy(),
            "token": batch.kept.ids[rows].numpy(),
        }

    def _enter(self, theirs: Mapping[str, np.ndarray]) -> None:
        """Keep the best of what there is and of others; of equal ones the earlier."""
        both = {name: np.concatenate([self.arrays[name], theirs[name]], 1) for name in self.arrays}
        score = self._score(torch.from_numpy(both["value"])).numpy()
        # NaN, where there is nothing, comes last.
        order = np.lexsort((both["position"], both["text"], -score), axis=-1)
        for name, array in both.items():
            best = np.take_along_axis(array, order[:, : self.options["k"]], 1)
            self.arrays[name] = np.ascontiguousarray(best)

    def merge(self, other: TopActivations) -> None:
        """Keep the best of both."""
        super().merge(other)
        self._enter(other.arrays)

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Leave each as it is; :meth:`merge` chooses."""
        return mine

    def value(self, intervals: bool = True) -> Arrays:
        """The activations, best first, and where they were."""
        places = {f"{self.name}_{name}": self.arrays[name].astype(np.int32) for name in _PLACE}
        return {self.name: self.arrays["value"].copy(), **places}
