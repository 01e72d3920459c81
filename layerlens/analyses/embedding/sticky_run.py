"""The work of ``sticky_tokens``: a shortlist on some pairs of texts, its proof on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.embedding.inserting import inside, reachable, with_token
from layerlens.analyses.embedding.layers import Layers
from layerlens.analyses.embedding.pooling import Embedder
from layerlens.analyses.embedding.stickiness import (
    SHARE_WEIGHTS,
    STICKY,
    Pairs,
    nearer,
    pairs_below,
    sticky_score,
    verdict,
)
from layerlens.analyses.embedding.sticky_variables import VARIABLES
from layerlens.analyses.probing.numbers import mean_between
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.metrics.projections import embeddings

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CURVES = 5
"""Tokens that have curves of their own; all others stand in one mean."""
ALIKE = 50
"""Among how many tokens with the nearest norm a control is drawn."""
LAYER_PAIRS = 8
"""Pairs whose altered text is read layer by layer."""
_CHUNK = 2048
"""Tokens that are embedded by themselves at once."""


@dataclass(frozen=True)
class Asked:
    """Options of the call, as they are there."""

    candidates: int | Sequence[str | int]
    insertions: int
    pairs: int
    shortlist: int
    verify_pairs: int
    seed: int


@dataclass(eq=False)
class Found:
    """What is known of the shortlisted tokens, or of their controls.

    Attributes
    ----------
    ids
        Of the tokens.
    near
        For each ``[pair]``: the weight of places where it comes nearer to the mean.
    curves
        For each ``[times]``: the mean similarity, places weighted.
    """

    ids: list[int]
    near: list[np.ndarray] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)

    @property
    def shares(self) -> np.ndarray:
        """``[token]``; those that are known by now."""
        return np.array([near.mean() for near in self.near])


class StickyRun:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, embedder: Embedder, asked: Asked
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.embedder, self.asked = embedder, asked
        self.special = model.vocabulary.special if model.tokenizer is not None else frozenset()
        self.rows = [ids[real].tolist() for ids, real in zip(tokens.ids, tokens.mask, strict=True)]
        if len({tuple(row) for row in self.rows}) < len(self.rows):
            raise InputError("Some texts are the same, token by token: give each one once.")
        self.usable: list[int] = []
        self.layers = Layers(model, embedder.how, job.tick)
        self.limit = 1e-4 if model.dtype in (torch.float32, torch.float64) else 2e-2

    def run(self) -> None:
        """All steps, and what each says."""
        self.vectors = self.embedder(self.rows)
        cosines = (self.vectors @ self.vectors.T).double().numpy()
        self.mean = float(cosines[np.triu_indices(len(cosines), 1)].mean())
        self.first, self.held = self._pairs(cosines)
        ids, alone = self._candidates()
        known = min(self.asked.shortlist, len(ids))
        self._declare(ids, known)
        scores = self._scores(ids, alone)
        order = np.argsort(-scores, kind="stable")[:known]
        chosen = Found([ids[place] for place in order])
        beside = Found(self._controls(chosen.ids, set(ids)))
        self._verify(chosen, beside, scores[order])
        self._tell(chosen, beside, scores[order])
        self._read_layers(chosen, beside)
        self.job.note(texts_embedded=self.embedder.rows, passes=self._passes())

    def _passes(self) -> float:
        """Tokens that were fed, in passes over the texts of the call."""
        return self.embedder.tokens / sum(map(len, self.rows))

    def _pairs(self, cosines: np.ndarray) -> tuple[Pairs, Pairs]:
        """Pairs to make the shortlist on, and pairs of other texts to prove it on."""
        halves = self.job.split(self.asked.seed, 0.5)
        sides = ((halves.train, self.asked.pairs), (halves.test, self.asked.verify_pairs))
        found = [pairs_below(cosines, list(texts), self.mean, count) for texts, count in sides]
        for pairs, (texts, count) in zip(found, sides, strict=True):
            if not len(pairs):
                raise InputError(
                    f"No two of the {len(texts)} texts of one half are less similar than the mean "
                    f"of all ({self.mean:.3f}): give more texts, of more subjects."
                )
            if len(pairs) < count:
                self.job.remark(
                    f"only {len(pairs)} of the {count} pairs of texts that were asked for are "
                    "less similar than the mean: more texts have more"
                )
        return found[0], found[1]

    def _candidates(self) -> tuple[list[int], Tensor]:
        """Tokens to score, and their vectors by themselves."""
        given = self.asked.candidates
        if not isinstance(given, int):
            ids = list(dict.fromkeys(self.model.token_id(name) for name in given))
            return ids, self._alone(ids)
        self.usable = reachable(self.model)
        texts = self.vectors[sorted({*self.first.kept, *self.first.altered})].mean(0)
        near, vectors = [], []
        for start in range(0, len(self.usable), _CHUNK):
            found = self._alone(self.usable[start : start + _CHUNK])
            near.append(found @ texts)
            vectors.append(found)
            self.job.progress(start, len(self.usable), "tokens by themselves")
        best = torch.cat(near).argsort(descending=True, stable=True)[:given]
        return [self.usable[int(place)] for place in best], torch.cat(vectors)[best]

    def _alone(self, ids: Sequence[int]) -> Tensor:
        """Vectors of tokens by themselves, between what is put around a text."""
        start, end = inside(self.rows[0], self.special)
        before, after = self.rows[0][:start], self.rows[0][end:]
        return self.embedder([[*before, index, *after] for index in ids])

    def _similarities(self, token: int, pairs: Pairs) -> np.ndarray:
        """``[pair, place, times]`` with the token put in 0, 1, ... times."""
        most = self.asked.insertions
        rows = [
            row
            for number, text in enumerate(pairs.altered)
            for place in with_token(
                self.rows[text], token, most, self.special, self.asked.seed + number
            )
            for row in place
        ]
        found = self.embedder(rows).view(len(pairs), 3, most, -1)
        kept = self.vectors[pairs.kept.tolist()]
        cosines = torch.einsum("pktd,pd->pkt", found, kept).double().numpy()
        before = np.broadcast_to(pairs.similarity[:, None, None], (len(pairs), 3, 1))
        return np.concatenate([before, cosines], -1)

    def _scores(self, ids: Sequence[int], alone: Tensor) -> np.ndarray:
        scores = np.full(len(ids), np.nan)
        kept = self.vectors[self.first.kept.tolist()]
        for place, (token, vector) in enumerate(zip(ids, alone, strict=True)):
            away = (1 - kept @ vector).double().numpy()
            scores[place] = sticky_score(self._similarities(token, self.first), away)
            self.job.emit({"candidate": place}, {"candidate_score": scores[place]})
            self.job.progress(place + 1, len(ids), "candidates")
        return scores

    def _controls(self, ids: Sequence[int], scored: set[int]) -> list[int]:
        """For each token another one that was no candidate, with an embedding about as long."""
        others = [index for index in self._others() if index not in scored]
        if len(others) < len(ids):
            raise InputError(
                f"{len(scored)} candidates leave {len(others)} tokens to compare {len(ids)} with: "
                "give fewer candidates."
            )
        norms = embeddings(self.model)["embed"].float().norm(dim=1).cpu()
        random, found = np.random.default_rng(self.asked.seed), []
        for index in ids:
            order = (norms[others] - norms[index]).abs().argsort(stable=True)[:ALIKE]
            found.append(others.pop(int(random.choice(order.numpy()))))
        return found

    def _others(self) -> list[int]:
        return self.usable or reachable(self.model)

    def _verify(self, chosen: Found, beside: Found, scores: np.ndarray) -> None:
        """Insert the shortlisted tokens, and then their controls, into texts not yet used."""
        for place in range(len(chosen.ids)):
            for found in (chosen, beside):
                similarity = self._similarities(found.ids[place], self.held)
                found.near.append(nearer(similarity, self.mean))
                found.curves.append((similarity.mean(0) * SHARE_WEIGHTS[:, None]).sum(0))
            self.job.emit({"token": place}, self._of_token(chosen, beside, scores, place))
            self.job.progress(place + 1, len(chosen.ids), "tokens proved on other texts")
        self._check(chosen.ids[0])

    def _check(self, token: int) -> None:
        """Vectors that were made side by side with others, made again alone."""
        row = with_token(self.rows[self.held.altered[0]], token, 1, self.special, self.asked.seed)[
            0
        ][0]
        together = self.embedder([row, *self.rows])
        again = torch.cat([self.embedder([row]), self.vectors])
        what = "vectors of texts beside others with padding, and alone or as they were before"
        self.job.check("padding", float((together - again).abs().max()), self.limit, what)

    def _of_token(
        self, chosen: Found, beside: Found, scores: np.ndarray, place: int
    ) -> dict[str, Any]:
        share, low, high = mean_between(chosen.near[place], np.arange(len(self.held)))
        return {
            "token_id": chosen.ids[place],
            "score": scores[place],
            "share": share,
            "share_low": low,
            "share_high": high,
            "share_chance": float(beside.near[place].mean()),
        }

    def _tell(self, chosen: Found, beside: Found, scores: np.ndarray) -> None:
        """The tokens again, the stickiest first, with what is said of each."""
        order = np.argsort(-chosen.shares, kind="stable")
        for name in ("ids", "near", "curves"):
            for found in (chosen, beside):
                setattr(found, name, [getattr(found, name)[place] for place in order])
        for place in range(len(order)):
            self.job.emit({"token": place}, self._of_token(chosen, beside, scores[order], place))
        names = [self.model.token_string(index).strip() for index in chosen.ids]
        said = [verdict(share) for share in chosen.shares]
        self.job.label(
            {
                "token": (("token",), np.array(names)),
                "verdict": (("token",), np.array(said)),
                "inserted": (("inserted",), np.array([*names[:CURVES], "other tokens"])),
            }
        )
        mean = np.mean(beside.curves, 0)
        for number, curve in enumerate([*chosen.curves[:CURVES], mean]):
            self.job.emit({"inserted": number}, {"similarity": curve})
        counts: dict[str, float] = {
            "sticky": int((chosen.shares > STICKY).sum()),
            "sticky_chance": int((beside.shares > STICKY).sum()),
        }
        counts["mean_similarity"] = self.mean
        self.job.emit({}, {name: np.array(value) for name, value in counts.items()})

    def _read_layers(self, chosen: Found, beside: Found) -> None:
        """Where the pull appears: the tokens of the curves, and the mean of all controls."""
        parts = [part for part, _ in split(self.tokens)]
        means = torch.cat([self.layers.vectors(part) for part in parts], 1).mean(1)
        means = torch.nn.functional.normalize(means, dim=-1)
        texts = [self.rows[text] for text in self.held.altered[:LAYER_PAIRS]]
        before = self._cosines([(row, slice(0, 0)) for row in texts], means)[0]
        kinds = [[index] for index in chosen.ids[:CURVES]]
        for number, ids in enumerate([*kinds, beside.ids]):
            pulls, shares = [], []
            for index in ids:
                altered = [self._at_beginning(row, index) for row in texts]
                after, taken = self._cosines(altered, means)
                pulls.append((after - before).mean(1))
                shares.append(taken.mean(1))
            found = {"pull": np.mean(pulls, 0)}
            if self.layers.attends:
                found["attention"] = np.mean(shares, 0)
            self.job.emit({"inserted": number}, found)

    def _at_beginning(self, row: Sequence[int], token: int) -> tuple[list[int], slice]:
        most = self.asked.insertions
        start, _ = inside(row, self.special)
        altered = with_token(row, token, most, self.special, self.asked.seed)[0][-1]
        return altered, slice(start, start + most)

    def _cosines(
        self, rows: Sequence[tuple[list[int], slice]], means: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """``[layer, text]`` each: cosine with the mean text, and attention on what is inserted."""
        tokens = self.job.tokens([row for row, _ in rows])
        inserted = torch.zeros_like(tokens.mask)
        for number, (_, where) in enumerate(rows):
            inserted[number, where] = True
        vectors, shares = self.layers.with_attention(tokens, inserted)
        return torch.einsum("ltd,ld->lt", vectors, means).double().numpy(), shares.double().numpy()

    def _declare(self, ids: Sequence[int], known: int) -> None:
        shown = min(CURVES, known)
        none = np.array([""])
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "candidate": (("candidate",), np.array(ids, dtype=np.int64)),
            "token": (("token",), np.repeat(none, known)),
            "verdict": (("token",), np.repeat(none, known)),
            "inserted": (("inserted",), np.repeat(none, shown + 1)),
            "times": (("times",), np.arange(self.asked.insertions + 1)),
            "layer": (("layer",), np.arange(self.model.n_layers, dtype=np.int32)),
        }
        sizes = {axis: len(values) for axis, (_, values) in coords.items()}
        left = () if self.layers.attends else ("attention",)
        self.job.declare(sizes, coords, [name for name in VARIABLES if name not in left])
