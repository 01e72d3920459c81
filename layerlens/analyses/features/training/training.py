"""The work of learning a dictionary: a buffer is filled, shuffled and learned from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.learning import data_of
from layerlens.analyses.contract.options import plain
from layerlens.analyses.features.activations import special_ids
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.training.asked import Asked, chunks, count, shuffled, sizes_of
from layerlens.analyses.features.training.learner import STATE, Learns
from layerlens.analyses.lenses.fitting.documents import read_rows, text_of
from layerlens.errors import Cancelled, InputError
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.text import Tokens

POINTS = 20
"""Points of the curves, at most."""
OFF = 0.15
"""How far, as a share of ``k``, the L0 may be off without a word."""
CURVES = ("explained", "control", "loss", "l0", "dead")
LEARNED = "learned"
LAYERS = "layer_explained_variance"
"""What each layer's own is called, where there are several and each has a dictionary."""


class Training:
    """The work of one call.

    Parameters
    ----------
    job, texts
        As the analysis is given them.
    asked
        Its options.
    """

    def __init__(self, job: Job, texts: Tokens | Texts, asked: Asked) -> None:
        self.job, self.texts, self.asked = job, texts, asked
        split = job.split(asked.seed, asked.test)
        self.taught = frozenset(split.train)
        self.sizes = sizes_of(asked, texts, self.taught)
        self.judge = asked.judge(self._held_out(frozenset(split.test)))
        self.learner: Learns | None = None
        self.place, self.inside = (0, 0), 0
        # A step takes a batch at most, so that each point is met by one of its own.
        self.points = min(POINTS, max(1, self.sizes.total // (2 * asked.batch)))
        self.history = np.full((len(CURVES), self.points), np.nan, dtype=np.float32)
        layers = len(asked.places.layers)
        self.by_layer = np.full((layers, self.points), np.nan, dtype=np.float32)
        self.losses: list[tuple[float, float]] = []

    def _held_out(self, texts: frozenset[int]) -> Tensor:
        """``[n, layer, width]`` activations of texts that are not learned from."""
        asked, special = self.asked, special_ids(self.asked.model)
        rows: list[Row] = []
        room = asked.test_tokens
        for row in read_rows(asked.model, self.texts):
            if room > 0 and text_of(row) in texts:
                rows.append(row)
                room -= count(row, asked.positions_skipped, special)
        found = self._activations(rows)
        if not len(found):
            raise InputError(
                f"No token is left for the test when special ones and the first "
                f"{asked.positions_skipped} of each text do not count: give longer texts."
            )
        return found[: asked.test_tokens]

    def run(self) -> None:
        """Learn until so many activations were seen, or someone stops."""
        asked = self.asked
        self._declare()
        begun = self._begun()
        if self.sizes.train < 2:
            raise InputError(
                "No two tokens are left to learn from when special ones and the first "
                f"{asked.positions_skipped} of each text do not count: give longer texts."
            )
        for place, rows in chunks(asked, self.texts, self.taught, self.place, self.sizes.total):
            x = asked.rows(self._activations(rows, place))
            if self.learner is None:
                self.learner = asked.learner(self.sizes.total, x)
                if begun is not None:
                    self.learner.take(begun.arrays)
            if place != self.place:
                self.place, self.inside = place, 0
            self.judge.see(x)
            self._learn(self.learner, x)
            if self.learner.seen >= self.sizes.total:
                break
            del x  # before the next buffer is filled, or two are held at once
        self._end()

    def _activations(self, rows: list[Row], place: tuple[int, int] | None = None) -> Tensor:
        """``[token, site, width]``; what is learned together is shuffled where it is a chunk.

        Each goes to its shuffled place as it comes: a copy to shuffle from would be as large.
        """
        asked, special = self.asked, special_ids(self.asked.model)
        tokens = sum(count(row, asked.positions_skipped, special) for row in rows)
        x = torch.empty(tokens, len(asked.places.sites), asked.width)
        into, start = asked.rows(x), 0
        to = None if place is None else shuffled(asked.seed, place, len(into))
        for part in asked.places.read(rows, self.job.tick):
            found = asked.rows(part)
            here = slice(start, start + len(found))
            into[here if to is None else to[here]] = found
            start = here.stop
        if start != len(into):
            raise RuntimeError(f"{len(into)} activations were counted and {start} were read")
        return x

    def _learn(self, learner: Learns, x: Tensor) -> None:
        """Go through one buffer, from where an earlier call stood in it."""
        parts = x.tensor_split(-(-len(x) // self.asked.batch))
        try:
            for part in parts[self.inside :]:
                if learner.seen >= self.sizes.total:
                    break
                self.job.tick()
                loss = learner.step(part)
                self.inside += 1
                self.losses.append((loss.error, loss.l0))
                self.job.progress(min(learner.seen, self.sizes.total), self.sizes.total, "learning")
                self._show(learner)
        except Cancelled:
            self._hand_over(learner)
            raise
        # What goes on from here need not fill this buffer again.
        self.place, self.inside = (self.place[0], self.place[1] + 1), 0
        self._hand_over(learner)

    def _show(self, learner: Learns) -> None:
        """Put a point on the curves where the next one is due."""
        point = min(learner.seen, self.sizes.total) * self.points // self.sizes.total - 1
        if point < 0 or not np.isnan(self.history[0, point]):
            return
        found = self.judge.measure(learner.dictionaries())
        loss, _ = np.mean(self.losses, axis=0)
        self.losses.clear()
        dead = float(learner.dead.float().mean())
        control = self.judge.components(found.l0)
        self.history[:, point] = (found.explained.mean(), control, loss, found.l0, dead)
        self.by_layer[:, point] = found.explained
        self._emit(point)

    def _emit(self, point: int) -> None:
        explained, control, loss, l0, dead = self.history[:, point]
        arrays = {"loss": loss, "l0": l0, "dead": dead}
        told = {name: np.asarray(value) for name, value in arrays.items()}
        told["explained_variance"] = np.array([explained, control])
        if self.asked.dictionaries > 1:
            told[LAYERS] = self.by_layer[:, point]
        self.job.emit({"activations": point}, told)

    def _hand_over(self, learner: Learns) -> None:
        """Hand over the dictionary as it is, and what is needed to go on."""
        arrays = learner.arrays() | learner.state()
        arrays[STATE + "place"] = torch.tensor([*self.place, self.inside])
        arrays[STATE + "history"] = torch.from_numpy(self.history)
        arrays[STATE + "by_layer"] = torch.from_numpy(self.by_layer)
        arrays[STATE + "shares"] = torch.from_numpy(self.judge.shares)
        arrays[STATE + "losses"] = torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 2)
        places = self.asked.places
        facts: dict[str, Any] = {"dictionary": learner.form().told(), **self.asked.facts()}
        facts |= {"special": sorted(special_ids(places.model)), "activations_seen": learner.seen}
        self.job.learned(arrays, facts=facts)

    def _end(self) -> None:
        learner, job = self.learner, self.job
        if learner is None:
            raise RuntimeError("texts with tokens gave no chunk")
        dictionaries = learner.dictionaries()
        found = self.judge.measure(dictionaries)
        scores = {f"explained_variance/{layer}": float(value) for layer, value in zip(
            self.asked.places.layers, found.explained, strict=True)}  # fmt: skip
        scores |= {"l0": found.l0} | self.judge.controls(found.l0, self.asked.places.layers)
        dead = float(learner.dead.float().mean())
        job.learned({"density": found.density}, {"test": scores, "train": {"dead": dead}})
        job.note(
            passes=learner.seen / max(1, self.sizes.train),
            activations=learner.seen,
            features=self.asked.features,
        )
        if self.sizes.total > self.sizes.train:
            job.remark(
                f"The texts were read {self.sizes.total / self.sizes.train:.1f} times: a "
                "dictionary that sees little text learns its repetitions."
            )
        if abs(found.l0 - self.asked.k) > OFF * self.asked.k:
            job.remark(
                f"For a token of the texts set apart {found.l0:.1f} features are on, where k is "
                f"{self.asked.k}: give more activations or smaller batches, so that there are more "
                "steps to get there."
            )
        if self.asked.kind == "topk":
            most = self.judge.most_on(dictionaries)
            job.check("no more than k", most - self.asked.k, 0, "features on above k, of any token")
        if self.asked.kind != "batchtopk":  # which chooses by batch while it learns
            self._check_use(learner, dictionaries)

    def _check_use(self, learner: Learns, dictionaries: Sequence[Dictionary]) -> None:
        """In the units of the model it has to compute what it computed while it was learned."""
        loss = learner.look(self.judge.first())
        left = self.judge.unexplained(dictionaries)
        self.job.check(
            "used as it was learned", abs(left - loss.error), 1e-3 * (1 + loss.error),
            "unexplained variance with the dictionary as it is saved, from that in training",
        )  # fmt: skip

    def _declare(self) -> None:
        seen = (np.arange(1, self.points + 1) * self.sizes.total / self.points).astype(np.int64)
        coords = {
            "dictionary": (("dictionary",), np.array([LEARNED, self.asked.CONTROL])),
            "activations": (
                ("activations",),
                np.array([_short(number) for number in seen.tolist()]),
            ),
        }
        lengths = {"dictionary": 2, "activations": self.points}
        if self.asked.dictionaries > 1:
            layers = self.asked.places.layers
            lengths["layer"] = len(layers)
            coords["layer"] = (("layer",), np.array(layers))
        self.job.declare(lengths, coords)

    def _begun(self) -> Fitted | None:
        """Take over where an earlier call stood.

        Raises
        ------
        InputError
            It is of another kind or model, or was begun with other texts or options.
        """
        asked, given = self.asked, self.asked.resume
        if given is None:
            return None
        begun = open_saved(given) if isinstance(given, str | os.PathLike) else given
        if not isinstance(begun, Fitted):
            raise InputError(
                f"resume is no dictionary: give what an earlier ll.train_{asked.LEARNS} returned."
            )
        begun.require(asked.model, asked.LEARNS)
        if STATE + "place" not in begun:
            raise InputError(
                f"This dictionary was not begun by ll.train_{asked.LEARNS}: it cannot go on."
            )
        if begun.data != data_of(asked.model, {"text": self.texts}):
            raise InputError("The dictionary was begun with other texts: give the same ones.")
        for name in (*asked.SAME, "layers"):
            mine = asked.places.layers if name == "layers" else plain(getattr(asked, name))
            if begun.options.get(name) != mine:
                raise InputError(
                    f"The dictionary was begun with {name}={begun.options.get(name)!r}: give the "
                    "same, or begin anew."
                )
        *place, self.inside = begun[STATE + "place"].tolist()
        self.place = (place[0], place[1])
        self.judge.shares = begun[STATE + "shares"].numpy().copy()
        self.history = begun[STATE + "history"].numpy().copy()
        self.by_layer = begun[STATE + "by_layer"].numpy().copy()
        self.losses = [tuple(pair) for pair in begun[STATE + "losses"].tolist()]
        for point in np.flatnonzero(~np.isnan(self.history[0])):
            self._emit(int(point))
        return begun


def _short(number: int) -> str:
    """A number of activations as the label of a point."""
    if number < 10_000:
        return f"{number:,}"
    thousands = number < 10_000_000
    return f"{number / 1e3:.0f}k" if thousands else f"{number / 1e6:.0f}M"
