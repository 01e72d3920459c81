"""Classifiers of labels at every depth: a probe of half of the texts, or words of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.information.class_geometry import simplex
from layerlens.analyses.information.label_classifier import (
    Agreement,
    Linear,
    RidgeFits,
    agreement,
)
from layerlens.errors import InputError, ModelError
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

PROBE = "probe"


class _Halves:
    """Labels of the texts of two halves, as given and dealt out anew within each."""

    def __init__(self, job: Job, place: np.ndarray, shuffles: int, seed: int) -> None:
        self.job = job
        split = job.halves(seed)
        self.train, self.test = np.array(split.train), np.array(split.test)
        random = np.random.default_rng((seed, 4))
        given = place[self.train], place[self.test]
        dealt = [tuple(map(random.permutation, given)) for _ in range(shuffles)]
        self.dealt: list[tuple[np.ndarray, ...]] = [given, *dealt]

    def compared(self, classifier: Linear, states: np.ndarray, draw: int) -> Agreement:
        """Of the labels of one draw; 0 are those that were given."""
        known, apart = self.dealt[draw]
        return agreement(classifier, (states[self.train], known), (states[self.test], apart))


class ProbeOfLabels(_Halves):
    """A probe of each depth, fitted on one half of the texts."""

    def __init__(self, job: Job, place: np.ndarray, shuffles: int, seed: int, ridge: float) -> None:
        super().__init__(job, place, shuffles, seed)
        self.ridge = ridge
        job.note(classifier=f"a probe of {len(self.train)} texts, held against the others")

    def at(self, states: np.ndarray) -> list[Agreement]:
        """What it has in common with the means of states ``[text, d]``, a draw each."""
        fits = RidgeFits(states[self.train], self.ridge)
        found = []
        for draw, (known, _) in enumerate(self.dealt):
            self.job.tick()
            found.append(self.compared(fits.of(known), states, draw))
        return found

    def check(self, states: np.ndarray, first: Tokens, pool: str) -> None:
        """Hold the last probe against the equations that it solves."""
        del first, pool
        known = self.dealt[0][0]
        fits = RidgeFits(states[self.train], self.ridge)
        error = fits.error(fits.of(known), known)
        what = "normal equations of the probe of the last states, of the largest entry"
        self.job.check("the probe is least squares", error, 1e-8, what)


class WordsOfLabels(_Halves):
    """The rows of one word for each label in the model's head, which reads its own norm."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        place: np.ndarray,
        shuffles: int,
        seed: int,
        names: Sequence[Any],
        words: Any,
    ) -> None:
        super().__init__(job, place, shuffles, seed)
        self.model = model
        self.ids = _tokens(model, names, words)
        matrix = model.head_matrix()
        if matrix is None:
            raise ModelError(
                f"The head of {model.name} is no plain matrix, so words have no rows in it: leave "
                "classifier out for a probe."
            )
        self.matrix = matrix
        self.words = self._rows(self.ids)
        random = np.random.default_rng((seed, 5))
        count = len(self.ids)
        others = [random.choice(model.d_vocab, count, replace=False) for _ in range(shuffles)]
        self.spread = np.array(
            [
                simplex(_centred(self._rows(ids.tolist()).weights))
                for ids in (np.array(self.ids), *others)
            ]
        )
        read = ", ".join(map(repr, map(model.token_string, self.ids)))
        job.note(classifier=f"rows of the head: {read}")
        job.remark(
            "The classifier's rows are those of the head at every depth: their lengths and cosines "
            "are held against those of as many random tokens."
        )

    def _rows(self, ids: Sequence[int]) -> Linear:
        rows = self.matrix.weight[list(ids)].detach().double().cpu().numpy()
        bias = self.matrix.bias
        offset = np.zeros(len(ids)) if bias is None else bias[list(ids)].detach().double().cpu()
        return Linear(rows, np.asarray(offset))

    def _given(self, states: np.ndarray) -> np.ndarray:
        """States as the head is given them."""
        rows = torch.from_numpy(states).to(device=self.model.device, dtype=self.model.dtype)
        with self.model.running():
            found: np.ndarray = self.model.head_input(rows).double().cpu().numpy()
        return found

    def at(self, states: np.ndarray) -> list[Agreement]:
        """What they have in common with the means of states ``[text, d]``, a draw each."""
        given = self._given(states)
        found = []
        for draw, (equinorm, equiangle) in enumerate(self.spread):
            self.job.tick()
            one = self.compared(self.words, given, draw)
            found.append(one._replace(equinorm=equinorm, equiangle=equiangle))
        return found

    def check(self, states: np.ndarray, first: Tokens, pool: str) -> None:
        """Hold the words' scores of the first text's last state against the model's own logits."""
        if pool != "last" or self.matrix.softcap:
            return
        logits = forward(self.model, first, [], lambda site, value: None, logits="last")
        assert logits is not None
        own = logits[0, -1].double().cpu().numpy()
        found = self.words.weights @ self._given(states[:1])[0] + self.words.bias
        error = float(np.abs(found * self.matrix.scale - own[self.ids]).max())
        what = "scores of the words against the model's logits, of the largest one"
        limit = logit_tolerance(self.model.dtype)
        self.job.check("words as the head says them", error / float(np.abs(own).max()), limit, what)


def _tokens(model: LensModel, names: Sequence[Any], words: Any) -> list[int]:
    """The token of each label."""
    if not isinstance(words, Mapping) or set(words) != set(names):
        raise InputError(
            f"classifier is {words!r}; expected 'probe', None, or one word for each label: "
            f"{', '.join(map(repr, names))}."
        )
    ids = [model.token_id(words[name]) for name in names]
    if len(set(ids)) < len(ids):
        raise InputError("Two labels have the same word: give each one of its own.")
    return ids


def _centred(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(0)  # type: ignore[no-any-return]
