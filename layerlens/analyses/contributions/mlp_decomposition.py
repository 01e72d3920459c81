"""How much of what an MLP writes is what the heads before it wrote, and what it adds of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contributions.frozen_norm import freeze_rows
from layerlens.analyses.contributions.write_regression import (
    Regression,
    explained,
    mean_of,
    regress,
    weight_intervals,
)
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError
from layerlens.model.sites import Site
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

BEFORE, INTERCEPT = "stream before", "intercept"
KINDS = ("answer", "other answer")
EXACT = 1e-4
"""How far terms may be from what enters the MLP, as a share of its largest entry."""

VARIABLES = {
    **with_interval(
        "r2",
        Variable(
            ("layer", "writes"),
            "float32",
            "1",
            "share of the MLP's variation over texts that was explained",
            signed=True,
        ),
        "held-out texts",
    ),
    **with_interval(
        "intercept_logit",
        Variable(("layer", "token"), "float32", "logit", "added by the intercept", signed=True),
        "held-out texts",
    ),
    **with_interval(
        "weight",
        Variable(
            ("layer", "term"),
            "float32",
            "1",
            "weight of what was written in the MLP's output",
            signed=True,
        ),
        "texts",
    ),
    "condition": Variable(("layer",), "float64", "1", "condition number of the writes"),
    "top_id": Variable(
        ("layer", "part", "k"), "int32", "1", "what the part alone says, best first", is_token=True
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    top_k: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen, texts = model.layers(layers), len(tokens.ids)
    terms = model.n_heads + 3
    held = 8 * texts * terms * model.d_model * (len(chosen) + 2)
    return Work(1, len(chosen) * terms, held + 60 * 8 * terms * model.d_model)


@analysis(
    name="mlp_decomposition",
    question="Does an MLP pass on what heads wrote, or add something of its own?",
    source="Lv et al. (2024), Interpreting Key Mechanisms of Factual Recall in Transformer-Based "
    "Language Models, arXiv 2403.19521",
    cost="1 pass a text, and a small least-squares fit a layer",
    view="curves",
    lead="Where the share explained is high on texts that were not fitted, the MLP mixes what was "
    "written before; an intercept that raises answers more than other answers adds them itself.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal", "attention"),
)
def mlp_decomposition(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    answer: str | int | Sequence[str | int] | None = None,
    other_answers: Sequence[str | int] | None = None,
    layers: Sequence[int] | None = None,
    ridge: float = 0.0,
    test: float = 0.3,
    top_k: int = 5,
    seed: int = 0,
) -> None:
    """Regress what an MLP writes at the end of prompts on what enters it, one number a writer.

    Prompts of one task are needed, ten or more. What enters the MLP of a layer is what each head
    of the layer wrote and the ``stream before`` (with the bias of the attention). Over all prompts
    and entries one weight a writer and one intercept vector are fitted: ``mlp_out = sum of weight *
    write + intercept``. A weight above 0 passes on what was written, one below 0 takes it away.

    Parameters
    ----------
    answer
    other_answers
        Tokens that answer other tasks, the control of the intercept. None: 100 random tokens of
        the vocabulary, fewer where it is small.
    layers
        Blocks; None for all.
    ridge
        Penalty on the squared weights, as a share of the mean square of a write about its mean; for
        writers that ``condition`` says cannot be told apart.
    test
        Share of the prompts that is not fitted, on which ``r2`` and ``intercept_logit`` are
        measured.
    top_k
        How many tokens are named of each part.
    seed
        Of the prompts set apart, of the shuffle and of random tokens.

    Notes
    -----
    ``r2`` is 1 less the squared error over that of the mean output of the fitted prompts, so an
    intercept alone has 0. Its control, ``shuffled``, is fitted on the writes of other prompts.
    ``intercept_logit`` is what the intercept adds to a logit directly, the statistics of the final
    norm held as they are at the end of each prompt, and measured from the mean over the
    vocabulary. ``top_id`` reads a weight times its mean write, or the intercept, alone by the head.

    Raises
    ------
    InputError
        Too few prompts, or an option does not fit.
    ModelError
        Attention and MLP run side by side, so that no head's write enters the MLP of its layer; or
        the head is more than a norm and a matrix.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> words = ["cat", "owl", "fox", "bee", "ant", "hen", "dog", "elk"]
    >>> texts = [f"{a} {b} dog {a}" for a in words[:4] for b in words[4:6]]
    >>> ll.mlp_decomposition(model, texts).data.weight.dims
    ('layer', 'term')
    """
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge!r}; expected 0 or a number above it.")
    chosen = _layers(model, layers)
    split = job.split(seed, test)
    if len(split.train) < 2:
        raise InputError("One prompt is fitted, and nothing varies: give more, ten at least.")
    run = _Prompts(job, model, tokens, one_each(answer, len(tokens.ids), "answer"), chosen)
    others = _others(model, run.answers, other_answers, seed)
    train, held = list(split.train), list(split.test)
    directions = run.directions(held, others)
    _declare(job, model, chosen, min(top_k, model.d_vocab))
    head, random = Head.of(model), np.random.default_rng(seed)
    for place, layer in enumerate(chosen):
        job.tick()
        writes, outputs = run.writes[layer], run.outputs[layer]
        fit = regress(writes[train], outputs[train], ridge)
        mixed = regress(writes[random.permutation(train)], outputs[train], ridge)
        r2 = [
            explained(one.errors(writes[rows], outputs[held]))
            for one, rows in ((fit, held), (mixed, random.permutation(held)))
        ]
        logits = np.einsum("ntd,d->nt", directions, fit.intercept)
        low, high = weight_intervals(writes[train], outputs[train], ridge)
        found = {
            **_named("r2", np.array(r2).T),
            **_named("intercept_logit", mean_of(logits)),
            **_named("weight", (fit.weights, low, high)),
        }
        top = _top(job, model, head, fit, writes[train].mean(0), min(top_k, model.d_vocab))
        arrays = {name: np.asarray(values, dtype=np.float32) for name, values in found.items()}
        condition = np.asarray(fit.condition)
        job.emit({"layer": place}, {**arrays, "condition": condition, "top_id": top})
        job.progress(place + 1, len(chosen), "layers")
    job.note(passes=len(tokens.ids))
    what = "what heads wrote beside attention's own output, of its largest entry: a constant"
    job.check("heads' writes sum to what attention writes", run.error, EXACT, what)


def _layers(model: LensModel, layers: Sequence[int] | None) -> list[int]:
    chosen = model.layers(layers)
    for layer in chosen:
        if model.anatomy.blocks[layer].layout == "parallel":
            raise ModelError(
                f"Attention and MLP of {model.name} run side by side in layer {layer}, so what its "
                "heads write does not enter its MLP: ask a model in which one follows the other."
            )
        for kind in ("resid_mid", "mlp_out", "attn_out", "z"):
            model.anatomy.tap(Site(kind, layer))  # raises, and says why
    return chosen


class _Prompts:
    """What entered and left the MLPs at the end of each prompt.

    Attributes
    ----------
    writes, outputs
        By layer ``[text, term, d_model]`` and ``[text, d_model]`` float64.
    answers
        Token of each text.
    error
        How far the heads' writes are from what attention writes, but for a constant.
    """

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, given: Sequence[Any], layers: list[int]
    ) -> None:
        self.model, self.answers, self.error = model, [], 0.0
        kinds = ("result", "attn_out", "resid_mid", "mlp_out")
        sites = [Site(kind, layer) for layer in layers for kind in kinds]
        last = Site("resid_post", model.n_layers - 1)
        found: dict[Site, list[torch.Tensor]] = {site: [] for site in [*sites, last]}

        def see(site: Site, value: torch.Tensor) -> None:
            job.tick()
            found[site].append(value[0, -1].detach().cpu().double())

        for number, wanted in enumerate(given):
            own = forward(model, row_of(tokens, number), list(found), see)
            assert own is not None  # the model has a head: the contract asked
            best = int(own[0, -1].argmax())
            self.answers.append(best if wanted is None else model.token_id(wanted))
            job.progress(number + 1, len(given), "prompts")
        self.final = torch.stack(found[last])
        self.writes, self.outputs = {}, {}
        for layer in layers:
            heads, attention, middle, out = (
                torch.stack(found[Site(kind, layer)]).numpy() for kind in kinds
            )
            rest = attention - heads.sum(1)
            off = np.abs(rest - rest.mean(0)).max() / np.abs(attention).max()
            self.error = max(self.error, float(off))
            before = middle - heads.sum(1)
            self.writes[layer] = np.concatenate([heads, before[:, None]], axis=1)
            self.outputs[layer] = out

    def directions(self, texts: Sequence[int], others: Sequence[int]) -> np.ndarray:
        """Along which a write counts for the answer and for other answers.

        ``[text, 2, d_model]``, the final norm held at each text's own statistics.
        """
        anatomy, matrix = self.model.anatomy.head, self.model.head_matrix()
        if anatomy is None or matrix is None or len(anatomy.chain) != 1 or anatomy.norm is None:
            raise ModelError(
                f"The head of {self.model.name} is more than a norm and a matrix, so what a write "
                "adds to a logit cannot be told by itself."
            )
        rows = matrix.weight.detach().cpu().double() * matrix.scale * anatomy.scale_in
        mean = rows.mean(0)
        state = self.final[list(texts)].to(self.model.device, self.model.dtype)
        norm = freeze_rows(self.model, anatomy.norm, state)
        found = []
        for place, text in enumerate(texts):
            both = torch.stack([rows[self.answers[text]], rows[list(others)].mean(0)]) - mean
            pulled = both * norm.gain * norm.inverse[place]
            found.append(pulled - pulled.mean(-1, keepdim=True) if norm.centred else pulled)
        return torch.stack(found).numpy()


def _others(
    model: LensModel, answers: Sequence[int], given: Sequence[str | int] | None, seed: int
) -> list[int]:
    """The tokens that the answers are compared with."""
    if given is not None:
        return [model.token_id(token) for token in given]
    free = np.setdiff1d(np.arange(model.d_vocab), answers)
    drawn = np.random.default_rng(seed).choice(free, min(100, len(free)), replace=False)
    return [int(token) for token in drawn]


def _declare(job: Job, model: LensModel, layers: list[int], k: int) -> None:
    terms = [*map(str, range(model.n_heads)), BEFORE]
    labels: dict[str, Any] = {
        "layer": np.array(layers, dtype=np.int32),
        "writes": np.array(["own", "shuffled"]),
        "token": np.array(KINDS),
        "term": np.array(terms),
        "part": np.array([*terms, INTERCEPT]),
        "k": np.arange(1, k + 1),
    }
    sizes = {axis: len(values) for axis, values in labels.items()}
    job.declare(sizes, {axis: ((axis,), values) for axis, values in labels.items()})


def _named(name: str, found: Any) -> dict[str, np.ndarray]:
    """A number and the ends of its interval."""
    return {name + end: value for end, value in zip(("", "_low", "_high"), found, strict=True)}


def _top(
    job: Job, model: LensModel, head: Head, fit: Regression, means: np.ndarray, k: int
) -> np.ndarray:
    """The tokens that each part alone puts on top, ``[part, k]`` int32."""
    parts = np.concatenate([fit.weights[:, None] * means, fit.intercept[None]])
    states = torch.from_numpy(parts).to(model.device, model.dtype)
    x = head.accept(model.head_input(states))
    nothing = torch.zeros((len(parts), 0), dtype=torch.long, device=x.device)
    return np.asarray(head.reduce(x, nothing, k, job.tick).top_ids.cpu().numpy(), dtype=np.int32)
