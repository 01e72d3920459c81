"""The attention of one model over its texts, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.attention.roles import ROLES, Roles, special
from layerlens.analyses.attention.weightings import Weighing, sites_of_weightings
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.evidence import limit
from layerlens.model.sites import Site
from layerlens.result.attention import OTHER
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_BYTES = 5  # of a cell: its number, and whether it is there

_SQUARE = ("layer", "head", "query", "key")
_HEADS = ("layer", "head")
KOBAYASHI = "Kobayashi et al. (2020), Attention Is Not Only a Weight, arXiv 2004.10102"

_OWN = {
    "pattern": Variable(_SQUARE, "float32", "1", "attention weight", formula="a_ij"),
    "value_weighted": Variable(
        _SQUARE, "float32", "1", "attention weight times the length of the value",
        source=KOBAYASHI, formula="a_ij |v_j|",
    ),
    "norm_weighted": Variable(
        _SQUARE, "float32", "1", "length of what the head moves into the stream",
        source=KOBAYASHI, formula="|a_ij v_j W_O|",
    ),
    "scores": Variable(
        _SQUARE, "float32", "1", "attention score before the softmax", formula="-inf where masked"
    ),
    **{
        name: Variable(
            _HEADS, "float64", "1", metric.outputs[name].long_name,
            source=metric.source, formula=metric.formula,
        )
        for name, metric in ROLES.items()
    },
}  # fmt: skip


def _beside(variable: Variable) -> Variable:
    """The same of the second text or model."""
    return Variable(
        tuple(OTHER + axis for axis in variable.dims),
        variable.dtype,
        variable.units,
        f"{variable.long_name}, of the other",
        source=variable.source,
        formula=variable.formula,
    )


VARIABLES = {**_OWN, **{OTHER + name: _beside(variable) for name, variable in _OWN.items()}}


def kept_bytes(
    model: LensModel, layers: Sequence[int], length: int, texts: int, arrays: int
) -> int:
    """Return the bytes of so many arrays of one number for each head, query and key."""
    return _BYTES * arrays * texts * len(layers) * model.n_heads * length * length


class Part:
    """The attention of one model over its texts.

    Parameters
    ----------
    layers
        Numbers of the blocks.
    names
        Weightings.
    prefix
        What the names of its variables, axes and coordinates begin with.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layers: Sequence[int],
        names: Sequence[str],
        prefix: str = "",
    ) -> None:
        self.model, self.tokens, self.layers, self.prefix = model, tokens, layers, prefix
        self._job, self._names = job, names
        self._weighing = Weighing(model, names)
        self._kinds = {layer: sites_of_weightings(model, layer, names) for layer in layers}

    @property
    def steps(self) -> int:
        """Layers of all texts."""
        return len(self.layers) * len(self.tokens.ids)

    @property
    def bytes(self) -> int:
        """Bytes of the arrays that are kept."""
        texts, length = self.tokens.ids.shape
        return kept_bytes(self.model, self.layers, length, texts, len(self._names))

    def sizes(self) -> dict[str, int]:
        """Length of each axis."""
        texts, length = self.tokens.ids.shape
        own = {
            "layer": len(self.layers), "head": self.model.n_heads, "query": length, "key": length,
        }  # fmt: skip
        found = {self.prefix + axis: size for axis, size in own.items()}
        return found if self.tokens.single else {"batch": texts, **found}

    def coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Coordinates: numbers, tokens, and which heads share keys and values."""
        read = Cells(self.model, self.tokens).coords()
        batch = () if self.tokens.single else ("batch",)
        found: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32)),
            "head": (("head",), np.arange(self.model.n_heads, dtype=np.int32)),
            "kv_group": (("head",), self._groups()),
            "query": (("query",), read["position"][1]),
            "key": (("key",), read["position"][1]),
            "special": ((*batch, "key"), self._special()),
            "key_token": ((*batch, "key"), read["token"][1]),
            **{
                name: ((*batch, "query"), read[name][1])
                for name in ("token", "input_id", "continues")
            },
        }
        named = {
            self.prefix + name: (tuple(_prefixed(self.prefix, axis) for axis in dims), values)
            for name, (dims, values) in found.items()
        }
        return named | ({"text": read["text"]} if "text" in read else {})

    def _groups(self) -> np.ndarray:
        block = self.model.anatomy.blocks[self.layers[0]]
        shared = max(1, block.n_heads // max(1, block.n_kv_heads))
        return (np.arange(self.model.n_heads) // shared).astype(np.int32)

    def _special(self) -> np.ndarray:
        texts, length = self.tokens.ids.shape
        found = np.zeros((texts, length), dtype=bool)
        for row in range(texts):
            alone = row_of(self.tokens, row)
            found[row, : alone.ids.shape[1]] = special(self.model, alone)
        return found[0] if self.tokens.single else found

    def run(self, done: int, total: int) -> int:
        """Read every text; return how many layers are finished then, of all parts."""
        for row in range(len(self.tokens.ids)):
            alone = row_of(self.tokens, row)
            where = {} if self.tokens.single else {"batch": row}
            done = self._text(alone, where, done, total)
        return done

    def _text(self, tokens: Tokens, where: Mapping[str, int], done: int, total: int) -> int:
        roles = Roles(self.model, tokens)
        waiting: dict[int, dict[str, Tensor]] = {layer: {} for layer in self.layers}
        finished = done

        def see(site: Site, value: Tensor) -> None:
            nonlocal finished
            layer = site.block
            found = waiting[layer]
            found[site.kind] = value
            if len(found) < len(self._kinds[layer]):
                return
            self._job.tick()
            del waiting[layer]
            made = self._weighing.of(layer, found)
            self._emit(where, layer, {**made, **roles.of(layer, found["pattern"])})
            finished += 1
            self._job.progress(finished, total, f"layer {layer}")

        sites = [Site(kind, layer) for layer, kinds in self._kinds.items() for kind in kinds]
        forward(self.model, tokens, sites, see, logits="last")
        return finished

    def _emit(self, where: Mapping[str, int], layer: int, found: Mapping[str, np.ndarray]) -> None:
        """Hand a layer over; heads and tokens that only others have stay missing."""
        sizes = self.sizes()
        arrays = {}
        for name, values in found.items():
            variable = VARIABLES[self.prefix + name]
            shape = tuple(sizes[axis] for axis in variable.dims[1:])
            if values.shape != shape:
                whole = np.full(shape, variable.fill, dtype=variable.dtype)
                whole[tuple(slice(0, size) for size in values.shape)] = values
                values = whole
            arrays[self.prefix + name] = values
        self._job.emit({**where, f"{self.prefix}layer": self.layers.index(layer)}, arrays)

    def check(self) -> None:
        """Say what was compared."""
        whose = "of the other: " if self.prefix else ""
        allowed = limit(self.model)
        sinks = self._weighing.sinks
        what = {
            "rows": "rows of the pattern sum to 1" + (", or less with a learnt sink" * sinks),
            "scores": "the softmax of the scores is the pattern",
            "values": "pattern times values is what the heads hand on",
            "writes": "what all heads move from all positions, and the bias, is the attention's "
            "output",
        }
        for name, off in self._weighing.errors.items():
            self._job.check(f"{self.prefix}{name}", off, allowed, whose + what[name])


def _prefixed(prefix: str, axis: str) -> str:
    return axis if axis == "batch" else prefix + axis
