"""The work of one call of ``fourier``: spectra, key frequencies, losses, the model without each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.numbers.cyclic_basis import PlanePower
from layerlens.run.where import neurons_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.analyses.numbers.question_rows import Asked, QuestionRows

CHANCE = 0.95
"""Share of random orders whose strongest frequency is weaker than chance."""


class FourierRun:
    """What one call does.

    Parameters
    ----------
    trained
        ``[a, b]`` bool, the pairs of training; None where they are not known.
    pairs, draws, seed
        As of the analysis.
    """

    def __init__(
        self,
        job: Job,
        rows: QuestionRows,
        trained: Tensor | None,
        pairs: int,
        draws: int,
        seed: int,
    ) -> None:
        self.job, self.rows, self.basis = job, rows, rows.basis
        self.period = rows.sums.period
        self.every = torch.arange(self.period)
        self.split = trained is not None
        whole = torch.ones(self.period, self.period, dtype=torch.bool)
        self.trained = whole if trained is None else trained
        self.random = np.random.default_rng(seed)
        self.orders = [self.random.permutation(self.period) for _ in range(draws)]
        self.draws, self.pairs = draws, pairs
        self.key: list[int] = []
        self.steps, self.done = 2 * self.period + len(self.basis.frequencies), 0

    def run(self, key: Sequence[int] | None) -> None:
        """Measure everything, and check it."""
        self._declare()
        self._embedding(key)
        self._read()
        self._logits()
        self._losses()
        self._ablate()
        self._say()

    def _declare(self) -> None:
        layers, model = self.rows.layers, self.rows.model
        widths = [neurons_of(model, layer) for layer in layers]
        sizes = {"frequency": len(self.basis.frequencies)}
        coords = {"frequency": (("frequency",), np.array(self.basis.frequencies))}
        if layers:
            sizes |= {"layer": len(layers), "neuron": max(widths)}
            coords["layer"] = (("layer",), np.array(layers, dtype=np.int32))
        self.job.declare(sizes, coords)

    def _step(self, what: str) -> None:
        self.done += 1
        self.job.progress(self.done, self.steps, what)

    def _chance(self, shares: list[Tensor]) -> np.ndarray:
        """What the strongest frequency has in most random orders, at every frequency."""
        most = np.quantile([float(share.max()) for share in shares], CHANCE)
        return np.full(len(self.basis.frequencies), most)

    def _embedding(self, key: Sequence[int] | None) -> None:
        """Spectrum of the embedding, and from it the key frequencies."""
        held = self.rows.embedding - self.basis.kept(self.rows.embedding, self.rows.removed)
        power = self.basis.power(held)
        varied = float((held - held.mean(0)).square().sum())
        self.parseval = abs(float(power.sum()) - varied) / max(varied, 1e-300)
        share = power / max(varied, 1e-300)
        chance = self._chance(
            [self.basis.power(held[order]) / max(varied, 1e-300) for order in self.orders]
        )
        above = (share.numpy() > chance).nonzero()[0] + 1
        self.key = sorted(set(above.tolist() if key is None else key))
        self.order = (share.argsort(descending=True) + 1).tolist()
        self.job.emit({}, {"embed_power": share.numpy(), "embed_power_chance": chance})
        total = float(share[[k - 1 for k in self.key]].sum())
        self.job.note(key_frequencies=json.dumps(self.key), key_share=total)

    def _read(self) -> None:
        """First pass: logits as a function of a + b, and the waves of neurons."""
        layers, model = self.rows.layers, self.rows.model
        order = self.orders[0]
        place = np.argsort(order)
        own = {x: PlanePower(self.basis, neurons_of(model, x)) for x in layers}
        mixed = {x: PlanePower(self.basis, neurons_of(model, x)) for x in layers}
        self.by_sum = torch.zeros(self.period, self.period, dtype=torch.float64)
        self.squares = 0.0
        self.asked: list[Asked] = []
        for a in range(self.period):

            def neurons(layer: int, values: Tensor, a: int = a) -> None:
                own[layer].add(a, values)
                mixed[layer].add(int(place[a]), values[torch.from_numpy(order)])

            asked = self.rows.ask(torch.full_like(self.every, a), self.every)
            self.asked.append(asked)
            logits = self.rows.answers(asked, (), neurons)
            self.by_sum += logits[(self.every - a) % self.period] / self.period
            self.squares += float(logits.square().sum())
            if a == 0:
                self.first = logits[0]
            self._step("pairs")
        for number, layer in enumerate(layers):
            self._neurons(number, own[layer], mixed[layer])

    def _neurons(self, number: int, own: PlanePower, mixed: PlanePower) -> None:
        shares, width = own.shares(), own.width
        best = shares.nan_to_num(-1).max(0)
        self.job.emit(
            {"layer": number},
            {"neuron_power": own.mean().numpy(), "neuron_power_chance": mixed.mean().numpy()},
        )
        dead = shares.isnan().all(0)
        self.job.emit(
            {"layer": number, "neuron": slice(width)},
            {
                "neuron_frequency": torch.where(dead, -1, best.indices + 1).int().numpy(),
                "neuron_share": best.values.where(~dead, torch.nan).numpy(),
            },
        )

    def _logits(self) -> None:
        """Spectrum of the mean logits of each sum, and the losses of parts of them."""
        mean = self.by_sum.mean(0)
        varied = max(self.squares - self.period**2 * float(mean.square().sum()), 1e-300)
        powers = [self.basis.power(self.by_sum[order]) for order in self.orders]
        scale = self.period / varied
        self.job.emit(
            {},
            {
                "logit_power": (self.basis.power(self.by_sum) * scale).numpy(),
                "logit_power_chance": self._chance([power * scale for power in powers]),
            },
        )
        self.waves = torch.stack(
            [self.basis.kept(self.by_sum, [k]) for k in self.basis.frequencies]
        )
        self.mean = mean
        only = [float(cross_entropy(mean + wave, self.every)) for wave in self.waves]
        self.sets = self._other_sets()
        chance = [float(self._restricted(chosen)) for chosen in self.sets]
        self.job.emit(
            {},
            {
                "loss_alone": np.array(only),
                "restricted_loss": np.array(float(self._restricted(self.key))),
                "restricted_loss_chance": np.array(np.mean(chance) if chance else np.nan),
            },
        )

    def _restricted(self, frequencies: Sequence[int]) -> Tensor:
        return cross_entropy(self.mean + self._together(frequencies), self.every)

    def _together(self, frequencies: Sequence[int]) -> Tensor:
        """``[sum, answer]``: the waves of some frequencies in the mean logits."""
        return self.waves[[k - 1 for k in frequencies]].sum(0)

    def _other_sets(self) -> list[list[int]]:
        """Random sets of frequencies that are no key ones, as many; none where there are not."""
        others = [k for k in self.basis.frequencies if k not in self.key]
        if not self.key or len(others) < len(self.key):
            return []
        drawn = [self.random.permutation(others)[: len(self.key)] for _ in range(self.draws)]
        return [sorted(chosen.tolist()) for chosen in drawn]

    def _losses(self) -> None:
        """Second pass: the loss of every pair, and what it is without some waves."""
        whole = {True: np.zeros(3), False: np.zeros(3)}
        gone = torch.stack([self._together(self.key), *map(self._together, self.sets)])
        excluded = torch.zeros(len(gone), dtype=torch.float64)
        without = torch.zeros(len(self.waves), dtype=torch.float64)
        for a in range(self.period):
            logits = self.rows.answers(self.asked[a])
            sums = (self.every + a) % self.period
            right = logits.argmax(-1) == sums
            loss = cross_entropy(logits, sums, reduction="none")
            for shown in (True, False):
                chosen = self.trained[a] == shown
                found = (loss[chosen].sum(), right[chosen].sum(), chosen.sum())
                whole[shown] += np.array([float(number) for number in found])
            chosen = self.trained[a]
            if bool(chosen.any()):
                kept, at = logits[chosen], sums[chosen]
                excluded += _losses(kept - gone[:, at], at)
                without += _losses(kept - self.waves[:, at], at)
            self._step("pairs")
        self.whole = {shown: sums[:2] / max(sums[2], 1) for shown, sums in whole.items()}
        numbers = {
            "loss": self.whole[True][0],
            "accuracy": self.whole[True][1],
            "held_out_loss": self.whole[False][0] if whole[False][2] else np.nan,
            "held_out_accuracy": self.whole[False][1] if whole[False][2] else np.nan,
            "excluded_loss": float(excluded[0]) / whole[True][2],
            "excluded_loss_chance": float(excluded[1:].mean()) / whole[True][2],
            "loss_without": without.numpy() / whole[True][2],
        }
        self.job.emit({}, {name: np.asarray(number) for name, number in numbers.items()})

    def _ablate(self) -> None:
        """The model itself on some pairs, with one frequency less in its embedding, then none."""
        shown = self.trained.nonzero()
        chosen = shown[torch.from_numpy(self.random.permutation(len(shown))[: self.pairs])]
        asked = self.rows.ask(*chosen.T)
        sums = (asked.a + asked.b) % self.period

        def without(frequencies: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            logits = self.rows.answers(asked, frequencies)
            loss, right = cross_entropy(logits, sums), (logits.argmax(-1) == sums).double().mean()
            return loss.numpy(), right.numpy()

        others = [k for k in self.order if k not in self.key]
        sets = {"keyless_accuracy": self.key, "key_only_accuracy": others}
        self.job.emit({}, {name: without(gone)[1] for name, gone in sets.items()})
        for k in self.order:
            loss, right = without([k])
            found = {"loss_ablated": loss, "accuracy_ablated": right}
            self.job.emit({"frequency": k - 1}, found)
            self._step("frequencies")
        none = self.rows.answers(asked, list(self.basis.frequencies))
        self.unmoved = float((none - none[:1]).abs().max() / none.abs().max().clamp_min(1e-300))

    def _say(self) -> None:
        job, period = self.job, self.period
        job.note(period=period, passes=2 * period**2, trained_pairs=int(self.trained.sum()))
        if not self.split:
            job.remark("Which pairs training showed is not known, so every loss is of all pairs.")
        if not self.key:
            job.remark("No frequency of the embedding is above chance, so there is no key one.")
        what = "sum of the powers of the embedding against its variance"
        job.check("Parseval", self.parseval, 1e-9, what)
        total = self.waves.sum(0) + self.mean - self.by_sum
        size = self.by_sum.abs().max().clamp_min(1e-300)
        what = "all waves together against the mean logits, of the largest"
        job.check("nothing is lost", float(total.abs().max() / size), 1e-9, what)
        limit = logit_tolerance(self.rows.model.dtype)
        zero = torch.zeros(1, dtype=torch.int64)
        alone = (self.rows.answers(self.rows.ask(zero, zero))[0] - self.first).abs().max()
        alone /= self.first.abs().max().clamp_min(1e-300)
        what = "logits of the first question by itself against those of its batch, of the largest"
        job.check(
            "alone as in a batch",
            float(alone / self.first.abs().max().clamp_min(1e-300)),
            limit,
            what,
        )
        what = "the embedding of a number at a against that at b, of the largest entry"
        job.check("one embedding", self.rows.apart, limit, what)
        what = "how far logits of different questions differ without any frequency, of the largest"
        job.check("no number without waves", self.unmoved, limit, what)


def _losses(logits: Tensor, answers: Tensor) -> Tensor:
    """``[way]``: summed loss of logits ``[way, n, answer]`` for the answers ``[n]``."""
    right = logits.gather(-1, answers.expand(len(logits), -1)[..., None])[..., 0]
    return (logits.logsumexp(-1) - right).sum(-1)
