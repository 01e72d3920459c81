"""The work of ``frequency_tags``: read the words, take the power at the rates, test it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.neurons.beyond_kinds import Beats, beyond
from layerlens.analyses.neurons.periodic import (
    Rates,
    centred,
    chances,
    detrended,
    overlap,
    periods,
    spectra,
    tagged,
)
from layerlens.analyses.neurons.rhythm_texts import WAYS, Read, Sentence, read_words
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel

KINDS = ("sentence only", "faster only", "both")
"""What tagged neurons keep time with."""
RATES = {"sentence": "sentence by sentence", "faster": "at faster rates"}
"""The slowest rate, and all others."""
TEXTS = ("in order", "swapped", "shuffled")
"""Labels of the ways, in their order."""
MEANS = {
    "": "mean_spectrum",
    "_swapped": "mean_spectrum_baseline",
    "_shuffled": "mean_spectrum_shuffled",
}
"""Spectra of all layers, by way: the controls are drawn beside that of the sentences."""
NOISE = 2000
"""Signals of white noise that the test is tried on."""


class FrequencyRun:
    """The work of one call.

    Parameters
    ----------
    sites
        Of the neurons, one for each layer.
    parts
        Sentences of the two halves.
    words
        Of a sentence.
    ranks
        How many neurons are named for each rate.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        sites: Sequence[Site],
        parts: Sequence[Sequence[Sentence]],
        words: int,
        ranks: int,
    ) -> None:
        self.job, self.model, self.sites, self.parts = job, model, sites, parts
        self.words, self.ranks = words, ranks
        half = words * len(parts[0])
        self.whole, self.half = Rates(words, 2 * half), Rates(words, half)
        self.passes = 0
        self.found: dict[str, list[float]] = {way: [] for way in WAYS}
        self.differ = self.missing = 0.0
        self.spectrum = torch.zeros(())
        self.power: dict[str, list[tuple[Tensor, Tensor]]] = {way: [] for way in WAYS}
        self.tags: list[np.ndarray] = []
        self.beats: list[Beats] = []
        self.kept: list[tuple[int, int, float]] = []

    def measure(self, runs: int, draws: int, level: float, seed: int) -> None:
        """Read the sentences and each control, and test all layers of it before the next."""
        states = [Site("resid_post", site.layer) for site in self.sites]
        for number, way in enumerate(WAYS):
            show = partial(self._show_states, states, (number, runs))
            wanted = [*self.sites, *states]
            read = read_words(
                self.job, self.model, self.parts, wanted, way, runs, seed, on_run=show
            )
            self.passes += 2 * runs
            for place, site in enumerate(self.sites):
                signals = [centred(half) for half in read.sums.pop(site) / runs]
                self._test((place, number), way, signals, draws, level, seed)
            if way != "":
                self._name_best()
        self._tell()
        self._check(draws, level, seed)

    def _show_states(self, states: Sequence[Site], at: tuple[int, int], read: Read) -> None:
        """Power of the states so far, while the runs go on."""
        for place, site in enumerate(states):
            signals = torch.cat([centred(half) for half in read.sums[site]])
            whole = signals.square().sum()
            power = (self.whole.squares(signals).sum(1) / whole.clamp_min(1e-30)).double().numpy()
            found = {"state_power_sentence": power[0], "state_power_faster": power[1:].sum()}
            self.job.emit({"layer": place, "words": at[0]}, self._known(found))
        self.job.progress(at[0] * at[1] + read.runs, len(WAYS) * at[1], "runs")

    def _known(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Without the numbers of faster rates where there are none."""
        some = len(periods(self.words)) > 1
        return {name: value for name, value in found.items() if some or "_faster" not in name}

    def _test(
        self,
        place: tuple[int, int],
        way: str,
        signals: Sequence[Tensor],
        draws: int,
        level: float,
        seed: int,
    ) -> None:
        """Tag the neurons of one layer in texts of one way; of sentences also in each half."""
        layer = {"layer": place[0]}
        spectrum = torch.stack([spectra(half) for half in signals])
        alive = spectrum.isfinite().all(1)
        mean = torch.where(alive[:, None], spectrum, 0.0).sum((0, 2)) / alive.sum().clamp_min(1)
        found = self._tags(self.whole, torch.cat(list(signals)), draws, level, seed)
        shares = [self.half.shares(half) for half in signals]
        self.power[way].append((shares[0], shares[1]))
        self.found[way].append(float(found[0].mean()))
        tags = {"tagged_sentence": found[0].mean(), "tagged_faster": found[1:].any(axis=0).mean()}
        self.job.emit({**layer, "words": place[1]}, self._known(tags))
        self.spectrum = (self.spectrum * place[0] + mean) / (place[0] + 1)
        self.job.emit(layer, {f"spectrum{way}": mean.numpy()})
        self.job.emit({}, {MEANS[way]: self.spectrum.numpy()})
        if way == "":
            one, other = (self._tags(self.half, half, draws, level, seed) for half in signals)
            self.job.emit(layer, _kinds(found) | _again(one[0], other[0]))
            self.tags.append(found[0])
            self.beats.append(Beats.of(self.whole, torch.cat(list(signals))))
        elif way == "_swapped":
            swapped = Beats.of(self.whole, torch.cat(list(signals)))
            self._beyond_kinds(place[0], swapped, draws, level, seed)
        self._compare(signals[0], shares[0])
        if alive.any():
            self.missing = max(self.missing, abs(float(mean.sum()) - 1))

    def _beyond_kinds(
        self, place: int, swapped: Beats, draws: int, level: float, seed: int
    ) -> None:
        """Which tags of a layer sentences keep beyond their words swapped between sentences."""
        tags = self.tags[place]
        found = beyond(self.beats[place], swapped, draws, level, seed, self.job.tick)
        survive, false = tags & found.tags, tags & found.false_tags
        self.kept.append((int(survive.sum()), int(tags.sum()), float(false.sum(1).mean())))
        numbers = {
            "survive": survive.mean(),
            "survive_chance": false.mean(),
            "beyond_kinds": found.mean,
            "beyond_kinds_low": found.low,
            "beyond_kinds_high": found.high,
            "beyond_kinds_chance": found.chance,
        }
        self.job.emit({"layer": place}, {name: np.array(one) for name, one in numbers.items()})

    def _tags(
        self, rates: Rates, signals: Tensor, draws: int, level: float, seed: int
    ) -> np.ndarray:
        null = rates.shuffled(signals, draws, seed, self.job.tick)
        return tagged(rates.shares(signals), null, level)

    def _compare(self, signals: Tensor, shares: Tensor) -> None:
        """Power by the waves against that of the fast Fourier transform at the same places."""
        time = signals.shape[0]
        places = [time // self.words * (j + 1) - 1 for j in range(len(shares))]
        other = spectra(signals)[places]
        known = other.isfinite()
        off = (other - shares).abs()[known]
        self.differ = max(self.differ, float(off.max()) if len(off) else 0.0)

    def _name_best(self) -> None:
        """The neurons that sentences give most power beyond swapped words in the first half.

        Their power is that in the second, in which they were not chosen.
        """
        layers = torch.cat(
            [torch.full((one.shape[1],), place) for place, (one, _) in enumerate(self.power[""])]
        )
        neurons = torch.cat([torch.arange(one.shape[1]) for one, _ in self.power[""]])
        powers = {
            way: [torch.cat([_grouped(each[half]) for each in power], 1) for half in (0, 1)]
            for way, power in self.power.items()
            if power
        }
        first = powers[""][0] - powers["_swapped"][0]
        best = first.topk(min(self.ranks, first.shape[1]), dim=1).indices
        blocks = torch.tensor([site.block for site in self.sites])
        ranks = {"rank": slice(0, best.shape[1])}
        named = {
            "neuron_layer": blocks[layers[best]].int().numpy(),
            "neuron": neurons[best].int().numpy(),
        }
        for way, (_, second) in powers.items():
            named[f"neuron_power{way}"] = second.gather(1, best).double().numpy()
        self.job.emit(ranks, named)

    def _tell(self) -> None:
        """What the controls leave of the tags, in sentences."""
        own, swapped, shuffled = (f"{np.mean(shares):.0%}" for shares in self.found.values())
        self.job.remark(
            f"At the rate of sentences {own} of the neurons are tagged, {swapped} with words "
            f"swapped between sentences and {shuffled} with words shuffled inside them: what the "
            "swap leaves is the rhythm of kinds of words."
        )
        survive, tags, false = (sum(column) for column in zip(*self.kept, strict=True))
        if tags:
            self.job.remark(
                f"Of the tagged neurons {survive / tags:.0%} keep time with sentences more than "
                f"with swapped words ({false / tags:.0%} where the two are exchanged at random): "
                "that share is the rhythm of sentences; nothing tells the others from neurons that "
                "mark kinds of words."
            )

    def _check(self, draws: int, level: float, seed: int) -> None:
        """Say how the transform and the test were verified."""
        self.job.check(
            "Parseval", self.missing, 1e-4, "what a spectrum's shares lack to 1, largest of layers"
        )
        self.job.check(
            "Fourier", self.differ, 1e-3, "power by waves and by the fast transform, largest apart"
        )
        generator = torch.Generator().manual_seed(seed)
        noise = detrended(torch.randn(self.whole.time, NOISE, generator=generator))
        null = self.whole.shuffled(noise, draws, seed, self.job.tick)
        false = (chances(self.whole.shares(noise), null) <= level).mean(1)
        limit = 4 * (level * (1 - level) / NOISE) ** 0.5
        self.job.check(
            "false rate",
            float(np.abs(false - level).max()),
            limit,
            f"white noise below {level:g}, share away from that, within 4 standard errors",
        )


def _grouped(shares: Tensor) -> Tensor:
    """Shares ``[rate, neuron]`` of the slowest rate and of all others together, if there are."""
    return torch.stack([shares[0], shares[1:].sum(0)][: len(shares)])


def _kinds(found: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of neurons by what they keep, and the overlap of the two; none of one rate."""
    if len(found) == 1:
        return {}
    slow: np.ndarray = found[0]
    fast: np.ndarray = np.logical_or.reduce(found[1:])
    shares = [(slow & ~fast).mean(), (fast & ~slow).mean(), (slow & fast).mean()]
    dice, chance = overlap(slow, fast)
    return {
        "kind": np.array(shares),
        "overlap": np.array(dice),
        "overlap_chance": np.array(chance),
    }


def _again(one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """How many tagged in one half are so in the other; NaN where none is."""
    share = (one & other).sum() / one.sum() if one.any() else np.nan
    return {"again": np.array(share), "again_chance": np.array(other.mean())}
