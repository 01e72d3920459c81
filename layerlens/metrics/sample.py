"""A random sample of tokens or of texts with their states at every depth, of bounded size.

The sample does not depend on how texts are spread over passes or workers: those with the smallest
keys are kept (a bottom-k sketch; see `Batch.keys`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer

UNITS = ("token", "text")

_LEADERS: WeakKeyDictionary[Batch, dict[tuple[str, int, bytes], Sample]] = WeakKeyDictionary()
"""In each pass, of samples that are the same one takes the states and the others share them."""


class Sample(LayerMetric):
    """A metric of a sample of tokens, or of the mean states of a sample of texts.

    Parameters
    ----------
    sample
        How many at most.
    unit
        ``token``, or ``text`` for the mean over the counted tokens of each text; None for what
        the class says.

    Attributes
    ----------
    unit, fewest
        What is sampled, and below how many there is no value.
    arrays
        ``keys`` [n] uint64 ascending, ``text`` and ``id`` [n] int64 (number of the text, token
        id or -1), ``states`` [n, point, d_model] float32.
    """

    parts = ("pre", "post")
    cost = "1 pass for all metrics, then work that grows with the sample and not with the corpus"
    unit = "token"
    fewest = 4

    def __init__(
        self, shape: ModelShape, *, sample: int, unit: str | None = None, **options: Any
    ) -> None:
        if unit is not None and unit not in UNITS:
            raise InputError(f"unit is {unit!r}; expected one of {', '.join(UNITS)}.")
        if not (isinstance(sample, int) and sample >= self.fewest):
            raise InputError(f"sample is {sample}; expected a whole number from {self.fewest}.")
        chosen = {} if unit is None else {"unit": unit}
        super().__init__(shape, sample=sample, **chosen, **options)
        self.limit, self.unit = sample, unit or self.unit
        self.zeros("keys", 0, dtype="uint64")
        self.zeros("text", 0, dtype="int64")
        self.zeros("id", 0, dtype="int64")
        self.zeros("states", 0, shape.sizes["point"], shape.d_model, dtype="float32")
        self._answer: tuple[np.ndarray, Arrays] | None = None

    @abstractmethod
    def compute(self, states: Tensor) -> Arrays:
        """All outputs, from states ``[n, point, d_model]`` float32 in the order of their keys."""

    def start(self, batch: Batch) -> None:
        """Find which of this pass belong into the sample."""
        leaders = _LEADERS.setdefault(batch, {})
        same = (self.unit, self.limit, self.arrays["keys"].tobytes())
        self._leader = leaders.setdefault(same, self)
        self._new = _candidates(batch, self.unit)
        both = np.concatenate([self.arrays["keys"], self._new["keys"]])
        self._order = np.argsort(both, kind="stable")[: self.limit]
        known = len(self.arrays["keys"])
        self._index = np.sort(self._order[self._order >= known]) - known
        size = (len(self._index), *self.arrays["states"].shape[1:])
        self._states = np.empty(size if self._leader is self else (0,), dtype=np.float32)

    def update(self, layer: Layer) -> None:
        """Take the states of these after a layer, and before the first one those there too."""
        if self._leader is not self or not len(self._index):
            return
        if layer.number == 0:
            self._states[:, 0] = self._taken(layer, "pre")
        self._states[:, layer.number + 1] = self._taken(layer, "post")

    def _taken(self, layer: Layer, part: str) -> np.ndarray:
        rows, kept = layer.rows(part), layer.batch.kept
        if self.unit == "text":
            real = kept.counts > 0
            sums = kept.by_text(rows.to("cpu", torch.float64))
            rows = sums[real] / kept.counts[real, None]
        taken = rows.index_select(0, torch.from_numpy(self._index).to(rows.device))
        return taken.to("cpu", torch.float32).numpy()

    def end(self, batch: Batch) -> None:
        """Put the new ones where their keys belong, and let go of those that fall out."""
        if self._leader is not self:
            self.arrays = dict(self._leader.arrays)
        elif len(self._index):
            new = {name: array[self._index] for name, array in self._new.items()}
            self._put({**new, "states": self._states})
        del self._leader, self._new, self._order, self._index, self._states

    def _put(self, new: Mapping[str, np.ndarray]) -> None:
        both = {name: np.concatenate([mine, new[name]]) for name, mine in self.arrays.items()}
        order = np.argsort(both["keys"], kind="stable")[: self.limit]
        self.arrays = {name: array[order] for name, array in both.items()}

    def merge(self, other: Self) -> None:
        """Keep the smallest keys of both."""
        super().merge(other)
        self._put({name: array[:0] for name, array in self.arrays.items()})

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """One after the other; :meth:`merge` chooses."""
        return np.concatenate([mine, theirs])

    def fits(self, name: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether a stored array is one of a sample of this size."""
        array = arrays[name]
        alike = array.shape[1:] == self.arrays[name].shape[1:]
        return alike and len(array) == len(arrays["keys"]) <= self.limit

    def value(self, intervals: bool = True) -> Arrays:
        """What the sample says; computed anew only with ``intervals``, as it takes time."""
        keys = self.arrays["keys"]
        if intervals and len(keys) >= self.fewest:
            if self._answer is None or self._answer[0] is not keys:
                self._answer = keys, self.compute(torch.from_numpy(self.arrays["states"]))
            return dict(self._answer[1])
        return dict(self._answer[1]) if self._answer and not intervals else self.blank()

    def blank(self) -> Arrays:
        """NaN, or what stands for a missing integer, in every output."""
        sizes = {**self.shape.sizes, **self.sizes()}
        return {
            name: np.full(
                [sizes[axis] for axis in output.axes],
                output.missing if output.dtype.startswith("int") else np.nan,
                output.dtype,
            )
            for name, output in self.outputs.items()
        }


def _candidates(batch: Batch, unit: str) -> Arrays:
    """Key, number of the text and token id of what a pass offers; a text has its first key."""
    kept, keys = batch.kept, batch.keys
    text = batch.numbers[kept.text.numpy()]
    if unit == "token":
        return {"keys": keys, "text": text, "id": kept.ids.numpy().astype(np.int64)}
    first = np.array([span.start for _, span in kept.rows()], dtype=np.int64)
    return {"keys": keys[first], "text": text[first], "id": np.full(len(first), -1)}
