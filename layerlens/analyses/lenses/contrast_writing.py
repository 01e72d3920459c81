"""A text written with and without a contrast of layers, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.provenance import named_texts
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.checks import ROUNDING
from layerlens.analyses.lenses.contrast_rules import plausible
from layerlens.analyses.lenses.contrast_states import EarlyAnswers, Picked, Rule
from layerlens.analyses.lenses.write_calls import Calls, Wanted, generate_options, stops
from layerlens.analyses.lenses.written_again import states_again
from layerlens.model.evidence import logit_size
from layerlens.model.sites import Site
from layerlens.run.edits import Edit
from layerlens.run.generation import end_ids, generate, left_padded
from layerlens.run.reading import reading

if TYPE_CHECKING:
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OWN, CONTRAST, RANDOM = WRITINGS = ("own", "contrast", "random layer")
IDS = {OWN: "own_written_id", CONTRAST: "written_id", RANDOM: "random_written_id"}
"""Which variable holds the tokens of each text."""


@dataclass
class _Now:
    """The text that is being written: its place among them, its ids, and who has ended."""

    number: int
    writing: str
    text: list[list[int]]
    ended: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    picked: Picked | None = None


class Contrast:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        reader: Reader,
        rule: Rule,
        wanted: Wanted,
        writings: tuple[str, ...],
        variables: Iterable[str],
        amateur: tuple[LensModel, Reader] | None,
    ) -> None:
        self.job, self.model, self.rule, self.wanted = job, model, rule, wanted
        self.writings, self.variables = writings, variables
        self.given, self.tokens = tokens, left_padded(model, tokens)
        self.answers = EarlyAnswers(model, rule, reader)
        self.amateur = amateur and (amateur[0], EarlyAnswers(amateur[0], rule, amateur[1]))
        self.count, self.ends = len(self.tokens.ids), end_ids(model)
        self.draws = torch.Generator().manual_seed(wanted.seed)
        self.newest: dict[Site, Tensor] = {}
        self.texts: dict[str, list[list[int]]] = {}
        self.found: list[Picked] = []
        self.size, self.final_error = 1.0, 0.0

    def run(self, edits: tuple[Edit, ...], verify: int) -> None:
        """Write one text after the other, and hand over each token as it is chosen."""
        self.declare()
        try:
            for number, writing in enumerate(self.writings):
                self._write(number, writing, edits)
            self._fill()
        finally:
            self._finish()
        passes = float(len(self.writings))
        if self.amateur:
            passes += sum(self._longest(writing) for writing in self.writings[1:])
        if verify:
            self._uncached(edits, verify)
            passes += 1
        self._checks()
        self.job.note(passes=passes)

    def declare(self) -> None:
        """State the axes and their coordinates."""
        points, new = self.rule.points, self.wanted.new
        sizes = {"point": len(points), "step": new}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), np.array([point.layer for point in points], dtype=np.int32)),
            "step": (("step",), np.arange(new, dtype=np.int32)),
        }
        if not self.tokens.single:
            sizes["batch"] = self.count
            coords["text"] = (("batch",), np.array([text or "" for text in self.given.texts]))
        unused = {name for writing, name in IDS.items() if writing not in self.writings}
        self.job.declare(sizes, coords, [name for name in self.variables if name not in unused])
        self.job.note(**named_texts({"text": self.given}))

    def _write(self, number: int, writing: str, edits: tuple[Edit, ...]) -> None:
        """Write one text of each prompt."""
        now = _Now(number, writing, self.texts.setdefault(writing, [[] for _ in self.tokens.ids]))
        now.ended = np.zeros(self.count, dtype=bool)
        calls = Calls(self.wanted, lambda ids: self._written(now, calls, ids))

        def choose(ids: Tensor, logits: Tensor) -> Tensor:
            own = calls.choose(ids, logits)
            return own if writing == OWN else self._scores(now, own)

        options = {**generate_options(calls), "logits_processor": [choose]}
        watch = reading(self.model, self.answers.sites, self.count, self._read)
        generate(self.model, self.tokens, self.wanted.new, edits, watch=watch, **options)

    def _written(self, now: _Now, calls: Calls, ids: Tensor) -> Tensor:
        """Hand over the newest token; True for each text that ends with it."""
        going = ~now.ended
        if calls.step < self.wanted.new and going.any():
            for row in np.flatnonzero(going).tolist():
                text = now.text[row]
                text.append(int(ids[row, -1]))
                ended = text[-1] in self.ends or stops(self.model, text, self.wanted.stop)
                now.ended[row] = ended
            self._put({"step": calls.step}, {IDS[now.writing]: ids[:, -1]}, going)
            if now.writing == CONTRAST and now.picked is not None:
                arrays = self._arrays(calls.own, ids[:, -1], now.picked)
                self._put({"step": calls.step}, arrays, going)
            done = now.number * self.wanted.new + calls.step + 1
            self.job.progress(done, len(self.writings) * self.wanted.new, now.writing)
        self.newest.clear()
        return torch.from_numpy(now.ended).to(ids.device)

    def _read(self, site: Site, value: Tensor) -> None:
        self.job.tick()
        self.newest[site] = value[:, -1].clone()

    def _pick(self, logits: Tensor, writing: str) -> Picked:
        """The candidate of each text: by the rule, or one drawn."""
        final = logits.log_softmax(-1)
        fixed = None
        if writing == RANDOM:
            fixed = torch.randint(len(self.rule.points), (self.count,), generator=self.draws)
        else:
            again = self.answers.final(self.newest)
            self.size = max(self.size, logit_size(logits))
            known = torch.isfinite(logits)
            gap = (again - logits)[known].abs().max()
            self.final_error = max(self.final_error, float(gap))
        return self.answers.pick(self.newest, final, fixed)

    def _scores(self, now: _Now, logits: Tensor) -> Tensor:
        """What the newest token is chosen by."""
        now.picked = picked = self._pick(logits, now.writing)
        if now.writing == CONTRAST:
            self.found.append(picked._replace(early=torch.empty(0)))
        amateur = None
        if self.amateur:
            # It reads the whole text anew: a cache of its own would have to follow generate's.
            model, answers = self.amateur
            steps = [max(map(len, now.text))]
            states = states_again(
                model, self.tokens, now.text, (), answers.sites, steps, self.job.tick
            )
            final, early = answers.at(states, picked.place)
            amateur = final.to(logits.device), early.to(logits.device)
        return self.answers.score(logits.log_softmax(-1), picked.early, amateur)

    def _arrays(self, logits: Tensor, written: Tensor, picked: Picked) -> dict[str, Tensor]:
        """What is kept of one token that was written with contrast."""
        final, one = logits.log_softmax(-1), written[:, None]
        chosen = torch.zeros_like(picked.divergence, dtype=torch.bool)
        chosen[torch.arange(self.count), picked.place] = True
        layers = torch.tensor([point.layer for point in self.rule.points])
        return {
            "divergence": picked.divergence,
            "chosen": torch.where(chosen, picked.divergence, math.nan),
            "chosen_layer": layers[picked.place],
            "own_id": logits.argmax(-1),
            "own_rank": (final > final.gather(1, one)).sum(-1) + 1,
            "own_probability": final.gather(1, one)[:, 0].exp(),
            "early_probability": picked.early.gather(1, one)[:, 0].exp(),
            "plausible": plausible(final, self.rule.alpha).sum(-1),
        }

    def _fill(self) -> None:
        """Say of texts that ended before another one that nothing follows."""
        steps = max(map(self._longest, self.writings))
        nobody = np.zeros(self.count, dtype=bool)
        nothing = torch.zeros(self.count, dtype=torch.int64)
        flat = torch.zeros(self.count, len(self.rule.points))
        empty = Picked(flat, nothing, torch.zeros(self.count, self.model.d_vocab))
        for writing in self.writings:
            for step in range(self._longest(writing), steps):
                self._put({"step": step}, {IDS[writing]: nothing}, nobody)
                if writing == CONTRAST:
                    arrays = self._arrays(empty.early, nothing, empty)
                    self._put({"step": step}, arrays, nobody)

    def _put(self, where: dict[str, int], arrays: dict[str, Tensor], going: np.ndarray) -> None:
        """Emit arrays ``[text, ...]``; texts that have ended hold what says "missing"."""
        found = {}
        for name, tensor in arrays.items():
            array = tensor.cpu().numpy().copy()
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
            array[~going] = self.job.missing(name)
            found[name] = array[0] if self.tokens.single else array
        self.job.emit(where, found)

    def _longest(self, writing: str) -> int:
        return max(map(len, self.texts.get(writing, [[]])))

    def _finish(self) -> None:
        """Leave off what was not written, and name the tokens of the contrast."""
        steps = max(self._longest(writing) for writing in self.writings)
        self.job.shorten("step", steps)
        token = np.full((self.count, steps), "", dtype=object)
        for row, text in enumerate(self.texts.get(CONTRAST, [])):
            token[row, : len(text)] = self.model.vocabulary.split(text)[0]
        one = self.tokens.single
        dims = ("step",) if one else ("batch", "step")
        self.job.label({"token": (dims, (token[0] if one else token).astype(str))})
        for writing, texts in self.texts.items():
            strings = ["".join(self.model.vocabulary.split(text)[0]) for text in texts]
            told = strings[0] if one else "\n".join(strings)
            self.job.note(**{f"text_{writing.replace(' ', '_')}": told})

    def _uncached(self, edits: tuple[Edit, ...], verify: int) -> None:
        """Choose the layers of some tokens again from one pass without a cache."""
        texts = self.texts[CONTRAST]
        steps = np.unique(np.linspace(0, len(self.found) - 1, verify).round().astype(int)).tolist()
        states = states_again(
            self.model, self.tokens, texts, edits, self.answers.sites, steps, self.job.tick
        )
        with self.model.running():
            final = self.answers.final(states).log_softmax(-1)
            again = self.answers.pick(states, final).divergence
        before = torch.stack([self.found[step].divergence for step in steps], 1).flatten(0, 1)
        going = torch.tensor([step < len(text) for text in texts for step in steps])
        error = float((again - before)[going].abs().max())
        what = (
            f"largest difference of a divergence from that of one pass without a cache, "
            f"{len(steps)} tokens at every candidate (nats)"
        )
        limit = logit_tolerance(self.model.dtype) * self.size
        self.job.check("cached is uncached", error, limit, what)

    def _checks(self) -> None:
        """Report what was seen while the model wrote."""
        limit = logit_tolerance(self.model.dtype) * self.size
        what = "largest difference between the last state's logits and the model's own"
        self.job.check("final answer is the model's", self.final_error, limit, what)
        values = torch.cat([one.divergence for one in self.found])
        outside = -float(values.min())
        what = "how far a divergence lies below 0"
        if self.rule.variant == "paper":
            outside = max(outside, float(values.max()) - math.log(2))
            what = "how far a divergence lies below 0 or above ln 2"
        self.job.check("divergence in its bounds", max(outside, 0.0), ROUNDING, f"{what} (nats)")
