"""Cross-model patching: at each layer, this model goes on from another model's states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.asked import chosen_layers, one_each
from layerlens.analyses.contract import Job, Variable, Work, analysis
from layerlens.analyses.intervals import mean_interval
from layerlens.analyses.metric import make_metric
from layerlens.analyses.pair import row_of
from layerlens.analyses.sweep import Sweep
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cells import DEFAULT_LIMIT, Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SAME = 1e-6
"""Models whose metrics differ by less than this share of their size show nothing to recover."""

_MEANS = {
    f"{name}_{end}": Variable(("layer",), "float32", "1", f"{words}, {text}", summary=True)
    for name, words in (("recovered", "share of the difference"), ("metric", "metric"))
    for end, text in (
        ("mean", "mean over texts"),
        ("low", "lower end of the 95 % interval over texts"),
        ("high", "upper end of the 95 % interval over texts"),
    )
}
VARIABLES = {
    "recovered": Variable(
        ("layer",), "float32", "1", "share of the models' difference that goes with the states"
    ),
    "metric": Variable(("layer",), "float32", "1", "metric with the other model's states"),
    "norm_ratio": Variable(
        ("layer",), "float32", "1", "norm of the other model's states over that of its own"
    ),
    "cosine": Variable(("layer",), "float32", "1", "cosine of the two models' states"),
    "own_metric": Variable((), "float32", "1", "metric of this model"),
    "other_metric": Variable((), "float32", "1", "metric of the other model"),
    "answer_id": Variable((), "int32", "1", "answer", is_token=True),
    **_MEANS,
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    chosen = chosen_layers(model, layers)
    replayed = sum(1 - (layer + 1) / model.n_layers for layer in chosen)
    states = 4 * model.d_model * length * model.n_layers
    return Work(texts * (2 + replayed + verify), texts * (len(chosen) + 2), 5 * states)


@analysis(
    name="cross_model_patch",
    question="At which layers does what the other model does differently come about?",
    source="Prakash et al., Fine-tuning enhances existing mechanisms (cross-model patching, 2024)",
    cost="1 pass of each model and a replay of the later blocks for each layer",
    view="curves",
    variables=VARIABLES,
    work=count_work,
)
def cross_model_patch(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logit_diff",
    positions: Any = None,
    layers: Sequence[int] | None = None,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Replace this model's states after a block by the other model's, and let it go on.

    Both models are run on the same token ids. Then, for each block, this model is run once more
    with the block's output put to what the other model had there, as a fine-tuned model is given
    its pretrained ancestor's states. ``recovered`` is ``(own - patched) / (own - other)``: 0 where
    this model answers as before, 1 where it answers as the other one; neither is a bound.

    Parameters
    ----------
    other
        The model that states are taken from: as many blocks of the same width, the same tokens.
    answer
        Token as a string or an id; for several texts also a list. None: this model's own answer.
    wrong
        For ``logit_diff``, likewise. None: the other model's answer if it is not the same, else
        this model's runner-up.
    metric
        See :func:`layerlens.analyses.metric.make_metric`; of the last position's prediction.
    positions
        Where states are replaced: an index, a slice, a list, the text of a span. None: everywhere.
    layers
        Blocks after which states are replaced; None for all.
    verify
        How many cells of the first text are run again in the plainest way.
    memory_limit
        Bytes of working memory above the models' own.

    Notes
    -----
    ``norm_ratio`` and ``cosine`` compare the states themselves, averaged over the positions:
    where they are far from 1, the patched model meets states that it never makes by itself.
    With several texts there are means with 95 % intervals (bootstrap over texts);
    ``recovered_mean`` is the ratio of means. Where both models' metrics are the same, there is
    nothing to recover and ``recovered`` is NaN.

    Raises
    ------
    InputError
        The other model does not fit, or an option does not.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")  # doctest: +SKIP
    >>> same = ll.cross_model_patch(model, [5, 9, 5], other=model)  # doctest: +SKIP
    >>> bool(same.data.recovered.isnull().all())  # doctest: +SKIP
    True
    """
    _require_like(model, other, tokens)
    assert other is not None
    work = _CrossModel(job, model, other, tokens, chosen_layers(model, layers))
    texts = len(tokens.ids)
    answers, wrongs = one_each(answer, texts, "answer"), one_each(wrong, texts, "wrong")
    work.declare()
    for row in range(texts):
        asked = {"answer": answers[row], "wrong": wrongs[row]}
        work.text(row, metric, asked, positions, verify, memory_limit)
    work.finish()


