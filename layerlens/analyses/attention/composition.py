"""Composition: how much of what one head writes lies where a later head reads, from weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contributions.head_matrices import (
    HeadMaps,
    HeadMatrices,
    Norm,
    norm_of,
)
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.result.listed import Listing, told

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

KINDS = {"q": "queries", "k": "keys", "v": "values"}
_EDGE = ("edge",)
_PAIR = ("layer", "head", "from_layer", "from_head")
VARIABLES = {
    "read": Variable(
        ("layer", "head"), "float32", "1", "strongest composition with an earlier head, over chance"
    ),
    "written": Variable(
        ("layer", "head"), "float32", "1", "strongest composition of a later head, over chance"
    ),
    "composition": Variable(
        _PAIR,
        "float32",
        "1",
        "composition score",
        formula="|R W|_F / (|R|_F |W|_F); W = OV of the earlier head; R = QK^T, QK or OV of the "
        "later one for q, k and v",
    ),
    "above_chance": Variable(
        _PAIR, "float32", "1", "composition score less that of random heads", signed=True
    ),
    "chance": Variable(("layer",), "float32", "1", "composition score of random heads"),
    "chance_deviation": Variable(
        ("layer",), "float32", "1", "standard deviation of the score of random heads"
    ),
    "edge_above_chance": Variable(_EDGE, "float32", "1", "strongest pairs, over chance"),
    "edge_from_layer": Variable(_EDGE, "int32", "1", "layer of the head that writes"),
    "edge_from_head": Variable(_EDGE, "int32", "1", "the head that writes"),
    "edge_layer": Variable(_EDGE, "int32", "1", "layer of the head that reads"),
    "edge_head": Variable(_EDGE, "int32", "1", "the head that reads"),
}


def count_work(
    model: LensModel, *, kind: str, layers: Any, top: int, draws: int, seed: int
) -> Work:
    """Count operations and bytes of one call; runs nothing."""
    chosen = model.layers(layers)
    wide = model.n_heads * max(1, model.d_model // max(model.n_heads, 1))
    pairs = len(chosen) * (len(chosen) - 1) / 2
    drawn = 8.0 * draws * model.d_model * wide / max(model.n_heads, 1)
    operations = 2.0 * model.d_model * wide**2 * pairs + 12.0 * model.d_model * wide * len(chosen)
    size = 4 * model.d_model * wide * (len(chosen) + 6)
    return Work(0, 0, size, tokens=0, operations=operations + drawn)


@analysis(
    name="composition",
    question="Which heads read, by their weights, what an earlier head writes?",
    source="Elhage et al. (2021), A Mathematical Framework for Transformer Circuits, Transformer "
    "Circuits Thread",
    cost="no pass, weights only (one token, to see which norms stand where)",
    view="grid",
    lead="A cell is one head: how much of what it reads, by its weights, an earlier head writes, "
    "over what random heads have. It says what could flow; a text shows whether it does.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("kind",),
    needs=("attention",),
)
def composition(
    job: Job,
    model: LensModel,
    *,
    kind: str = "q",
    layers: Any = None,
    top: int = 20,
    draws: int = 20,
    seed: int = 0,
) -> None:
    """Compare what every head writes with what every later head reads, over all layers.

    A score is the Frobenius norm of the product of two heads' matrices over the product of their
    norms: 0 where nothing that the one writes is read by the other, 1 where both are of rank one
    and meet. Random matrices have about one over the root of the width, never 0: that is
    ``chance``, and ``above_chance`` is what is left of it.

    Parameters
    ----------
    kind
        Through what the later head reads: its ``"q"``, ``"k"`` or ``"v"``.
    layers
        Which layers take part: a number, several or a slice; None for all.
    top
        How many of the strongest pairs to list.
    draws
        Pairs of random heads of the same shapes that chance is taken from.
    seed
        Of these draws.

    Notes
    -----
    ``composition`` has the head that reads (``layer``, ``head``) and the one that writes
    (``from_layer``, ``from_head``); pairs that do not follow each other are NaN. Every query head
    counts by itself, also where several share k and v. No weight of the model is changed: in
    copies, the gain (and the mean that is taken off) of the norm that a head reads through is
    folded in, as are norms on q and k, behind the output projection, and on the stream itself
    between the two heads (post-norm models); the attribute ``folded`` names them. Biases, the
    norms' statistics (one positive number a position) and rotary embeddings are left out: q meets
    k as at the same position. In latent attention (DeepSeek) the statistic is no common factor of
    a score: there only ``"v"`` can be asked. Weights say what could flow; whether it does,
    ``ll.path_patch`` says.

    Raises
    ------
    InputError
        An option does not fit, or weights are quantised or not in memory.
    ModelError
        Heads cannot be read from weights; of latent attention that is so for ``"q"`` and ``"k"``.

    Examples
    --------
    >>> import layerlens as ll
    >>> found = ll.composition(ll.load("toy:induction"), "k").data
    >>> int(found.edge_from_layer[0]), int(found.edge_layer[0])
    (0, 1)
    """
    if kind not in KINDS:
        raise nearest(str(kind), list(KINDS), "kind:")
    top, draws = whole(top, "top"), whole(draws, "draws")
    if top < 1 or draws < 2:
        raise InputError(f"top is {top} and draws {draws}; expected top from 1 and draws from 2.")
    maps = HeadMaps(job, model, model.layers(layers), scores=kind != "v")
    if len(maps.layers) < 2:
        raise InputError("Composition is between layers: choose at least two that have heads.")
    pairs = _Pairs(job, model, maps, kind)
    pairs.declare(top)
    chance = _chance(maps, kind, draws, whole(seed, "seed"))
    pairs.run(chance)
    pairs.list_strongest()
    pairs.check()


class _Pairs:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, maps: HeadMaps, kind: str) -> None:
        self.job, self.model, self.maps, self.kind = job, model, maps, kind
        n, heads = len(maps.layers), model.n_heads
        self.above = np.full((n, heads, n, heads), np.nan, dtype=np.float32)
        self.scores = np.full_like(self.above, np.nan)

    def declare(self, top: int) -> None:
        """State axes and coordinates."""
        n, heads = self.above.shape[:2]
        size = sum(
            self.model.anatomy.blocks[a].n_heads * self.model.anatomy.blocks[b].n_heads
            for i, b in enumerate(self.maps.layers)
            for a in self.maps.layers[:i]
        )
        self.top = min(top, size)
        layers, numbers = np.array(self.maps.layers, dtype=np.int32), np.arange(heads)
        self.job.declare(
            {"layer": n, "head": heads, "from_layer": n, "from_head": heads, "edge": self.top},
            {
                "layer": (("layer",), layers),
                "from_layer": (("from_layer",), layers),
                "head": (("head",), numbers.astype(np.int32)),
                "from_head": (("from_head",), numbers.astype(np.int32)),
            },
        )

    def run(self, chance: dict[int, tuple[float, float]]) -> None:
        """Read layer after layer; each is compared with what all before it write."""
        writers: list[Tensor] = []
        folded: dict[str, None] = {}
        for number, layer in enumerate(self.maps.layers):
            heads = self.maps.of(layer)
            words = list(heads.folded)
            for path, norm in self._norms_since(number, heads):
                writers = [norm.write_through(write) for write in writers]
                words.append(f"{path} on the stream")
            folded |= dict.fromkeys(re.sub(r"\.\d+\.", ".*.", word) for word in words)
            read, mean = unit(reading(heads, self.kind)), chance[layer][0]
            for before, write in enumerate(writers):
                self.job.tick()
                found = meet(read, unit(write)).cpu().numpy()
                self.scores[number, : len(found), before, : found.shape[1]] = found
            self.above[number] = self.scores[number] - mean
            writers.append(writing(heads))
            self._emit(number, chance[layer])
        self.job.note(
            passes=1,
            kind=self.kind,
            folded="; ".join(folded) or "nothing",
            direction=f"into {KINDS[self.kind]} of the later head",
        )

    def _norms_since(self, number: int, heads: HeadMatrices) -> list[tuple[str, Norm]]:
        """Norms on the stream itself between the attention of the layer before and this one's."""
        if number == 0:
            return []
        paths = norms_between(self.model, self.maps.layers[number - 1], heads)
        like = heads.o.new_ones(self.model.d_model, dtype=self.model.dtype)
        return [(path, norm_of(self.model, path, like)) for path in paths]

    def _emit(self, number: int, chance: tuple[float, float]) -> None:
        read = _largest(self.above[number], (1, 2))
        self.job.emit(
            {"layer": number},
            {
                "composition": self.scores[number],
                "above_chance": self.above[number],
                "read": read,
                "chance": np.array(chance[0]),
                "chance_deviation": np.array(chance[1]),
            },
        )
        self.job.progress(number + 1, len(self.maps.layers), f"layer {self.maps.layers[number]}")

    def list_strongest(self) -> None:
        """What each head writes for the one that reads it most, and the strongest pairs."""
        known = np.where(np.isfinite(self.above), self.above, -np.inf).ravel()
        order = np.argsort(-known, kind="stable")[: self.top]
        self.strongest = [np.unravel_index(place, self.above.shape) for place in order]
        layers = self.maps.layers
        table = np.array(
            [(layers[c], d, layers[a], b) for a, b, c, d in self.strongest], dtype=np.int32
        )
        self.job.label(
            {"edge": (("edge",), np.array([f"{a}.{b} > {c}.{d}" for a, b, c, d in table]))}
        )
        names = ("edge_from_layer", "edge_from_head", "edge_layer", "edge_head")
        places = dict(zip(("from_layer", "from_head", "layer", "head"), names, strict=True))
        self.job.note(**told([Listing("edge", "above_chance", "edge_above_chance", places)]))
        self.job.emit(
            {},
            {
                "written": _largest(self.above, (0, 1)),
                "edge_above_chance": self.above.ravel()[order],
                **dict(zip(names, table.T, strict=True)),
            },
        )

    def check(self) -> None:
        """The strongest pair again, with whole matrices in double precision."""
        layer, head, before, other = self.strongest[0]
        reads = self.maps.of(self.maps.layers[layer])
        writes = self.maps.of(self.maps.layers[before])
        w = whole_ov(writes, int(other))
        for number in range(before + 1, layer + 1):
            for _, norm in self._norms_since(number, self.maps.of(self.maps.layers[number])):
                w = norm.write_through(w)
        r = whole_ov(reads, int(head)) if self.kind == "v" else whole_qk(reads, int(head))
        r = r.T if self.kind == "q" else r
        again = float((r @ w).norm() / (r.norm() * w.norm()))
        error = abs(again - float(self.scores[layer, head, before, other]))
        what = "score of the strongest pair against the product of whole matrices"
        self.job.check("factors equal whole matrices", error, 1e-4, what)


