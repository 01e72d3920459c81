"""Back-patching: a late state of a prompt is put back at an earlier block of the same prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.asked import chosen_layers, one_each
from layerlens.analyses.back_patch_answers import (
    NOT_COUNTED,
    VARIABLES,
    Answers,
    success_rate,
)
from layerlens.analyses.contract import Job, Work, analysis
from layerlens.analyses.metric import make_metric
from layerlens.analyses.options import nearest
from layerlens.analyses.pair import row_of
from layerlens.analyses.sweep import Sweep
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cells import DEFAULT_LIMIT, Cell
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.analyses.metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    pairs: str,
    generate: int,
    verify: int,
    into: Any,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen = chosen_layers(model, layers)
    cells = len(_pairs(chosen, "all" if into is not None else pairs))
    texts, length = tokens.ids.shape
    # A cell runs the blocks above its target: half of them on average, from its position on.
    passes = texts * (1 + (into is not None) + cells / (2 * length) + cells * bool(generate))
    passes += verify
    kept = 4 * model.d_model * length * model.n_layers * 3
    return Work(passes, texts * cells, kept + 4 * 64 * model.d_vocab)


@analysis(
    name="back_patch",
    question="Would the model answer if a late state were fed back to an early block?",
    source="Biran et al., Hopping too late (2024); Ghandeharioun et al., Patchscopes (2024)",
    cost="1 pass and a replay of the later blocks for each pair of blocks",
    view="grid",
    variables=VARIABLES,
    work=count_work,
)
def back_patch(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    source: Any = -1,
    target: Any = None,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logprob",
    layers: Sequence[int] | None = None,
    pairs: str = "back",
    into: Any = None,
    generate: int = 0,
    aliases: Any = None,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Put the state after block s over the output of block t, for every pair of blocks.

    The prompt is run as it is; then, for each pair, once more with the output of block t at one
    position replaced by the state after block s from the unedited run. With s > t, a fact that
    was found too late for the blocks that need it comes early enough (back-patching). With
    ``into``, the state goes into another prompt, one that makes the model say what it holds
    (Patchscopes).

    Parameters
    ----------
    source
        Position that the state is taken from: an index, or the text of a token (of a span: its
        last token); for several texts also a list.
    target
        Position where it is put, likewise. None: the same position; with ``into``, its last one.
    answer
        The hoped-for next token, a string or an id; for several texts also a list. None: what
        the model answers by itself.
    wrong
        As in the metric ``logit_diff``.
    metric
        See :func:`layerlens.analyses.metric.make_metric`; of the last position's prediction.
    layers
        Blocks that states are taken from and put at; None for all.
    pairs
        ``"back"``: only s > t, and s = t, which must change nothing. ``"all"``: every pair.
    into
        Another text, in which the state is put; then all pairs are run and counted.
    generate
        Number of tokens to generate greedily with each pair that counts; success is then that
        the answer occurs in them. Costs one generation a pair: choose ``layers``.
    aliases
        Wordings of the answer that count in what is generated, whatever their case: a list, for
        several texts one list each. None: the answer token's own text.
    verify
        How many cells of the first text are run again in the plainest way.
    memory_limit
        Bytes of working memory above the model's own.

    Notes
    -----
    ``success`` says for s > t whether the model's top token is the answer (or, with ``generate``,
    whether the answer occurs in ``generated``); other cells of back-patching are -1. With several
    texts, ``success_rate`` is the share of texts. That *some* pair succeeds means little by
    itself: it is the best of many trials, so the number of successful pairs stands among the
    notes.

    Raises
    ------
    InputError
        An option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")  # doctest: +SKIP
    >>> grid = ll.back_patch(model, [5, 9, 7, 5], answer=9)  # doctest: +SKIP
    >>> grid.data.metric.dims  # doctest: +SKIP
    ('source', 'target')
    """
    if pairs not in ("back", "all"):
        raise nearest(str(pairs), ["back", "all"], "pairs:")
    goal = None if into is None else row_of(model.tokens(into), 0)
    work = _BackPatch(job, model, tokens, chosen_layers(model, layers), pairs, goal)
    named = {"source": source, "target": target, "answer": answer, "wrong": wrong}
    texts = len(tokens.ids)
    each = {name: one_each(given, texts, name) for name, given in named.items()}
    wordings = [aliases] if tokens.single and aliases is not None else aliases
    each["aliases"] = one_each(wordings, texts, "aliases")
    work.declare(generate)
    for row in range(texts):
        asked = {name: values[row] for name, values in each.items()}
        work.text(row, asked, metric, verify, memory_limit)
    work.finish()


def _pairs(layers: Sequence[int], which: str) -> list[tuple[int, int]]:
    """Pairs of places along both axes: (source, target)."""
    every = range(len(layers))
    return [(s, t) for s in every for t in every if which == "all" or s >= t]


class _BackPatch:
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
        self.pairs = _pairs(layers, pairs if into is None else "all")
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
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {
                "metric": values.astype(np.float32),
                "change": (values - sweep.base_value).astype(np.float32),
            },
            lead=lead,
            share=(row, len(self.tokens.ids)),
            memory_limit=memory_limit,
            seen=answers.see,
        )
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
        success = np.where(self.counted, answers.right, np.int8(NOT_COUNTED))
        self.job.emit(lead, {"success": success})
        self.successes.append(success)
        self.places.append((taken, put))
        self.measures.append(measure)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 1 + (self.into is not None)

    def _target(self, base: Base, taken: int, target: Any) -> int:
        """Where the state is put."""
        if target is None:
            return taken if self.into is None else base.length - 1
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
        if self.into is not None:
            ids = self.into.ids[0].tolist()
            self.job.note(into="".join(self.into.strings[0]), into_ids=json.dumps(ids))