def _require_like(model: LensModel, other: Any, tokens: Tokens) -> None:
    """Raise where the other model's states cannot stand in for this model's."""
    if not hasattr(other, "running"):
        raise InputError("other is the model that states are taken from: give one from ll.load.")
    for what, mine, theirs in (
        ("a stream of width", model.d_model, other.d_model),
        ("this many blocks:", model.n_layers, other.n_layers),
    ):
        if mine != theirs:
            raise InputError(
                f"{model.name} has {what} {mine} and {other.name} {theirs}: states can be put in "
                "place of each other only between models of the same shape."
            )
    ids = sorted(set(tokens.ids[tokens.mask].tolist()))
    unknown = [i for i in ids if i >= other.d_vocab]
    if unknown:
        raise InputError(f"{other.name} has no token {unknown[0]}: both models need the same ids.")
    if model.tokenizer is None or other.tokenizer is None:
        return
    for i in ids:
        if (own := model.token_string(i)) != (foreign := other.token_string(i)):
            raise InputError(
                f"Token {i} is {own!r} in {model.name} and {foreign!r} in {other.name}: both "
                "models need the same tokens."
            )


class _CrossModel:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, other: LensModel, tokens: Tokens, layers: list[int]
    ) -> None:
        self.job, self.model, self.other = job, model, other
        self.tokens, self.layers = tokens, layers
        self.own: list[float] = []
        self.theirs: list[float] = []
        self.values: list[np.ndarray] = []
        self.places: list[list[int]] = []
        self.measures: list[Metric] = []
        self.passes = 0.0
        self.methods: set[str] = set()
        self.head: tuple[float, float] | None = None

    def declare(self) -> None:
        """State axes and coordinates."""
        sizes = {"layer": len(self.layers)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32))
        }
        if not self.tokens.single:
            sizes["batch"] = len(self.tokens.ids)
            coords["text"] = (("batch",), np.array([text or "" for text in self.tokens.texts]))
        self.job.declare(sizes, coords)

    def text(
        self,
        row: int,
        metric: str | MetricFunction,
        asked: dict[str, Any],
        positions: Any,
        verify: int,
        memory_limit: int,
    ) -> None:
        """Patch one text at every layer."""
        tokens = row_of(self.tokens, row)
        base = record_base(self.model, tokens)
        states, logits = self._others(tokens)
        wrong = asked["wrong"]
        if wrong is None and metric == "logit_diff":
            wrong = self._wrong(base, logits, asked["answer"])
        measure = make_metric(
            self.model, metric, final=base.final, answer=asked["answer"], wrong=wrong
        )
        theirs = float(measure.of_logits(logits.unsqueeze(0))[0])
        if row == 0:
            self.job.describe("metric", units=measure.units, long_name=measure.words)
        lead = {} if self.tokens.single else {"batch": row}
        places = self.model.positions(tokens, positions)
        if not places:
            raise InputError(f"No position was chosen by {positions!r}: ask for at least one.")
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {
                "metric": values.astype(np.float32),
                "recovered": self._recovered(values, sweep.base_value, theirs),
            },
            lead=lead,
            share=(row, len(self.tokens.ids)),
            memory_limit=memory_limit,
        )
        for place, layer in enumerate(self.layers):
            change = Change(Site("resid_post", layer), "set", states[layer][places], tuple(places))
            sweep.add(Cell((change,)), {"layer": place})
        self._emit_base(lead, base, states, places, measure, sweep.base_value, theirs)
        sweep.run()
        sweep.verify(verify if row == 0 else 0)
        self._compare_head(sweep, states, places, tokens.ids.shape[1])
        self.own.append(sweep.base_value)
        self.theirs.append(theirs)
        self.values.append(sweep.values)
        self.places.append(places)
        self.measures.append(measure)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 2

    def _others(self, tokens: Tokens) -> tuple[dict[int, Tensor], Tensor]:
        """The other model's states after each block [position, d_model], and its last logits."""
        states: dict[int, Tensor] = {}
        last = self.other.n_layers - 1

        def keep(site: Site, value: Tensor) -> None:
            self.job.tick()
            states[site.block] = value[0].clone()

        sites = [Site("resid_post", layer) for layer in sorted({*self.layers, last})]
        logits = forward(self.other, tokens, sites, keep, logits="last")
        if logits is None:
            raise InputError(f"{self.other.name} has no language-model head to compare with.")
        return states, logits[0, -1].float()

    def _wrong(self, base: Base, logits: Tensor, answer: Any) -> int | None:
        """The other model's answer, where it is another one."""
        own = self.model.unembed(base.final.unsqueeze(0))[0]
        right = int(own.argmax()) if answer is None else self.model.token_id(answer)
        theirs = int(logits[: len(own)].argmax())
        return None if theirs == right else theirs

    def _recovered(self, values: np.ndarray, own: float, theirs: float) -> np.ndarray:
        if abs(own - theirs) <= SAME * max(abs(own), abs(theirs), 1.0):
            self.job.remark("Both models have the same metric, so there is nothing to recover.")
            return np.full(values.shape, np.nan, dtype=np.float32)
        return ((own - values) / (own - theirs)).astype(np.float32)

    def _emit_base(
        self,
        lead: dict[str, int],
        base: Base,
        states: dict[int, Tensor],
        places: list[int],
        measure: Metric,
        own: float,
        theirs: float,
    ) -> None:
        """Emit what is known before anything is patched."""
        ratios, cosines = [], []
        for layer in self.layers:
            mine = base.state(layer + 1)[places].float().cpu()
            given = states[layer][places].float().cpu()
            ratios.append((given.norm(dim=-1) / mine.norm(dim=-1)).mean().item())
            cosines.append(torch.cosine_similarity(mine, given, dim=-1).mean().item())
        arrays = {
            "norm_ratio": ratios,
            "cosine": cosines,
            "own_metric": own,
            "other_metric": theirs,
            "answer_id": measure.answer,
        }
        self.job.emit(
            lead,
            {name: np.array(one, dtype=VARIABLES[name].dtype) for name, one in arrays.items()},
        )

    def _compare_head(
        self, sweep: Sweep, states: dict[int, Tensor], places: list[int], length: int
    ) -> None:
        """After the last block there is only this model's head left."""
        last = self.model.n_layers - 1
        if self.layers[-1] != last or length - 1 not in places:
            return
        state = states[last][-1:].to(sweep.base.final)
        error = abs(float(sweep.metric(state)[0]) - float(sweep.values[-1]))
        before = self.head or (0.0, 0.0)
        self.head = (max(before[0], error), max(before[1], sweep.tolerance))

    def finish(self) -> None:
        """Means over texts; what was run and compared."""
        if not self.tokens.single:
            values, own = np.stack(self.values), np.array(self.own)[:, None]
            over = np.array(self.own) - np.array(self.theirs)
            known = np.abs(over).max() > SAME * max(np.abs(own).max(), 1.0)
            shares = mean_interval(own - values, over if known else np.full(len(over), np.nan))
            found = {"recovered": shares, "metric": mean_interval(values)}
            for name, ends in found.items():
                for end, array in zip(("mean", "low", "high"), ends, strict=True):
                    self.job.emit({}, {f"{name}_{end}": array.astype(np.float32)})
        if self.head is not None:
            what = "states replaced after the last block against this model's head on them"
            self.job.check("last layer is the head alone", *self.head, what)
        measure = self.measures[0]
        self.job.note(
            passes=self.passes,
            method=", ".join(sorted(self.methods)),
            direction=f"states of {self.other.name} into {self.model.name}, after each block",
            other=self.other.name,
            metric=measure.name,
            metric_words=measure.words,
            positions=json.dumps(self.places),
        )