def norms_between(model: LensModel, layer: int, heads: HeadMatrices) -> list[str]:
    """Paths of the norms on the stream (post-norm) from a layer's attention to later heads.

    Where these read through such a norm, it is in their maps already.
    """
    blocks = model.anatomy.blocks
    found = [blocks[layer].mid_norm, blocks[layer].post_norm]
    for block in blocks[layer + 1 : heads.layer]:
        found += [block.pre_norm, block.mid_norm, block.post_norm]
    own = blocks[heads.layer].pre_norm
    found.append(None if own == heads.norm else own)
    return [path for path in found if path]


def reading(heads: HeadMatrices, kind: str) -> Tensor:
    """``[head, size, d_model]``: rows that stand for what is read, up to a rotation of them.

    The norm of a product with them is that of the product with the whole matrix.
    """
    if kind == "v":
        return root(heads.o.mT @ heads.o).mT @ heads.v_of_heads()
    q, k = heads.qk_of_heads()
    mine, other = (q, k) if kind == "q" else (k, q)
    return root(other @ other.mT).mT @ mine


def writing(heads: HeadMatrices) -> Tensor:
    """``[head, d_model, size]``: columns that stand for what is written, up to a rotation."""
    v = heads.v_of_heads()
    return heads.o @ root(v @ v.mT)


