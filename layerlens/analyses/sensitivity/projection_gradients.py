"""The gradients of a block's projections, taken while the gradient of the loss passes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.analyses.sensitivity.factors import Factors, Rows, Shared, inner
from layerlens.analyses.sensitivity.text_gradients import recorded
from layerlens.errors import ModelError
from layerlens.metrics.projections import Projection, projections
from layerlens.model.linear import is_layer
from layerlens.model.matrices import Matrix

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Place = tuple[str, int]
"""Name of a matrix in its block, and which expert of those it holds, else 0."""

Gradients = Mapping[str, Mapping[Place, Factors]]
"""Projection to the gradients of its matrices, of those that any token went through."""


PARTS = {"attn": "attention", "mlp": "MLP"}
"""Parts of a block by the beginning of their names, in words."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A matrix that was used, and what it was given; None where its own gradient is asked."""

    matrix: Matrix
    given: Rows | None


class ProjectionGradients:
    """The projections of all blocks.

    Parameters
    ----------
    model
        Runs one token where a matrix holds several projections.

    Attributes
    ----------
    names
        Of all projections that any block has.
    parts
        Those of :data:`PARTS` that any block has.
    """

    def __init__(self, model: LensModel) -> None:
        self._model = model
        self._parts = [projections(model, layer) for layer in range(model.n_layers)]
        parts = [part.name for layer in self._parts for part in layer]
        self.names = list(dict.fromkeys(parts))
        every = range(model.n_layers)
        self.parts = [p for p in PARTS if any(self.inside(layer, p) for layer in every)]

    def inside(self, layer: int, part: str) -> list[str]:
        """The projections of a block that a part of it holds, of :data:`PARTS`."""
        block = self._model.anatomy.blocks[layer]

        def mixes(one: Projection) -> bool:
            path = f"{block.path}.{one.matrices[0].name}"
            return block.mixer is not None and path.startswith(f"{block.mixer}.")

        return [one.name for one in self._parts[layer] if mixes(one) == (part == "attn")]

    def norms(self, layer: int) -> dict[str, float]:
        """Frobenius norm of the weights of each projection of a block."""
        found = {}
        for part in self._parts[layer]:
            norms = [
                torch.linalg.vector_norm(weight, dtype=torch.float32) for weight in part.weights
            ]
            found[part.name] = float(torch.stack(norms).norm())
        return found

    def own(self, layer: int) -> list[Matrix]:
        """The matrices of a block whose parameter no other block has, too."""
        used = Counter(
            name for parts in self._parts for name in {id(m.parameter) for m in _matrices(parts)}
        )
        return [m for m in _matrices(self._parts[layer]) if used[id(m.parameter)] == 1]

    def of(self, layer: int, matrix: Matrix) -> list[Projection]:
        """The projections of a block that a matrix holds, or holds a part of."""
        names = [(part, [m.name for m in part.matrices]) for part in self._parts[layer]]
        return [part for part, held in names if matrix.name in held]

    def every(self, layer: int) -> list[Projection]:
        """The projections of a block."""
        return self._parts[layer]

    @property
    def plain(self) -> bool:
        """Whether all matrices are those of plain layers, and no gradient by a weight is asked."""
        model = self._model
        return all(
            _module(model.hf.get_submodule(model.anatomy.blocks[layer].path), matrix) is not None
            for layer, parts in enumerate(self._parts)
            for matrix in _matrices(parts)
        )

    def watch(self) -> Watch:
        """What looks at one text on its way back."""
        return Watch(self._model, self._parts)


