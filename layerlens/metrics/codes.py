"""Neural codes: which neurons of an MLP are open, taken as a word of bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register

_ONE = ("layer",)


@register
class NeuralCodes(LayerMetric):
    """How far the codes of different tokens are apart, and whether any two are the same.

    The code of a token at a layer has a bit for each neuron: whether what goes into its
    activation function is above zero. Codes of a random sample of tokens are kept.

    Parameters
    ----------
    sample
        How many codes are kept.
    token
        ``"each"`` counted token is an example, or the ``"last"`` one of each text.
    """

    name = "neural_codes"
    question = "Do different tokens have different codes of open neurons, and how far apart?"
    formula = (
        "bit_j = 1[pre_j > 0]; (codes - different codes) / codes; distance: mean Hamming distance "
        "of two codes over the number of neurons; constant: share of bits that never change; "
        "model: the first of all layers' codes together"
    )
    units = "1"
    axes = _ONE
    source = (
        "He et al. (2021), Neural networks behave as hash encoders: An empirical study, arXiv "
        "2101.05490"
    )
    parts = ("mlp_pre",)
    outputs: ClassVar[Mapping[str, Output]] = {
        "neural_codes": Output(
            _ONE, units, "redundancy: share of codes that are repeated", interval=False
        ),
        "neural_codes_distance": Output(
            _ONE, units, "mean Hamming distance of two codes", interval=False
        ),
        "neural_codes_constant": Output(
            _ONE, units, "share of neurons open always or never", interval=False
        ),
        "neural_codes_model": Output(
            (), units, "redundancy of the codes of all layers together", interval=False
        ),
        "neural_codes_sample": Output((), units, "codes kept", interval=False),
    }

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 512,
        token: Literal["each", "last"] = "each",
    ) -> None:
        if isinstance(sample, bool) or sample < 2:
            raise InputError(f"sample is {sample}; expected a number from 2.")
        if token not in ("each", "last"):
            raise InputError(f"token is 'each' or 'last', not {token!r}.")
        super().__init__(shape, sample=sample, token=token)
        self.zeros("keys", 0, dtype="uint64")
        self.zeros("codes", 0, shape.n_layers, 0, dtype="uint8")
        self.zeros("width", shape.n_layers, dtype="int64")
        self._chosen = np.zeros(0, dtype=np.int64)
        self._codes: dict[int, np.ndarray] = {}
        self._value: Arrays = {}

    def start(self, batch: Batch) -> None:
        """Choose the tokens of this batch that may belong to the sample."""
        keys = batch.keys
        if self.options["token"] == "last":
            places = np.array([span.stop - 1 for _, span in batch.kept.rows()], dtype=np.int64)
        else:
            places = np.arange(len(keys))
        kept = self.arrays["keys"]
        if len(kept) == self.options["sample"]:
            places = places[keys[places] < kept[-1]]
        self._chosen = places[np.argsort(keys[places], kind="stable")][: self.options["sample"]]
        self._codes = {}

    def update(self, layer: Layer) -> None:
        """Take the codes of the chosen tokens."""
        if not layer.has(*self.parts) or not len(self._chosen):
            return
        is_open = (layer.rows("mlp_pre")[self._chosen.tolist()] > 0).cpu().numpy()
        self._codes[layer.number] = np.packbits(is_open, axis=-1)
        self.arrays["width"][layer.number] = is_open.shape[-1]

    def end(self, batch: Batch) -> None:
        """Enter them into the sample."""
        if self._codes:
            longest = max(code.shape[1] for code in self._codes.values())
            codes = np.zeros((len(self._chosen), self.shape.n_layers, longest), dtype=np.uint8)
            for number, code in self._codes.items():
                codes[:, number, : code.shape[1]] = code
            self._enter(batch.keys[self._chosen], codes)
        self._codes, self._chosen = {}, self._chosen[:0]

    def _enter(self, keys: np.ndarray, codes: np.ndarray) -> None:
        """Keep the codes with the smallest keys, of those here and of others."""
        longest = max(codes.shape[2], self.arrays["codes"].shape[2])
        both = [
            np.pad(part, ((0, 0), (0, 0), (0, longest - part.shape[2])))
            for part in (self.arrays["codes"], codes)
        ]
        keys = np.concatenate([self.arrays["keys"], keys])
        order = np.argsort(keys, kind="stable")[: self.options["sample"]]
        self.arrays["keys"], self.arrays["codes"] = keys[order], np.concatenate(both)[order]

    def merge(self, other: NeuralCodes) -> None:
        """Keep the smallest keys of both."""
        keys, codes = self.arrays["keys"], self.arrays["codes"]
        super().merge(other)
        self.arrays["keys"], self.arrays["codes"] = keys, codes
        self._enter(other.arrays["keys"], other.arrays["codes"])

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """The widths are the same wherever they were seen; samples are merged together."""
        return np.maximum(mine, theirs) if name == "width" else mine

    def fits(self, name: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """The sample grows up to its size."""
        array, kept = arrays[name], len(arrays["keys"])
        if name == "keys":
            return array.ndim == 1 and kept <= self.options["sample"]
        if name == "codes":
            return array.ndim == 3 and array.shape[:2] == (kept, self.shape.n_layers)
        return super().fits(name, arrays)

    def value(self, intervals: bool = True) -> Arrays:
        """What the codes say; counted again only where intervals would be, too."""
        if intervals or not self._value:
            self._value = self._count()
        return dict(self._value)

    def _count(self) -> Arrays:
        codes, n = self.arrays["codes"], len(self.arrays["keys"])
        ends = ("", "_distance", "_constant")
        found = {self.name + end: np.full(self.shape.n_layers, np.nan) for end in ends}
        seen = np.flatnonzero(self.arrays["width"])
        for layer in seen if n else ():
            bits = np.unpackbits(codes[:, layer], axis=-1, count=int(self.arrays["width"][layer]))
            is_open = bits.sum(0, dtype=np.int64)
            found[self.name][layer] = redundancy(codes[:, layer])
            found[f"{self.name}_constant"][layer] = ((is_open == 0) | (is_open == n)).mean()
            if n > 1:
                pairs = is_open * (n - is_open) / (n * (n - 1) / 2)
                found[f"{self.name}_distance"][layer] = pairs.mean()
        every = redundancy(codes.reshape(n, -1)) if n and len(seen) else np.nan
        found[f"{self.name}_model"] = np.asarray(every, dtype=float)
        found[f"{self.name}_sample"] = np.asarray(n, dtype=float)
        return found


def redundancy(codes: np.ndarray) -> float:
    """Share of rows [code, byte] that repeat another one: 0 where all differ."""
    different = {row.tobytes() for row in codes}
    return 1 - len(different) / len(codes)