def root(gram: Tensor) -> Tensor:
    """``[..., n, n]`` ``A`` with ``A A^T`` a Gram matrix, which may be singular."""
    values, vectors = torch.linalg.eigh(gram.double())
    found: Tensor = vectors * values.clamp(min=0).sqrt()[..., None, :]
    return found.to(gram.dtype)


def unit(factors: Tensor) -> Tensor:
    """Factors ``[head, ., .]`` of norm one; a head of zeros stays NaN, which says nothing."""
    size: Tensor = torch.linalg.matrix_norm(factors)
    return factors / size[:, None, None]


def meet(read: Tensor, write: Tensor) -> Tensor:
    """``[head that reads, head that writes]``: norms of the products of unit factors."""
    readers, writers = len(read), len(write)
    product = read.flatten(0, 1) @ write.transpose(0, 1).flatten(1)
    squares = product.square().unflatten(0, (readers, -1)).unflatten(2, (writers, -1))
    found: Tensor = squares.sum((1, 3)).sqrt()
    return found


def whole_ov(heads: HeadMatrices, head: int) -> Tensor:
    """``[d_model, d_model]`` float64: what the head writes for what it reads."""
    return heads.o[head].double() @ heads.v_of_heads()[head].double()


def whole_qk(heads: HeadMatrices, head: int) -> Tensor:
    """``[d_model, d_model]`` float64: score of a query (row) and a key (column)."""
    q, k = heads.qk_of_heads()
    return q[head].double().T @ k[head].double()


def _largest(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Largest number over some axes; NaN where there is none."""
    found = np.where(np.isfinite(values), values, -np.inf).max(axis=axes)
    return np.where(np.isfinite(found), found, np.nan)


def _chance(maps: HeadMaps, kind: str, draws: int, seed: int) -> dict[int, tuple[float, float]]:
    """For each layer that reads, mean and deviation of the score of random heads."""
    generator = torch.Generator().manual_seed(seed)
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    found = {}
    for layer in maps.layers:
        shape = maps.shape(layer)
        if shape not in known:
            scores = [_score_of_random(shape, kind, generator) for _ in range(draws)]
            known[shape] = float(np.mean(scores)), float(np.std(scores, ddof=1))
        found[layer] = known[shape]
    return found


def _score_of_random(shape: tuple[int, int, int], kind: str, generator: torch.Generator) -> float:
    """Score of one pair of heads with independent normal entries."""
    size, size_v, width = shape

    def drawn(rows: int) -> Tensor:
        return torch.randn(1, rows, width, generator=generator)

    heads = [
        HeadMatrices(0, drawn(size), drawn(size), drawn(size_v), drawn(size_v).mT, None, ())
        for _ in range(2)
    ]
    return float(meet(unit(reading(heads[0], kind)), unit(writing(heads[1]))))
