"""The work of ``hessian``: traces, largest eigenvalues and couplings from products with vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from layerlens.analyses.contract.job import Job
from layerlens.analyses.sensitivity.curvature import Curvature, Loss
from layerlens.analyses.sensitivity.responses import Asked
from layerlens.analyses.sensitivity.text_gradients import loss_of
from layerlens.errors import InputError
from layerlens.model.weights import is_dense

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

RUNS = {
    "trace": ("trace", "trace_low", "trace_high", "trace_error", "trace_per_weight"),
    "top": ("top", "top_residual"),
    "cross": ("block_norm", "coupling"),
}
"""What can be asked, and the variables that it fills."""

SETTLED = 1e-3
"""Relative change of an eigenvalue at which its iteration ends."""

STEP = 1e-3
"""How far weights are moved for a difference, of their length."""

DIFFERENCE = 0.05
"""How far a product may be from that difference, of its length."""

SYMMETRY = 1e-3
"""How far ``u . H v`` may be from ``v . H u``, of what it could be."""


def variable_name(name: str, way: str) -> str:
    """What a variable, or an end of its interval, is called for other next tokens.

    Examples
    --------
    >>> variable_name("trace_low", "_chance")
    'trace_chance_low'
    """
    for end in ("_low", "_high"):
        if name.endswith(end):
            return f"{name.removesuffix(end)}{way}{end}"
    return name + way


class HessianRun:
    """The work of one call.

    Parameters
    ----------
    layers
        Blocks whose weights are asked for, ascending.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        texts: Sequence[Asked],
        layers: Sequence[int],
        seed: int,
    ) -> None:
        self.job, self.model, self.seed = job, model, seed
        self.texts = [one.text.plain for one in texts]
        self.skips = [one.skip for one in texts]
        self.groups = [block_weights(model, layer) for layer in layers]
        require_own(self.groups, layers)
        own = {id(p) for group in self.groups for p in group}
        self.others = [p for p in model.hf.parameters() if id(p) not in own]
        self.products = 0

    def measure(self, what: str, way: str, count: int) -> None:
        """Fill one kind of numbers, for the next tokens of the texts or for shuffled ones."""
        curvature = Curvature(self.groups, self._losses(way), self.others, self.job.tick)
        {"trace": self._trace, "top": self._top, "cross": self._cross}[what](curvature, way, count)
        if not way:
            self._check(curvature)

    def _losses(self, way: str) -> list[Loss]:
        losses: list[Loss] = []
        for number, (text, skip) in enumerate(zip(self.texts, self.skips, strict=True)):
            wanted = text.ids[0, skip + 1 :]
            if way:
                order = np.random.default_rng((self.seed, number)).permutation(len(wanted))
                wanted = wanted[torch.from_numpy(order)]
            losses.append(partial(loss_of, self.model, text, skip, wanted))
        return losses

    def _trace(self, curvature: Curvature, way: str, draws: int) -> None:
        every = range(len(self.groups))
        found = np.full((draws, len(every)), np.nan)
        sizes = np.array(curvature.sizes)
        with curvature.products(every, every) as product:
            for draw in range(draws):
                signs = {group: curvature.signs(group, self.seed, draw) for group in every}
                parts = product(signs)
                self.products += 1
                found[draw] = [dot(signs[group], parts[group]) for group in every]
                so_far = found[: draw + 1]
                error = np.full(len(every), np.nan)
                if draw:
                    error = so_far.std(0, ddof=1) / len(so_far) ** 0.5
                trace, reach = so_far.mean(0), student.ppf(0.975, draw) * error
                arrays = {"trace": trace, "trace_low": trace - reach, "trace_high": trace + reach}
                arrays |= {"trace_error": error, "trace_per_weight": trace / sizes}
                self.job.emit({}, {variable_name(n, way): v for n, v in arrays.items()})
                self.job.progress(draw + 1, draws, "draws")

    def _top(self, curvature: Curvature, way: str, steps: int) -> None:
        for group in range(len(self.groups)):
            value, residual = self._eigenvalue(curvature, group, steps)
            found = {f"top{way}": np.array(value), f"top_residual{way}": np.array(residual)}
            self.job.emit({"layer": group}, found)
            self.job.progress(group + 1, len(self.groups), "layers")

    def _eigenvalue(self, curvature: Curvature, group: int, steps: int) -> tuple[float, float]:
        """The eigenvalue with the largest absolute value, and how far it is from settled."""
        vector = curvature.normal(group, self.seed)
        value = residual = float("nan")
        with curvature.products([group], [group]) as product:
            for _ in range(steps):
                image = product({group: vector})[group]
                self.products += 1
                before, value = value, dot(vector, image)
                size = float(image.norm())
                if not size:  # nothing bends: every vector is one of the eigenvalue 0
                    return 0.0, 0.0
                residual = float((image - value * vector).norm()) / abs(value)
                vector = image / size
                if abs(value - before) <= SETTLED * abs(value):
                    break
        return value, residual

    def _cross(self, curvature: Curvature, way: str, draws: int) -> None:
        """Signs on one block tell its row; ``H`` is symmetric, so that later blocks are enough."""
        count = len(self.groups)
        norms = np.full((count, count), np.nan)
        for group in range(count):
            wanted = range(group, count)
            squares = np.zeros(len(wanted))
            with curvature.products([group], wanted) as product:
                for draw in range(draws):
                    parts = product({group: curvature.signs(group, self.seed, draw)})
                    self.products += 1
                    squares += [dot(parts[other], parts[other]) for other in wanted]
            norms[group, group:] = norms[group:, group] = (squares / draws) ** 0.5
            own = norms.diagonal()
            with np.errstate(divide="ignore", invalid="ignore"):
                coupling = norms / np.sqrt(own[:, None] * own)
            arrays = {f"block_norm{way}": norms, f"coupling{way}": coupling}
            self.job.emit({}, {name: values.copy() for name, values in arrays.items()})
            self.job.progress(group + 1, count, "layers")

    def _check(self, curvature: Curvature) -> None:
        """Hold products against moved weights, and against each other."""
        first, last = 0, len(self.groups) - 1
        vector = curvature.signs(last, self.seed, 0)
        with curvature.products([last], sorted({first, last})) as product:
            found = product({last: vector})
        length = torch.cat([p.detach().flatten() for p in self.groups[last]]).norm()
        step = STEP * float(length / vector.norm())
        moved = curvature.difference(last, vector, step)
        size = float(moved.norm())
        off = float((found[last] - moved).norm()) / size if size else float(found[last].norm())
        what = "product with the last layer's Hessian against gradients at moved weights"
        self.job.check("difference of gradients", off, DIFFERENCE, what)
        other = curvature.signs(first, self.seed, 1)
        with curvature.products([first], [last]) as product:
            back = product({first: other})[last]
        most = float(found[first].norm() * other.norm()) or 1.0
        off = abs(dot(other, found[first]) - dot(vector, back)) / most
        what = "what the first layer has of the last one against the other way round"
        self.job.check("symmetry", off, SYMMETRY, what)

    def finish(self) -> None:
        """Say how it was done."""
        self.job.note(
            passes=float(4 * self.products),
            method="products with the Hessian, from the derivative of the gradient along vectors",
        )


def require_full_precision(model: LensModel) -> None:
    """Raise InputError for a model in half precision."""
    if model.dtype.itemsize < 4:
        raise InputError(
            f"{model.name} computes in half precision, which second derivatives do not survive: "
            "load it in float32."
        )


def block_weights(model: LensModel, layer: int) -> list[nn.Parameter]:
    """All weights of a block, where they are plain numbers in memory."""
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found = list(block.parameters())
    if not found or not all(is_dense(p) for p in found):
        raise InputError(
            f"Layer {layer} has weights that are not plain numbers in memory (quantised or "
            f"offloaded): load {model.name} in float32."
        )
    return found


def require_own(groups: Sequence[Sequence[nn.Parameter]], layers: Sequence[int]) -> None:
    """Raise InputError where two blocks share a weight."""
    seen: dict[int, int] = {}
    for layer, group in zip(layers, groups, strict=True):
        for p in group:
            if seen.setdefault(id(p), layer) != layer:
                raise InputError(
                    f"Layers {seen[id(p)]} and {layer} share weights, so they have no Hessian of "
                    "their own: ask for one of them with layers=."
                )


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product, in float64."""
    return float(torch.dot(a.double(), b.double()))
