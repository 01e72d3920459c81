"""The work of :mod:`layerlens.analyses.features.concepts.concepts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from layerlens.analyses.answers.answer_metric import (
    METRICS,
    Metric,
    MetricFunction,
    make_metric,
)
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.contract.split import Split
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.concepts.answered import Answered
from layerlens.analyses.features.concepts.by_label import VARIABLES as BY_LABEL
from layerlens.analyses.features.concepts.by_label import ByLabel
from layerlens.analyses.features.concepts.factors import (
    Signs,
    components_explain,
    explained,
    factorised,
    matched,
    of_activations,
)
from layerlens.analyses.features.concepts.units import Unit, drawn, read_units, units_of
from layerlens.analyses.features.effects import logit_effects, why_no_effects
from layerlens.analyses.lenses.fitting.documents import text_of
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.one_each import one_each
from layerlens.corpus.rows import Row
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.text import Tokens
from layerlens.run.base import Base

STABLE = 0.8
"""Mean cosine with partners from other starts below which concepts are an accident of the fit."""
SIDES = ("train", "test")
NAMED = 3
"""Tokens in the name of a concept."""
UNTRAINED = ("explained", "top_ratio")
"""What is said of an untrained model, by names that end so."""


@dataclass(frozen=True)
class Asked:
    """What is asked for; see ``ll.concepts``."""

    site: str
    unit: str
    doubled: bool
    r: int
    designs: int
    explain: int
    longest: int
    most: int
    starts: int
    k: int
    seed: int
    untrained: bool
    keep_error: bool
    memory_limit: int


class Told:
    """What is known of the concepts of some layers.

    Parameters
    ----------
    places
        Which activations.
    measured
        The metric, the answer and the wrong answer, as they were asked for.
    labels
        Those of the texts, where they have any.
    beside
        Whether the model is an untrained one beside that which is asked about: of its concepts only
        `UNTRAINED` is handed over.
    """

    def __init__(
        self,
        job: Job,
        places: Places,
        asked: Asked,
        measured: tuple[str | MetricFunction, Any, Any],
        labels: ByLabel | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self.job, self.places, self.labels, self.beside = job, places, labels, beside
        self.asked = replace(asked, starts=0) if beside else asked
        self.model, self.signs = places.model, Signs(asked.doubled)
        self._measured, self._whose = measured, " of the untrained model" * beside
        self._off = self._allowed = self._fold = self._whole = 0.0
        self._done = 0
        self._several = len(places.sites) > 1

    def read(self, rows: Sequence[Row], split: Split) -> None:
        """Read the activations of units of either side, in one pass over the texts."""
        self.rows, asked = list(rows), self.asked
        generator = np.random.default_rng(asked.seed)
        apart = [split.is_test(text_of(row)) for row in self.rows]
        self.units: dict[str, list[Unit]] = {}
        self.answered: dict[str, list[int]] = {}
        for side, is_test in zip(SIDES, (False, True), strict=True):
            numbers = [i for i, one in enumerate(apart) if one is is_test]
            every = units_of(self.places, self.rows, numbers, asked.unit)
            room = asked.most if side == "train" else max(asked.r, asked.most // 4)
            self.units[side] = drawn(every, room, generator)
            usable = [i for i in numbers if self._counts(self.rows[i])]
            if not usable:
                raise InputError(f"No token of the {side} texts counts: give longer texts.")
            self.answered[side] = self._of_each_label(generator.permutation(usable).tolist(), side)
        if len(self.units["train"]) < asked.r:
            raise InputError(
                f"There are {len(self.units['train'])} units to learn from, fewer than r "
                f"({asked.r}) concepts: give more texts, or a smaller r."
            )
        self._require_room()
        every = [*self.units["train"], *self.units["test"]]
        values = read_units(
            self.places, self.rows, every, self.signs, self.job.tick,
            lambda done, total: self.job.progress(0, 0, f"reading {done} of {total} texts"),
        )  # fmt: skip
        count = len(self.units["train"])
        self.opened = [{"train": one[:count], "test": one[count:]} for one in values]
        if not self.beside:
            self.job.note(
                texts=len({*self._texts_of(range(len(self.rows)))}),
                train_units=count,
                test_units=len(self.units["test"]),
            )

    def _of_each_label(self, numbers: list[int], side: str) -> list[int]:
        """The first few of some rows; of rows with labels so many of each."""
        if self.labels is None:
            return numbers[: self.asked.explain]
        texts = self._texts_of(numbers)
        self.labels.require(texts, side)
        self.labels.require(self._texts_of(one.row for one in self.units[side]), side)
        seen: Counter[int] = Counter()
        kept = []
        for number, label in zip(numbers, self.labels.place[texts].tolist(), strict=True):
            seen[label] += 1
            kept += [number] if seen[label] <= self.asked.explain else []
        return kept

    def _texts_of(self, numbers: Iterable[int]) -> list[int]:
        """The texts that rows are of."""
        return [text_of(self.rows[number]) for number in numbers]

    def _counts(self, row: Row) -> bool:
        return bool(self.places.kept(self._tokens_of(row)).any())

    def _tokens_of(self, row: Row) -> Tokens:
        """What is run of a row."""
        return self.job.tokens(row.ids[: self.asked.longest], self.model)

    def _require_room(self) -> None:
        count = sum(len(some) for some in self.units.values())
        needed = 4 * 2 * count * self.model.d_model * len(self.places.sites)
        if needed > self.asked.memory_limit:
            raise MemoryLimitError(
                f"The activations of {count} units in {len(self.places.sites)} layers take "
                f"{needed / 1e6:.0f} MB, but memory_limit is {self.asked.memory_limit / 1e6:.0f} "
                f"MB: ask for fewer layers, lower most, or set memory_limit={needed}."
            )

    def all_layers(self, variables: dict[str, Variable]) -> None:
        """Find the concepts of one layer after the other, and what they do."""
        for layer in range(len(self.places.sites)):
            self.fit(layer, variables)
            self.explain(layer)
            self.delete(layer)

    def fit(self, layer: int, variables: dict[str, Variable]) -> None:
        """Find the concepts of a layer, and how well they hold it beside what chance holds."""
        asked, tick = self.asked, self.job.tick
        train, test = (self.opened[layer][side] for side in SIDES)
        self.factors, ended = factorised(train, asked.r, self.signs, asked.seed)
        if not ended:
            self.job.remark(
                f"The factorisation at {self.places.sites[layer]}{self._whose} did not settle; its "
                "concepts may still move."
            )
        tick()
        x, y = self.signs.fold(train).astype(np.float64), self.signs.fold(test).astype(np.float64)
        self._fold = max(self._fold, float(np.abs(self.signs.fold(self.signs.open(y)) - y).max()))
        used = self.factors.coefficients(train, tick)
        if not self.beside:
            if layer == 0:
                self._declare(variables, used)
            self._emit_concepts(layer, used)
        held = self.factors.coefficients(test, tick)
        beside = {
            "_random": of_activations(train, asked.r, self.signs, asked.seed),
            "_shuffled": self.factors.shuffled(asked.seed),
        }
        mean = x.mean(0)
        self._emit(layer, explained=explained(y, self.factors.written(held), mean))
        if self.beside:
            return
        for name, one in beside.items():
            written = one.written(one.coefficients(test, tick))
            self._emit(layer, **{f"explained{name}": explained(y, written, mean)})
        self._emit(layer, explained_baseline=components_explain(x, y, asked.r))
        self._compare_starts(layer, train)
        if self.labels:
            texts, amounts = self._amounts(np.concatenate([used, held]))
            self._emit(layer, **self.labels.told(texts, amounts))

    def _amounts(self, used: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Texts, and how much of each concept a unit of them has in the mean."""
        every = [*self.units["train"], *self.units["test"]]
        texts, own = np.unique(self._texts_of(one.row for one in every), return_inverse=True)
        sums = np.zeros((len(texts), used.shape[1]))
        np.add.at(sums, own, used)
        return texts.tolist(), sums / np.bincount(own)[:, None]

    def _compare_starts(self, layer: int, train: np.ndarray) -> None:
        """How far fits that began elsewhere found the same concepts."""
        asked, cosines, chance = self.asked, [], []
        for start in range(1, asked.starts + 1):
            self.job.tick()
            other, _ = factorised(train, asked.r, self.signs, asked.seed + start, init="random")
            cosines.append(matched(self.factors, other))
            chance.append(matched(self.factors, other.shuffled(asked.seed)).mean())
        if not cosines:
            return
        mean = float(np.mean(cosines))
        self._emit(
            layer, agreement=np.mean(cosines, 0), stability=mean, stability_shuffled=np.mean(chance)
        )
        if mean < STABLE:
            self.job.remark(
                f"The concepts at {self.places.sites[layer]} are unstable: other starts find "
                f"others (mean cosine of partners {mean:.2f}, below {STABLE:g})."
            )

    def _declare(self, variables: dict[str, Variable], used: np.ndarray) -> None:
        asked = self.asked
        ranks = np.arange(1, asked.k + 1, dtype=np.int32)
        names: Any = np.arange(1, asked.r + 1, dtype=np.int32)
        if not self._several:
            words = [[self.model.token_string(one) for one in some] for some in self._tokens(used)]
            names = np.array([f"{i}: {' '.join(map(_plain, some[:NAMED]))}"
                              for i, some in enumerate(words, 1)])  # fmt: skip
        sizes = {"concept": asked.r, "rank": asked.k, "example": asked.k,
                 "entry": self.factors.rows.shape[1]}  # fmt: skip
        coords = {"concept": names, "rank": ranks, "example": ranks}
        if self.labels:
            sizes["label"] = len(self.labels.names)
            coords["label"] = np.array([str(name) for name in self.labels.names])
        if self._several:
            sizes["layer"] = len(self.places.sites)
            coords["layer"] = np.array(self.places.layers, dtype=np.int32)
        left = set() if asked.starts else {"agreement", "stability", "stability_shuffled"}
        left |= set() if self.labels else set(BY_LABEL)
        left |= set() if asked.untrained else {f"{name}_untrained" for name in UNTRAINED}
        self._writes = why_no_effects(self.model, asked.site) is None
        left |= set() if self._writes else {"written_token"}
        known = [name for name in variables if name not in left]
        # A line from a concept of one layer to one of another would say nothing.
        hidden = [name for name in known if self._several and "concept" in variables[name].dims]
        named = {name: ((name,), one) for name, one in coords.items()}
        self.job.declare(sizes, named, known, hidden)
        metric = self._measured[0]
        units = METRICS[metric][1] if metric in METRICS else "1"
        for name in known:
            if variables[name].units == "logit" != units:
                self.job.describe(name, units=units)

    def _strongest(self, used: np.ndarray) -> Iterator[list[int]]:
        """Of each concept the units that have most of it, one in a text."""
        for column in used.T:
            found: dict[int, int] = {}
            for one in np.argsort(-column, kind="stable").tolist():
                if column[one] <= 0 or len(found) == self.asked.k:
                    break
                found.setdefault(text_of(self.rows[self.units["train"][one].row]), one)
            yield list(found.values())

    def _tokens(self, used: np.ndarray) -> Iterator[list[int]]:
        """Of each concept the tokens whose units hold most of it together."""
        ids = [self.rows[one.row].ids[one.positions[-1]] for one in self.units["train"]]
        for column in used.T:
            mass: Counter[int] = Counter()
            for one in column.nonzero()[0].tolist():
                mass[ids[one]] += float(column[one])  # type: ignore[assignment]
            yield [token for token, _ in mass.most_common(self.asked.k)]

    def _emit_concepts(self, layer: int, used: np.ndarray) -> None:
        """What is known of the concepts from the texts that they were learned from."""
        asked = self.asked
        tokens, rows, places = (np.full((asked.r, asked.k), -1, np.int32) for _ in range(3))
        for concept, (some, words) in enumerate(
            zip(self._strongest(used), self._tokens(used), strict=True)
        ):
            tokens[concept, : len(words)] = words
            units = [self.units["train"][one] for one in some]
            rows[concept, : len(units)] = [one.row for one in units]
            places[concept, : len(units)] = [one.positions[-1] for one in units]
        size = used.sum(0) * np.linalg.norm(self.factors.rows, axis=1)
        self._emit(
            layer,
            share=size / max(1e-12, size.sum()),
            density=(used > 0).mean(0),
            units=(used > 0).sum(0),
            token=tokens,
            dictionary=self.factors.rows,
            example_row=rows,
            example_position=places,
        )
        if self._writes:
            directions = torch.from_numpy(self.factors.directions).float()
            count = min(asked.k, self.model.d_vocab)
            raised, _ = logit_effects(self.model, directions, count, self.job.tick)
            written = np.full((asked.r, asked.k), -1, np.int32)
            written[:, :count] = raised[:, 0].numpy()
            self._emit(layer, written_token=written)

    def _texts(self, layer: int, side: str) -> Iterator[Answered]:
        """The texts that are run with less of concepts."""
        site, numbers = self.places.sites[layer], self.answered[side]
        for number in numbers:
            row = self.rows[number]
            self._answer = row
            yield Answered(
                self.places, site, self.factors, self._tokens_of(row), self._metric,
                keep_error=self.asked.keep_error, memory_limit=self.asked.memory_limit,
                tick=self.job.tick,
            )  # fmt: skip
            self._done += 1
            total = len(self.places.sites) * sum(len(some) for some in self.answered.values())
            self.job.progress(self._done, total, f"{site}{self._whose}")

    def _metric(self, base: Base) -> Metric:
        metric, *given = self._measured
        count = 1 + max(text_of(row) for row in self.rows)
        answer, wrong = (
            one_each(one, count, name)[text_of(self._answer)]
            for one, name in zip(given, ("answer", "wrong"), strict=True)
        )
        return make_metric(
            self.model, metric, final=base.final, logits=base.logits, answer=answer, wrong=wrong
        )

    def explain(self, layer: int) -> None:
        """Measure the importance of the concepts on texts that they were learned from."""
        found: list[np.ndarray] = []
        for text in self._texts(layer, "train"):
            self._verify(text)
            found.append(text.importance(self.asked.designs, self.asked.seed))
            mean, low, high = mean_interval(np.stack(found))
            self._emit(layer, importance=mean, importance_low=low, importance_high=high)
        if self.labels and not self.beside:
            texts = self._texts_of(self.answered["train"])
            self._emit(layer, **self.labels.importance(texts, np.stack(found)))
        self._importance = mean

    def _verify(self, text: Answered) -> None:
        """With the error put back it is the model, and a masked run is one by whole passes."""
        self._allowed = max(self._allowed, abs(text.value))
        self._off = max(self._off, abs(text.error_put_back() - text.value))
        half = np.full((1, self.asked.r), 0.5)
        whole, used = (float(text.masked(half, how)[0]) for how in ("naive", "auto"))
        self._whole = max(self._whole, abs(whole - used))

    def delete(self, layer: int) -> None:
        """Take each concept out of texts that were set apart, and as much at random."""
        generator = np.random.default_rng(self.asked.seed)
        random = generator.standard_normal(self.factors.directions.shape)
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for text in self._texts(layer, "test"):
            found.append(text.moves_without(random))
            own, beside = np.stack(found, 1).mean(1)
            self._emit(layer, deletion=own, random_deletion=beside)
        known = np.nan_to_num(self._importance, nan=-1.0)
        top = int(known.argmax())
        varied = np.ptp(known) > 0 and np.ptp(own) > 0
        self._emit(
            layer,
            top_deletion=own[top],
            top_deletion_baseline=np.delete(own, top).mean(),
            top_deletion_random=beside[top],
            top_ratio=own[top] / beside[top] if beside[top] else np.nan,
            rank_correlation=spearmanr(known, own).statistic if varied else np.nan,
        )

    def _emit(self, layer: int, **found: Any) -> None:
        if self.beside:
            found = {f"{name}_untrained": found[name] for name in UNTRAINED if name in found}
        where = {"layer": layer} if self._several else {}
        self.job.emit(where, {name: np.asarray(one) for name, one in found.items()})

    def check(self) -> None:
        """Say what was verified on the way."""
        limit = logit_tolerance(self.model.dtype) * max(1.0, self._allowed)
        self.job.check(
            "with the error, the model itself", self._off, limit,
            "largest difference of the answer with concepts and their error put back",
        )  # fmt: skip
        self.job.check(
            "whole passes", self._whole, limit,
            "largest difference of a run with half of each concept from a whole pass",
        )  # fmt: skip
        self.job.check(
            "signs fold back", self._fold, 0.0, "largest difference of an entry, folded back"
        )
        texts = {f"{side}_answered": len(some) for side, some in self.answered.items()}
        self.job.note(**texts, error="kept" if self.asked.keep_error else "left out")


def _plain(word: str) -> str:
    """A token as a part of a name: spaces and line ends are seen."""
    return word.strip() or repr(word)[1:-1]
