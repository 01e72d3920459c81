"""A lens at the newest position, token by token, while a model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import FromFirst
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.provenance import named_texts
from layerlens.analyses.lenses import writing_checks
from layerlens.analyses.lenses.checks import ROUNDING, rank_errors
from layerlens.analyses.lenses.exits import exit_points, exit_scores, rules_told
from layerlens.analyses.lenses.newest_rows import NewestRows
from layerlens.analyses.lenses.settle import settled
from layerlens.analyses.lenses.write_calls import Calls, Wanted, drawn, generate_options, stops
from layerlens.model.sites import Site
from layerlens.run.edits import Edit
from layerlens.run.generation import end_ids, generate, left_padded
from layerlens.run.head_rows import Head, Reduced
from layerlens.run.reading import reading

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Shown:
    """What is kept of each token.

    Attributes
    ----------
    points
        Which points; the final row comes after them.
    top_k
        How many predictions of each.
    rule, threshold
        When a model could have stopped, see `layerlens.analyses.lenses.exits`.
    min_layers
        Blocks that always run.
    """

    points: list[Point]
    top_k: int
    rule: str
    threshold: float
    min_layers: int = 0


class Writing:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        reader: Reader,
        shown: Shown,
        wanted: Wanted,
        buffers: int,
    ) -> None:
        self.job, self.model, self.shown, self.wanted = job, model, shown, wanted
        self.given, self.tokens = tokens, left_padded(model, tokens)
        self.head = Head.of(model, buffers)
        self.rows = NewestRows(model, reader, shown.points, self.head)
        self.count = len(self.tokens.ids)
        self.ends = end_ids(model)
        self.texts: list[list[int]] = [[] for _ in range(self.count)]
        self.ended = np.zeros(self.count, dtype=bool)
        self.newest: dict[Site, Tensor] = {}
        self.found = writing_checks.Found()
        self.layers = np.array([point.layer for point in shown.points] + [model.n_layers])
        states = [point.is_state for point in shown.points]
        self.states = np.flatnonzero([*states, True])

    def run(self, edits: tuple[Edit, ...], verify: int) -> None:
        """Write, and hand over each token's column as it is chosen."""
        self.declare()
        calls = Calls(self.wanted, lambda ids: self._written(calls, ids))
        watch = reading(self.model, self.rows.sites, self.count, self._read)
        try:
            with drawn(self.model, self.wanted.seed):
                generate(
                    self.model,
                    self.tokens,
                    self.wanted.new,
                    edits,
                    watch=watch,
                    **generate_options(calls),
                )
        finally:
            self._finish(calls.step)
        writing_checks.report(self.job, self.found, self.model, greedy=not self.wanted.temperature)
        if verify:
            steps = np.unique(np.linspace(0, calls.step - 1, verify).round().astype(int))
            writing_checks.uncached(self, edits, steps.tolist())

    def declare(self) -> None:
        """State the axes and their coordinates."""
        labels = [point.label for point in self.shown.points] + ["final"]
        sizes = {"point": len(labels), "step": self.wanted.new, "k": self.shown.top_k}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "point": (("point",), np.array(labels)),
            "layer": (("point",), self.layers.astype(np.int32)),
            "step": (("step",), np.arange(self.wanted.new, dtype=np.int32)),
            "k": (("k",), np.arange(self.shown.top_k, dtype=np.int32)),
        }
        if not self.tokens.single:
            sizes["batch"] = self.count
            texts = [text or "" for text in self.given.texts]
            coords["text"] = (("batch",), np.array(texts))
        self.job.declare(sizes, coords)
        shown = self.shown
        self.job.note(rule=shown.rule, threshold=shown.threshold, rules=rules_told())
        self.job.note(min_layers=shown.min_layers)
        self.job.note(**named_texts({"text": self.given}))

    def _read(self, site: Site, value: Tensor) -> None:
        self.job.tick()
        self.newest[site] = value[:, -1].clone()

    def _written(self, calls: Calls, ids: Tensor) -> Tensor:
        """Reduce the states that the newest token was written from."""
        going = ~self.ended
        if calls.step < self.wanted.new and going.any():
            written = ids[:, -1]
            self._column(calls, written, going)
            for row in np.flatnonzero(going).tolist():
                text = self.texts[row]
                text.append(int(written[row]))
                ended = text[-1] in self.ends or stops(self.model, text, self.wanted.stop)
                self.ended[row] = ended
            last = self.model.token_string(int(written[0]))
            self.job.progress(calls.step + 1, self.wanted.new, last)
        self.newest.clear()
        return torch.from_numpy(self.ended).to(ids.device)

    def _column(self, calls: Calls, written: Tensor, going: np.ndarray) -> None:
        rows = self.rows.rows(self.newest)
        first = FromFirst(rows.group)
        chosen = written.to(self.head.device).repeat_interleave(rows.group)[:, None]
        top_k = min(max(2, self.shown.top_k), self.head.d_vocab)
        kept = self.head.reduce(rows.x, chosen, top_k, self.job.tick, first.see)
        kl = rows.by_point(first.kl(kept.log_norm))
        kept_by_point = Reduced(*map(rows.by_point, kept))
        forced = calls.step < len(self.wanted.begin)
        self.found.add(kept_by_point, kl, calls.own, going, forced=forced)
        self.found.rank_errors += rank_errors(kept, chosen)
        self.found.head_rows += len(rows.x)
        cosines = self.rows.cosines(self.newest)
        arrays = _arrays(kept_by_point, kl, cosines, self.shown.top_k)
        arrays |= self._decided(arrays) | {"written_id": written.cpu().int().numpy()}
        self.job.emit({"step": calls.step}, self._spread(arrays, going))

    def _decided(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Where each token is first on top, from where on it stays so, and where one could exit."""
        numbers = {name: arrays[name].T[self.states] for name in _SCORED}
        numbers["probability"] = arrays["probability"][..., 0].T[self.states]
        top = arrays["token_id"][..., 0].T
        found = settled(self.shown.points, self.model.n_layers, top == top[-1])
        self.found.late = max(
            self.found.late, int((found["first_point"] - found["settle_point"]).max(initial=0))
        )
        numbers["top_id"] = top[self.states]
        score = exit_scores(self.shown.rule, numbers, self.model.d_vocab)
        early = self.layers[self.states] + 1 < self.shown.min_layers
        score = np.where(early[:, None], np.nan, score)
        exits = self.states[exit_points(score, self.shown.threshold)]
        found |= {"exit_point": exits, "exit_layer": self.layers[exits]}
        return {name: value.astype(np.int32) for name, value in found.items()}

    def _spread(self, arrays: dict[str, np.ndarray], going: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays as they are declared; texts that have ended hold what says "missing"."""
        if self.tokens.single:
            return {name: array[0] for name, array in arrays.items()}
        found = {}
        for name, array in arrays.items():
            found[name] = array.copy()
            found[name][~going] = self.job.missing(name)
        return found

    def _finish(self, steps: int) -> None:
        """Leave off what was not written, and name the tokens."""
        self.job.shorten("step", steps)
        token = np.full((self.count, steps), "", dtype=object)
        continues = np.zeros((self.count, steps), dtype=bool)
        for row, text in enumerate(self.texts):
            here = (row, slice(len(text)))
            token[here], continues[here] = self.model.vocabulary.split(text)
        one = self.tokens.single
        dims = ("step",) if one else ("batch", "step")
        named = {"token": token.astype(str), "continues": continues}
        self.job.label({name: (dims, rows[0] if one else rows) for name, rows in named.items()})
        self.job.note(head_rows=self.found.head_rows, passes=1.0)


_SCORED = ("margin", "entropy", "state_cosine")


def _arrays(kept: Reduced, kl: Tensor, cosines: Tensor, top_k: int) -> dict[str, np.ndarray]:
    """What is kept of one token's rows, each ``[text, point, ...]``."""
    norm = kept.log_norm
    probability = (kept.top_logits - norm[..., None]).exp()
    second = probability[..., 1] if probability.shape[-1] > 1 else 0.0
    found = {
        "token_id": kept.top_ids[..., :top_k].int(),
        "probability": probability[..., :top_k].float(),
        "written_probability": (kept.chosen[..., 0] - norm).exp().float(),
        "rank": (kept.above[..., 0] + 1).int(),
        "entropy": kept.entropy.float(),
        "margin": (probability[..., 0] - second).float(),
        "kl_to_final": torch.where((kl < 0) & (kl > -ROUNDING), 0.0, kl).float(),
        "state_cosine": cosines,
    }
    return {name: value.cpu().numpy() for name, value in found.items()}
