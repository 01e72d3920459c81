"""One neuron a layer: scaled together, chosen one after the other, and set to 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric
from layerlens.model.sites import Site
from layerlens.run.base import Base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.gradients import gradients
from layerlens.run.many_edits import run_cells

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Neuron = tuple[int, int]
"""Layer and number."""

Path = tuple[Neuron, ...]


@dataclass(frozen=True)
class PathText:
    """One text, run as it is.

    Attributes
    ----------
    base
        With ``mlp_post`` of the layers in question recorded.
    measure
        The metric.
    where
        Positions at which neurons are scaled.
    plain
        The metric as it is.
    """

    base: Base
    measure: Metric
    where: tuple[int, ...]
    plain: float

    def values(self, layer: int) -> Tensor:
        """Activations ``[position, neuron]`` of a layer where neurons are scaled, float32."""
        return self.base.trace[Site("mlp_post", layer)][0][list(self.where)].float().cpu()

    def scaled(self, path: Path, share: float) -> list[Change]:
        """Edits that hold each neuron of a path at a share of its own activations."""
        changes = []
        for layer, number in path:
            site = Site("mlp_post", layer)
            own = self.base.trace[site][0][list(self.where)][:, [number]]
            changes.append(Change(site, "set", share * own, self.where, neurons=(number,)))
        return changes


class NeuronPaths:
    """Attributions of paths in some texts; each number is a mean over the texts.

    Parameters
    ----------
    model, texts
        What is run.
    steps
        How many shares of the activations there are.
    memory_limit
        Bytes for the largest wave of removals.
    tick
        Called between passes; may raise.

    Attributes
    ----------
    passes
        Passes used, over all texts; a backward pass counts as two.
    """

    def __init__(
        self,
        model: LensModel,
        texts: Sequence[PathText],
        steps: int,
        memory_limit: int,
        tick: Callable[[], None],
    ) -> None:
        self.model, self.texts, self.steps = model, texts, steps
        self._limit, self._tick = memory_limit, tick
        self.passes = 0

    def slopes(
        self, text: PathText, layers: Sequence[int], path: Path, shares: Sequence[float]
    ) -> dict[int, Tensor]:
        """Mean derivative ``[position, neuron]`` by activations while a path is scaled.

        A neuron of the path is held at its share, so that its own derivative is that of the metric
        with all other neurons of the path held too; the others do what the model does with them.
        """
        sites = [Site("mlp_post", layer) for layer in layers]
        total: dict[int, Tensor] = {}
        for share in shares:
            self._tick()
            _, found = gradients(
                self.model,
                text.base.tokens,
                sites,
                text.measure,
                text.scaled(path, share),
                rows=text.where,
            )
            self.passes += 3
            for site, slope in found.items():
                mean = slope.float().cpu() / len(shares)
                total[site.block] = total.get(site.block, torch.zeros_like(mean)) + mean
        return total

    @property
    def midpoints(self) -> list[float]:
        """Shares at which the completeness form takes derivatives."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]

    @property
    def left_ends(self) -> list[float]:
        """Shares at which the reference form does."""
        return [step / self.steps for step in range(self.steps)]

    def products(self, layers: Sequence[int], path: Path, shares: Sequence[float]) -> list[Tensor]:
        """Activation times mean derivative ``[neuron]`` for each layer, given a scaled path."""
        total = [torch.zeros(0)] * len(layers)
        for text in self.texts:
            found = self.slopes(text, layers, path, shares)
            for row, layer in enumerate(layers):
                product = (text.values(layer) * found[layer]).sum(0) / len(self.texts)
                total[row] = product if not len(total[row]) else total[row] + product
        return total

    def terms(self, path: Path) -> np.ndarray:
        """What each neuron of a path adds to its attribution: they sum up to what removal costs."""
        layers = [layer for layer, _ in path]
        found = self.products(layers, path, self.midpoints)
        return np.array([float(row[number]) for row, (_, number) in zip(found, path, strict=True)])

    def reference(self, path: Path) -> float:
        """Sum of the derivatives times sum of the activations, by left ends, as in the source."""
        layers, total = [layer for layer, _ in path], 0.0
        for text in self.texts:
            found = self.slopes(text, layers, path, self.left_ends)
            slope = sum(found[layer][:, number] for layer, number in path)
            value = sum(text.values(layer)[:, number] for layer, number in path)
            assert isinstance(slope, Tensor)
            total += float((slope * value).sum()) / len(self.texts)
        return total

    def changes(self, paths: Sequence[Path]) -> np.ndarray:
        """Change of the metric with all neurons of a path at 0, for each path: true runs."""
        found: np.ndarray = self.changes_by_text(paths).mean(0)
        return found

    def changes_by_text(self, paths: Sequence[Path]) -> np.ndarray:
        """The same of each text, ``[text, path]``."""
        return self._runs([[text.scaled(path, 0.0) for path in paths] for text in self.texts])

    def kept(self, path: Path) -> float:
        """Change of the metric with a path held at what it is: none."""
        return float(self._runs([[text.scaled(path, 1.0)] for text in self.texts]).mean())

    def _runs(self, edits: Sequence[Sequence[Sequence[Change]]]) -> np.ndarray:
        """Change of the metric for each list of edits, given by text: ``[text, list]``."""
        found = np.zeros((len(edits), len(edits[0])))
        for row, text, lists in zip(found, self.texts, edits, strict=True):

            def take(
                numbers: Sequence[int], final: Tensor, row: np.ndarray = row, text: PathText = text
            ) -> None:
                with torch.no_grad():
                    row[list(numbers)] = text.measure(final).cpu().numpy() - text.plain

            cells = [Cell(tuple(changes)) for changes in lists]
            run_cells(self.model, text.base, cells, take, memory_limit=self._limit, tick=self._tick)
            self.passes += len(cells)
        return found


class Choice:
    """Chooses the neuron of each layer that adds most to the attribution of a path.

    Parameters
    ----------
    paths
        The texts.
    measure
        ``completeness`` or ``reference``.
    candidates
        How many neurons of a layer are tried exactly.
    """

    def __init__(self, paths: NeuronPaths, measure: str, candidates: int) -> None:
        self._paths, self._candidates = paths, candidates
        self._complete = measure == "completeness"

    def next(self, path: Path, layer: int) -> tuple[Path, float]:
        """The path with a neuron of this layer, and its attribution.

        One derivative a step gives every neuron's own term, with the path so far scaled and the
        neuron itself free; of the best few the attribution of the whole path is computed.
        """
        shares = self._paths.midpoints if self._complete else self._paths.left_ends
        [own] = self._paths.products([layer], path, shares)
        best = own.topk(min(self._candidates, len(own))).indices.tolist()
        tried = [(*path, (layer, number)) for number in best]
        # Complete attributions are what removal costs: runs give them without an integral.
        exact = (
            -self._paths.changes(tried)
            if self._complete
            else np.array([self._paths.reference(one) for one in tried])
        )
        first = int(exact.argmax())
        return tried[first], float(exact[first])
