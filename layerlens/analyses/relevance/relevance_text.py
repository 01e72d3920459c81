"""The relevance of one text after the other, with what each was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract.parts import Where
from layerlens.analyses.relevance.by_gradient import Found, rule_pass
from layerlens.analyses.relevance.explained import Explained, random_answers
from layerlens.analyses.relevance.integrated import Integrated
from layerlens.analyses.relevance.neurons import (
    chosen_to_zero,
    kept_neurons,
    neurons_off,
    without_each,
)
from layerlens.analyses.relevance.rules import FLOWS
from layerlens.errors import InputError
from layerlens.metrics.layer import neuron_sites
from layerlens.model.sites import Site
from layerlens.run.answer_place import answer_place
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STEP = 1e-3
"""Share of the embeddings by which the model is moved to be compared with a derivative."""

Points = tuple[Sequence[str], Sequence[Site], Sequence[int]]
"""Labels, sites and layers of the depths."""


class RelevanceText:
    """The work of one call.

    Attributes
    ----------
    off
        How far a block in the pass of a rule is from the same block by itself, the answer on a
        way from that of the text as it is; relative.
    lost, lost_last
        The largest part of an answer that is missing, at any depth and after the last block.
    step_off
        How far a derivative is from what a small step of the model gives, relative.
    neurons_off
        How far the relevance of the neurons of a layer, with the bias behind them, is from that of
        what the layer's MLP writes, relative.
    passes
        Passes a text so far; a way back counts as two.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        rule: str,
        points: Points,
        sublayers: Sequence[tuple[str, int]],
        neurons: tuple[int, int] = (0, 0),
    ) -> None:
        self.job, self.model, self.rule = job, model, rule
        self.labels, self.sites, self.layers = points
        self.writes = [Site(*sublayer) for sublayer in sublayers]
        self.kept, self.zeroed = neurons
        self.neurons = neuron_sites(model) if self.kept else []
        self.off = self.lost = self.lost_last = self.step_off = self.neurons_off = 0.0
        self.passes = 0.0
        self.capped, self.words = False, ""

    @property
    def sizes(self) -> dict[str, int]:
        """Axes of what is said about sublayers and neurons."""
        axes = {
            "sublayer": len(self.writes),
            "layer": len(self.neurons),
            "rank": self.kept,
            "zeroed": 2 * self.zeroed,
        }
        return {axis: size for axis, size in axes.items() if size}

    @property
    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """What stands along them."""
        words = [f"{kind} {i + 1}" for kind in ("top", "random") for i in range(self.zeroed)]
        writes = [f"{site.block}_{site.kind}" for site in self.writes]
        found = {
            "sublayer": ("sublayer", np.array(writes)),
            "sublayer_layer": ("sublayer", np.array([s.block for s in self.writes], np.int32)),
            "layer": ("layer", np.array([site.block for site in self.neurons], np.int32)),
            "rank": ("rank", np.arange(1, self.kept + 1, dtype=np.int32)),
            "zeroed": ("zeroed", np.array(words)),
        }
        return {name: ((axis,), of) for name, (axis, of) in found.items() if axis in self.sizes}

    def text(self, text: Tokens, row: int) -> None:
        """Take a text."""
        self.where = {"batch": row} if self.job.batched else {}
        self.tokens, self.at, self.row = text, answer_place(self.model, text), row

    def _asked(self, final: torch.Tensor, asked: tuple[Any, Any], draws: int, seed: int) -> None:
        """Take the answer and what is drawn beside it.

        Parameters
        ----------
        final
            ``[1, d_model]``, the state after the last block where the text is answered.
        asked
            The answer and the wrong answer, as they were given.
        draws
            How many random answers.
        """
        answer, wrong = asked
        model = self.model
        own = model.unembed(final).argmax() if answer is None else model.token_id(answer)
        other = None if wrong is None else model.token_id(wrong)
        self.explained = Explained(model, int(own), other)
        self.plain = float(self.explained(final)[0])
        self.capped |= self.explained.capped
        self.words = self.words or self.explained.words
        self.random = random_answers(model, self.explained, draws, seed, self.row)
        self.rng = np.random.default_rng((seed, self.row, 1))

    def by_gradient(self, asked: tuple[Any, Any], draws: int, seed: int) -> None:
        """Hand over what one pass and its ways back give; see :meth:`_asked`."""
        self.job.tick()
        written = [Site("mlp_out", site.block) for site in self.neurons]  # by the neurons together
        sites = list(dict.fromkeys([*self.sites, *self.writes, *written]))
        again = int(np.random.default_rng((seed, self.row, 2)).integers(self.model.n_layers))
        with rule_pass(
            self.model,
            self.tokens,
            self.at,
            sites,
            self.rule,
            neurons=self.neurons,
            again=again,
        ) as passed:
            with torch.no_grad():
                self._asked(passed.final.detach(), asked, draws, seed)
            explained = [self.explained, *self.random]
            own, *random = passed.back(explained)
        self.off = max(self.off, passed.block_off)
        self.passes += 1 + 2 * len(explained)
        for place, site in enumerate(self.sites):
            constant = own.constant[self.layers[place] + 1] if self.rule in FLOWS else None
            self._emit(place, own.at[site], constant, [found.at[site] for found in random])
        if self.writes:
            self._sublayers(own, random)
        if self.neurons:
            self.job.emit(self.where, kept_neurons(own, random, self.kept))
            if self.rule in FLOWS:
                self.neurons_off = max(self.neurons_off, neurons_off(own))
        if self.zeroed:
            self._without_strongest(own)
        if self.rule not in FLOWS:
            self._small_step(own)

    def _emit(
        self,
        place: int,
        relevance: np.ndarray,
        constant: float | None,
        random: Sequence[np.ndarray] = (),
    ) -> None:
        """Hand over one depth."""
        total = float(relevance.sum())
        scalars = {"total": total}
        if constant is not None:
            scalars["constant"] = constant
        if self.rule != "gradient":
            scalars["missing"] = self.plain - total - (constant or 0.0)
            size = max(float(np.abs(relevance).sum()), abs(self.plain), 1e-9)
            lost = abs(scalars["missing"]) / size
            self.lost = max(self.lost, lost)
            if self.layers[place] == self.model.n_layers - 1:
                self.lost_last = max(self.lost_last, lost)
        inside: Where = {**self.where, "point": place, "position": slice(0, len(relevance))}
        arrays = {"relevance": relevance}
        if random:
            arrays["relevance_chance"] = np.mean(random, axis=0)
            scalars["likeness_chance"] = float(
                np.mean([abs(_cosine(relevance, r)) for r in random])
            )
        self.job.emit(inside, arrays)
        here = {**self.where, "point": place}
        self.job.emit(here, {name: np.array(value) for name, value in scalars.items()})

    def _sublayers(self, own: Found, random: Sequence[Found]) -> None:
        """Hand over what each sublayer writes of the answer, and its share for random ones."""
        found = {
            "sublayer_relevance": np.array([own.at[site].sum() for site in self.writes]),
            "sublayer_share": self._shares(own),
        }
        if random:
            chance = [self._shares(other) for other in random]
            found["sublayer_share_chance"] = np.mean(chance, axis=0)
        self.job.emit(self.where, found)

    def _shares(self, found: Found) -> np.ndarray:
        """Shares of the sublayers in the relevance of all writes, ``[sublayer]`` float64."""
        sizes = np.array([np.abs(found.at[site]).sum() for site in self.writes])
        return sizes / sizes.sum() if sizes.sum() > 0 else sizes

    def _without_strongest(self, own: Found) -> None:
        """Hand over what the answer loses without the neurons that carry most, and others."""
        chosen = chosen_to_zero(own.neurons, self.zeroed, self.rng)
        with torch.no_grad():
            left = without_each(
                self.model, self.tokens, self.at, chosen, self.explained, self.job.tick
            )
        self.passes += 1 + len(chosen)
        found = {
            "zeroed_layer": np.array([layer for layer, _ in chosen], np.int32),
            "zeroed_neuron": np.array([number for _, number in chosen], np.int32),
            "zeroed_relevance": np.array([own.neurons[x][n] for x, n in chosen]),
            "zeroed_effect": self.plain - left,
        }
        self.job.emit(self.where, found)

    def integrated(
        self, asked: tuple[Any, Any], baseline: Tokens | None, steps: int, memory_limit: int
    ) -> None:
        """Hand over each depth, by ways of its own; see :meth:`_asked`."""
        if baseline is not None and baseline.ids.shape != self.tokens.ids.shape:
            raise InputError(
                f"The baseline has {baseline.ids.shape[1]} tokens and the text "
                f"{self.tokens.ids.shape[1]}: give one of as many."
            )
        with torch.no_grad():
            self._asked(self._as_it_is(), asked, 0, 0)
        work = Integrated(
            self.model,
            self.tokens,
            baseline,
            self.at,
            self.explained,
            steps,
            memory_limit,
            self.job.tick,
        )
        with torch.no_grad():
            value = float(self.explained(work.states[-1][self.at][None])[0])
        self.off = max(self.off, abs(value - self.plain) / max(1.0, abs(self.plain)))
        for place, layer in enumerate(self.layers):
            found = work.at(layer + 1, self.plain)
            self._emit(place, found.relevance, found.start)
            self.job.emit({**self.where, "point": place}, {"steps_used": np.array(found.steps)})
            self.job.progress(place + 1, len(self.layers), self.labels[place])
        self.passes += work.blocks / self.model.n_layers

    def _as_it_is(self) -> torch.Tensor:
        """State after the last block where the text is answered, by a plain pass."""
        last = Site("resid_post", self.model.n_layers - 1)
        found: list[torch.Tensor] = []
        keep = lambda _, state: found.append(state[:, self.at].clone())  # noqa: E731
        forward(self.model, self.tokens, [last], keep, logits=None)
        self.passes += 1
        return found[0]

    def _small_step(self, own: Found) -> None:
        """Derivatives along the embeddings, and along the neurons of a layer, by the model."""
        sites = [Site("resid_pre", 0)]
        if self.neurons:
            sites.append(max(self.neurons, key=lambda site: abs(own.along[site])))
        for site in sites:
            wanted = self._stepped(site)
            every = own.neurons[site.block] if site in self.neurons else own.at[site]
            size = max(abs(wanted), float(np.abs(every).sum()), 1e-9)
            self.step_off = max(self.step_off, abs(own.along[site] - wanted) / size)

    def _stepped(self, site: Site) -> float:
        """How the answer changes along what passes at a site."""
        last = Site("resid_post", self.model.n_layers - 1)
        found: list[float] = []

        def keep(_: Site, state: torch.Tensor) -> None:
            found.append(float(self.explained(state[:, self.at])[0]))

        for sign in (1, -1):
            self.job.tick()
            change = Change(site, "scale", 1 + sign * STEP)
            forward(self.model, self.tokens, [last], keep, logits=None, changes=[change])
        self.passes += 2
        return (found[0] - found[1]) / (2 * STEP)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0
