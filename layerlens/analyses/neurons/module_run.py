"""The work of ``neuron_modules``: read neurons, group them, set each group to 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.analyses.neurons.modules import (
    balanced,
    between,
    communities,
    fired,
    nearest,
    rewired,
    together,
)
from layerlens.analyses.neurons.neuron_directions import neuron_rows
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.until import read_until

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CONTROLS = 3
"""Sets of as many other neurons, beside each module."""
LOGITS = 256
"""Tokens whose logits are held at once."""


class ModuleRun:
    """The work of one call.

    Parameters
    ----------
    layer
        Whose neurons.
    skip
        Tokens at the beginning of a text that do not count.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layer: int,
        skip: int,
        generator: np.random.Generator,
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.site, self.skip, self.generator = Site("mlp_post", layer), skip, generator
        order = generator.permutation(len(tokens.ids)).tolist()
        self.own, self.apart = sorted(order[::2]), sorted(order[1::2])
        self.batches = split(tokens.chosen(self.apart), most_tokens=LOGITS)
        self.members: list[np.ndarray] = []
        self.width = 0
        self.passes = 0.0

    def find(
        self,
        groups: Sequence[str] | None,
        share: float,
        neighbours: int,
        modules: int,
        draws: int,
        limits: tuple[int, int],
        seed: int,
    ) -> None:
        """Find the modules in half of the texts, and compare them with all that they might be."""
        most, sample = limits
        values, texts = self._read(self.own, sample)
        self.width = values.shape[1]
        chosen = np.sort(self.generator.permutation(self.width)[:most])
        on = fired(values[:, chosen], share)
        likeness = together(on)
        graph = nearest(likeness, neighbours)
        labels, modularity = communities(graph, seed)
        shown = list(range(min(modules, int((np.bincount(labels) > 1).sum()))))
        if not shown:
            raise InputError(
                "No two neurons fire together in these texts, so there are no modules: give more "
                "or longer texts."
            )
        self.members = [chosen[labels == module] for module in shown]
        self._declare(shown, groups)
        place = np.full(self.width, -1, dtype=np.int32)
        for module, neurons in enumerate(self.members):
            place[neurons] = module
        sizes = np.array([len(neurons) for neurons in self.members], dtype=np.int32)
        found: dict[str, np.ndarray] = {
            "cofiring": between(likeness, labels, shown),
            "size": sizes,
            "module_of": place,
            "modularity": np.array(modularity),
        }
        self.job.emit({}, found)
        if groups is not None:
            self._tell_groups(on, labels, shown, [groups[text] for text in texts])
        self._compare(on, graph, neighbours, draws, seed)
        self._agree(labels, chosen, (share, neighbours, sample), draws, seed)
        self.job.note(layer=self.site.block, neurons=len(chosen), tokens_counted=len(values),
                      modules_found=int(labels.max() + 1))  # fmt: skip

    def _read(self, rows: Sequence[int], sample: int) -> tuple[np.ndarray, list[int]]:
        """Activations ``[token, neuron]`` of texts, and the text of each token."""
        found, texts = [], []
        for row in rows:
            self.job.tick()
            text = row_of(self.tokens, row)
            value = read_until(
                self.model, text, [self.site], lambda _, x: x[0, self.skip :].float().cpu()
            )[self.site].numpy()
            self.passes += 1
            found.append(value)
            texts += [row] * len(value)
            if len(texts) >= sample:
                break
        if len(texts) < 8:
            raise InputError(
                f"Tokens that count: {len(texts)}; expected 8 or more in half of them."
            )
        return np.concatenate(found)[:sample], texts[:sample]

    def _declare(self, shown: Sequence[int], groups: Sequence[str] | None) -> None:
        modules = np.array([str(module) for module in shown])  # they have no order but by size
        axes = {"module": modules, "fires_with": modules, "neuron": np.arange(self.width)}
        if groups is not None:
            axes["group"] = np.array(list(dict.fromkeys(groups)))
        self.job.declare(
            {axis: len(labels) for axis, labels in axes.items()},
            {axis: ((axis,), labels) for axis, labels in axes.items()},
        )

    def _tell_groups(
        self, on: np.ndarray, labels: np.ndarray, shown: Sequence[int], words: Sequence[str]
    ) -> None:
        """Share of each group's tokens at which a module's neurons fire; NaN without tokens."""
        assert self.job.parts is not None
        names = self.job.parts.coords["group"][1].tolist()
        known = np.array(words)
        found = np.full((len(shown), len(names)), np.nan)
        for column, name in enumerate(names):
            if (rows := on[known == name]).size:
                found[:, column] = [rows[:, labels == module].mean() for module in shown]
        self.job.emit({}, {"firing": found})

    def _compare(
        self, on: np.ndarray, graph: coo_array, neighbours: int, draws: int, seed: int
    ) -> None:
        """Modularity of graphs that have no modules but those that any graph has."""
        chance, moved = [], []
        for draw in range(draws):
            self.job.tick()
            self.job.progress(draw + 1, draws, "controls")
            chance.append(communities(rewired(graph, self.generator), seed + draw)[1])
            other = self.generator.permuted(on, axis=0)
            moved.append(communities(nearest(together(other), neighbours), seed + draw)[1])
        self.job.emit(
            {},
            {
                "modularity_chance": np.array(np.mean(chance)),
                "modularity_chance_high": np.array(np.max(chance)),
                "modularity_shuffled": np.array(np.mean(moved)),
            },
        )

    def _agree(
        self,
        labels: np.ndarray,
        chosen: np.ndarray,
        how: tuple[float, int, int],
        draws: int,
        seed: int,
    ) -> None:
        """Whether weights, and other texts, give the same groups."""
        share, neighbours, sample = how
        layer = self.site.block
        try:
            rows = neuron_rows(self.model, layer, "gate")
        except InputError:
            rows = neuron_rows(self.model, layer, "input")
        count = max(2, int((np.bincount(labels) > 1).sum()))
        weights = balanced(rows.double().cpu().numpy()[chosen], min(count, len(chosen)), seed)
        mixed = [adjusted_rand_score(self.generator.permutation(labels), weights)
                 for _ in range(draws)]  # fmt: skip
        values, _ = self._read(self.apart, sample)
        other = nearest(together(fired(values[:, chosen], share)), neighbours)
        again = adjusted_rand_score(labels, communities(other, seed)[0])
        self.job.emit(
            {},
            {
                "agreement": np.array(adjusted_rand_score(labels, weights)),
                "agreement_chance": np.array(np.max(mixed)),
                "again": np.array(again),
            },
        )

    def try_modules(self) -> None:
        """Set each module to 0 in the texts that are apart, and as many neurons of others."""
        plain = self._loss(())
        self.job.emit({}, {"loss": np.array(plain)})
        everyone = np.arange(self.width)
        for module, neurons in enumerate(self.members):
            rest = np.setdiff1d(everyone, neurons)
            found = {"loss_change": self._loss(neurons.tolist()) - plain}
            if len(rest) >= len(neurons):
                others = [
                    self._loss(self.generator.permutation(rest)[: len(neurons)].tolist()) - plain
                    for _ in range(CONTROLS)
                ]
                found["loss_change_chance"] = float(np.mean(others))
                found["loss_change_chance_low"] = min(others)
                found["loss_change_chance_high"] = max(others)
            self.job.emit({"module": module}, {n: np.array(v) for n, v in found.items()})
            self.job.progress(module + 1, len(self.members), "modules")
        error = abs(self._loss(self.members[0].tolist(), keep=True) - plain)
        what = "loss with a module at its own activations, less the plain one"
        self.job.check("own activations change nothing", error, 1e-3 * max(1.0, plain), what)
        self.job.note(passes=self.passes / len(self.tokens.ids))

    def _loss(self, neurons: Sequence[int], *, keep: bool = False) -> float:
        """Mean loss of the next token over the texts that are apart, with neurons at 0."""
        total, count = 0.0, 0
        for batch, _ in self.batches:
            self.job.tick()
            changes = [self._change(batch, neurons, keep)] if neurons else []
            logits = forward(self.model, batch, (), lambda *_: None, logits="all", changes=changes)
            assert logits is not None
            for row, mask in enumerate(batch.mask):
                columns = mask.nonzero().flatten()[self.skip :]
                wanted = batch.ids[row, columns[1:]]
                rows = logits[row, columns[:-1].to(logits.device)].float().cpu()
                total += float(cross_entropy(rows, wanted, reduction="sum"))
                count += len(wanted)
        self.passes += len(self.apart)
        if not count:
            raise InputError("No next token counts: give longer texts, or skip_first=False.")
        return total / count

    def _change(self, batch: Tokens, neurons: Sequence[int], keep: bool) -> Change:
        """Neurons at 0, or at what they are."""
        value: Tensor | float = 0.0
        if keep:
            value = read_until(self.model, batch, [self.site], lambda _, x: x.clone())[self.site]
            value = value[..., list(neurons)]
        return Change(self.site, "set", value, None, neurons=tuple(neurons))
