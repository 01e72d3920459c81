"""The work of :mod:`layerlens.analyses.grafting.back_patch`, text by text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.grafting.back_patch_answers import (
    NOT_COUNTED,
    Answers,
    success_rate,
)
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def layer_pairs(layers: Sequence[int], which: str) -> list[tuple[int, int]]:
    """Pairs of places along both axes: (source, target)."""
    every = range(len(layers))
    return [(s, t) for s in every for t in every if which == "all" or s >= t]


class BackPatch:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layers: list[int],
        pairs: str,
        into: Tokens | None,
    ) -> None:
        self.job, self.model, self.tokens, self.layers, self.into = job, model, tokens, layers, into
        self.pairs = layer_pairs(layers, pairs if into is None else "all")
        later = np.tri(len(layers), len(layers), -1, dtype=bool)
        self.counted = later if into is None else np.ones_like(later)
        self.steps = 0
        self.places: list[tuple[int, int]] = []
        self.successes: list[np.ndarray] = []
        self.measures: list[Metric] = []
        self.passes = 0.0
        self.methods: set[str] = set()
        self.no_op: tuple[float, float] | None = None

    def declare(self, steps: int) -> None:
        """State axes and coordinates."""
        blocks = np.array(self.layers, dtype=np.int32)
        sizes = {"source": len(blocks), "target": len(blocks)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            axis: ((axis,), blocks) for axis in ("source", "target")
        }
        if steps:
            sizes["step"] = self.steps = steps
            coords["step"] = (("step",), np.arange(steps, dtype=np.int32))
        if not self.tokens.single:
            sizes["batch"] = len(self.tokens.ids)
            texts = [text or "" for text in self.tokens.texts]
            coords["text"] = (("batch",), np.array(texts))
        self.job.declare(sizes, coords)

    def text(
        self,
        row: int,
        asked: dict[str, Any],
        metric: str | MetricFunction,
        verify: int,
        memory_limit: int,
    ) -> None:
        """Run every pair of blocks for one text."""
        tokens = row_of(self.tokens, row)
        first = record_base(self.model, tokens)
        base = first if self.into is None else record_base(self.model, self.into)
        taken = self.model.positions(tokens, asked["source"])[-1]
        put = self._target(base, taken, asked["target"])
        measure = make_metric(
            self.model, metric, final=base.final, answer=asked["answer"], wrong=asked["wrong"]
        )
        if row == 0:
            self.job.describe("metric", units=measure.units, long_name=measure.words)
            words = f"change of the {measure.words}"
            self.job.describe("change", units=measure.units, long_name=words)
        lead = {} if self.tokens.single else {"batch": row}
        size = len(self.layers)
        answers = Answers(self.job, self.model, base, measure.answer, self.pairs, size, lead)
        sweep = self._sweep(row, base, measure, memory_limit, answers)
        answers.plain(sweep.base_value)
        self._leave_out(answers)
        states = [first.state(layer + 1)[taken] for layer in self.layers]
        for s, t in self.pairs:
            change = Change(Site("resid_post", self.layers[t]), "set", states[s], (put,))
            sweep.add(Cell((change,)), {"source": s, "target": t})
        # The widest jumps back come first, the pairs that change nothing last.
        sweep.run([max(s - t, 0) for s, t in self.pairs])
        sweep.verify(verify if row == 0 else 0)
        if self.into is None and taken == put:
            self._compare(sweep)
        if self.steps:
            self._write(answers, states, put, asked["aliases"])
        self._count(lead, answers)
        self.places.append((taken, put))
        self.measures.append(measure)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 1 + (self.into is not None)

    def _sweep(
        self, row: int, base: Base, measure: Metric, memory_limit: int, answers: Answers
    ) -> Sweep:
        """A sweep of one text, without its cells."""

        def show(values: np.ndarray) -> dict[str, np.ndarray]:
            change = values - sweep.base_value
            return {"metric": values.astype(np.float32), "change": change.astype(np.float32)}

        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            show,
            lead=answers.lead,
            share=(row, len(self.tokens.ids)),
            memory_limit=memory_limit,
            seen=answers.see,
        )
        return sweep

    def _count(self, lead: dict[str, int], answers: Answers) -> None:
        """Emit which of the pairs that count succeed."""
        success = np.where(self.counted, answers.right, np.int8(NOT_COUNTED))
        self.job.emit(lead, {"success": success})
        self.successes.append(success)

    def _target(self, base: Base, taken: int, target: Any) -> int:
        """Where the state is put."""
        if target is None:
            return taken if self.into is None else base.at
        return self.model.positions(base.tokens, target)[-1]

    def _leave_out(self, answers: Answers) -> None:
        """Mark the cells that will not be run, and those that will not be generated."""
        size, run = len(self.layers), set(self.pairs)
        for s in range(size):
            if s < size - 1 and (s, size - 1) not in run:
                answers.leave_out(s, s + 1, ("metric", "change", "rank", "token_id"))
            if self.steps and not self.counted[s, s]:
                answers.leave_out(s, s, ("generated",))

    def _compare(self, sweep: Sweep) -> None:
        """A state that is put where it was taken changes nothing."""
        same = [number for number, (s, t) in enumerate(self.pairs) if s == t]
        off = float(np.abs(sweep.values[same] - sweep.base_value).max())
        error, limit = self.no_op or (0.0, 0.0)
        self.no_op = (max(error, off), max(limit, sweep.tolerance))

    def _write(self, answers: Answers, states: list[Any], put: int, aliases: Any) -> None:
        """Generate with every pair that counts."""
        own = self.model.token_string(answers.answer)
        words = [str(word).strip().lower() for word in ([own] if aliases is None else aliases)]
        todo = [number for number, pair in enumerate(self.pairs) if self.counted[pair]]
        for done, number in enumerate(todo):
            self.job.tick()
            s, t = self.pairs[number]
            site = Site("resid_post", self.layers[t])
            answers.write(number, states[s], site, put, [word for word in words if word])
            self.job.progress(done + 1, len(todo), "generations")
        self.passes += len(todo)

    def finish(self) -> None:
        """Sum up over texts; say what was run and compared."""
        if not self.tokens.single:
            self.job.emit({}, {"success_rate": success_rate(self.successes)})
        if self.no_op is not None:
            what = "metric with a state put back where it was taken (s = t) against the plain run"
            self.job.check("s = t changes nothing", *self.no_op, what)
        measure = self.measures[0]
        where = "of the same prompt" if self.into is None else "of another prompt"
        self.job.note(
            passes=self.passes,
            method=", ".join(sorted(self.methods)),
            direction=f"the state after block s over the output of block t, {where}",
            metric=measure.name,
            metric_words=measure.words,
            positions=json.dumps(self.places),
            successful_pairs=json.dumps([int((found == 1).sum()) for found in self.successes]),
            counted_pairs=int(self.counted.sum()),
        )
        if counted := int(self.counted.sum()):
            shares = np.array([(found == 1).sum() / counted for found in self.successes])
            self.job.note(
                any_pair_success=float((shares > 0).mean()),
                random_pair_success=float(shares.mean()),
            )
        if self.into is not None:
            ids = self.into.ids[0].tolist()
            self.job.note(into="".join(self.into.strings[0]), into_ids=json.dumps(ids))