class Watch:
    """Keeps what the projections of blocks are given, until the gradient is there."""

    def __init__(self, model: LensModel, parts: Sequence[Sequence[Projection]]) -> None:
        self._model, self._parts = model, parts
        self._seen: dict[int, list[_Seen]] = {}

    @contextmanager
    def inside(self, layer: int) -> Iterator[list[Tensor]]:
        """The outputs of a block's projections, as they come; weights that are no plain layer's.

        See :data:`layerlens.analyses.sensitivity.text_gradients.Inside`.
        """
        seen = self._seen[layer] = []
        targets: list[Tensor] = []
        path = self._model.anatomy.blocks[layer].path
        rows: dict[tuple[int, ...], Rows] = {}
        with ExitStack() as stack:
            for matrix in _matrices(self._parts[layer]):
                module = _module(self._model.hf.get_submodule(path), matrix)
                if module is None:
                    stack.enter_context(self._model.present([layer]))
                    stack.enter_context(recorded([matrix.parameter]))
                    seen.append(_Seen(matrix, None))
                    targets.append(matrix.parameter)
                    continue

                def hook(
                    _: nn.Module, args: Any, kwargs: Any, output: Tensor, matrix: Matrix = matrix
                ) -> Tensor:
                    given = next(iter((*args, *kwargs.values())))
                    flat = given.detach().flatten(0, -2)
                    # What several layers are given (q, k and v) is multiplied with itself once.
                    own = rows.setdefault((flat.data_ptr(), *flat.shape), Rows(flat))
                    seen.append(_Seen(matrix, own))
                    targets.append(output if output.requires_grad else output.requires_grad_())
                    return output.clone()  # what comes next may write into it

                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield targets

    def gradients(self, layer: int, slopes: Sequence[Tensor]) -> Gradients:
        """Put together what was given and the gradients of the outputs.

        Raises
        ------
        ModelError
            A projection was not seen at work.
        """
        found: dict[str, dict[Place, list[tuple[Tensor, Rows]]]] = {}
        self._seen.pop(layer + 1, None)  # what it was given is needed no longer
        for seen, slope in zip(self._seen[layer], slopes, strict=True):
            at = found.setdefault(seen.matrix.name, {})
            for number, pair in enumerate(_pairs(seen, slope)):
                at.setdefault((seen.matrix.name, number), []).append(pair)
        return {part.name: self._of(part, found, layer) for part in self._parts[layer]}

    def _of(
        self, part: Projection, found: dict[str, dict[Place, list[tuple[Tensor, Rows]]]], layer: int
    ) -> dict[Place, Factors]:
        places = {
            place: _joined(pairs, part.rows)
            for matrix in part.matrices
            for place, pairs in found.get(matrix.name, {}).items()
        }
        if not places:
            raise ModelError(
                f"{part.matrices[0].name} of layer {layer} was not called as a module while the "
                "model ran, so its gradient cannot be told from others': use ll.gradient_norms, "
                "which takes all weights of a block together."
            )
        return places


def between(
    first: Mapping[Place, Factors], second: Mapping[Place, Factors], shared: Shared
) -> float:
    """Inner product of two gradients of one projection; see :func:`inner`."""
    both = first.keys() & second.keys()
    return sum(inner(first[place], second[place], shared) for place in both)


def distance(
    part: Projection, matrix: Matrix, own: Mapping[Place, Factors], slope: Tensor
) -> float:
    """How far a projection's gradient is from the one of its matrix, over the latter's norm.

    Parameters
    ----------
    slope
        Gradient by the matrix's parameter, by plain autograd.
    """
    off = size = 0.0
    for number, whole in enumerate(_wholes(matrix, slope)):
        wanted = whole if part.rows is None else whole[part.rows.to(whole.device)]
        found = own.get((matrix.name, number))  # None: no token went to this expert
        missed = wanted if found is None else wanted - found.matrix()
        off += float(missed.float().square().sum())
        size += float(wanted.float().square().sum())
    return float((off / size) ** 0.5) if size else float(off > 0)


def _matrices(parts: Sequence[Projection]) -> list[Matrix]:
    """All matrices of a block, each once."""
    every = [matrix for part in parts for matrix in part.matrices]
    return list({matrix.name: matrix for matrix in every}.values())


def _wholes(matrix: Matrix, slope: Tensor) -> list[Tensor]:
    """``[out, in]`` of each expert, of the gradient by a parameter."""
    turned = slope.mT if matrix.turned else slope
    return list(turned) if turned.dim() == 3 else [turned]


def _module(block: nn.Module, matrix: Matrix) -> nn.Module | None:
    """The plain layer that multiplies with a matrix; None where no such layer does."""
    if matrix.layer is not None:
        module = matrix.layer.base
    elif matrix.stacked:
        return None
    else:
        module = block.get_submodule(matrix.name)
    return module if is_layer(module) else None


def _pairs(seen: _Seen, slope: Tensor) -> list[tuple[Tensor, Rows]]:
    """What is given and asked for at each token; of a gradient, for each of its experts."""
    if seen.given is not None:
        return [(slope.flatten(0, -2), seen.given)]
    made = [Factors.whole(matrix) for matrix in _wholes(seen.matrix, slope)]
    return [(one.slope, one.given) for one in made]


def _joined(pairs: list[tuple[Tensor, Rows]], rows: Tensor | None) -> Factors:
    """All calls of a matrix together, of the output channels that a projection has."""
    slope, given = pairs[0]
    if len(pairs) > 1:
        slope = torch.cat([slope for slope, _ in pairs])
        given = Rows(torch.cat([given.values for _, given in pairs]))
    return Factors(slope if rows is None else slope[:, rows.to(slope.device)], given)
