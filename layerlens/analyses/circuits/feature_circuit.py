"""The attribution graph of an answer: features of transcoders, and what each adds to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.circuits.circuit_cell import open_node
from layerlens.analyses.circuits.graph import (
    VARIABLES,
    WORDS,
    Nodes,
    error_share,
    error_words,
    flow_check,
)
from layerlens.analyses.circuits.growing import Growing, Outputs
from layerlens.analyses.circuits.held_model import HeldModel, States
from layerlens.analyses.circuits.influence import (
    LINK_THRESHOLD,
    NODE_THRESHOLD,
    Links,
    node_influence,
)
from layerlens.analyses.circuits.recorded import Recorded, record_text
from layerlens.analyses.circuits.stand_ins import Given, stand_ins
from layerlens.analyses.circuits.streamed import Streamed
from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.provenance import named_texts
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.contributions.logit_directions import Readout, through_head
from layerlens.errors import Cancelled, InputError, MemoryLimitError, ModelError
from layerlens.model.evidence import logit_size

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MOST_OUTPUTS, MASS = 10, 0.95
"""Without `answers`, the likeliest tokens that together have so much of the probability."""
ROWS = 64
"""Targets that are followed at once, at most."""
EXACT = 1e-3
"""How far what enters a node may be from it, as a share of it or of 1."""
DEFAULT_LIMIT = 1_000_000_000


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    transcoders: Given | None,
    most_nodes: int,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    found, length = stand_ins(model, transcoders), tokens.ids.shape[1]
    rows = _rows(model, length, most_nodes, memory_limit)
    targets = most_nodes + MOST_OUTPUTS
    back = 4.0 * targets * length * model.n_layers * model.d_model**2
    read = sum(2.0 * length * one.dictionary["W_enc"].numel() for one in found.values())
    held = rows * _row_bytes(model, length)
    arrays = sum(a.numel() for one in found.values() for a in one.dictionary.arrays.values())
    return Work(3 + rows, length + 2, int(held + 4 * arrays), operations=back + read)


def _row_bytes(model: LensModel, length: int) -> int:
    """Bytes of one target: what is kept of the pass, and directions at every write."""
    return 6 * 4 * (model.n_layers + 1) * length * model.d_model


def _rows(model: LensModel, length: int, most_nodes: int, limit: int) -> int:
    """Targets at once.

    Raises
    ------
    MemoryLimitError
        The limit is too small for one.
    """
    room = limit // 2 // _row_bytes(model, length)
    if room < 1:
        raise MemoryLimitError(
            f"To follow one node needs {2 * _row_bytes(model, length) / 1e6:.0f} MB of working "
            f"memory and the limit is {limit / 1e6:.0f} MB: raise memory_limit, or give a shorter "
            "text."
        )
    return min(room, ROWS, max(most_nodes, MOST_OUTPUTS))


@analysis(
    name="feature_circuit",
    question=WORDS["question"],
    source=WORDS["source"],
    lead=WORDS["lead"],
    cost="4 passes, and a backward pass for each feature that is followed, many at a time",
    view="graph",
    variables=VARIABLES,
    work=count_work,
    positional=("transcoders",),
    needs=("head", "causal", "attention", "gradients"),
    gradients=True,
    opens=open_node,
)
def feature_circuit(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    transcoders: Given | None = None,
    answers: str | int | Sequence[str | int] | None = None,
    node_threshold: float = NODE_THRESHOLD,
    link_threshold: float = LINK_THRESHOLD,
    most_nodes: int = 512,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Find which features lead from the tokens to the answer, by a linear model of this very run.

    MLPs are replaced by what their transcoders wrote and by the error, what these missed.
    Attention patterns and the statistics of norms stay as they were. What is left is linear, so
    that each logit, and what each feature reads, is a sum over the features before it, errors,
    tokens and constants: a link is one term of that sum. Features are followed from the answers
    down, those first that carry most; then the graph is pruned.

    Parameters
    ----------
    transcoders
        What ``ll.train_transcoder`` or ``ll.load_sae`` returned, the path of its file, or several.
        Of a layer without one, all that its MLP writes is an error.
    answers
        The token whose logit is explained, or several. None: the likeliest, up to ten, that
        together have 95 % of the probability.
    node_threshold
        Nodes that together carry so much of the influence on the answers stay.
    link_threshold
        The same of links among them.
    most_nodes
        Features to follow, at most; the others count as errors.
    memory_limit

    Notes
    -----
    Logits are measured from their mean over the vocabulary. Where a transcoder was not learned from
    a token (special ones, the first of a text), all that the MLP writes there is an error. A path
    beside the features (``skip=True``) is part of the linear model. Patterns are held, so the graph
    does not say why attention looks where it looks. When it is stopped, the graph of what was
    followed by then is handed over.

    Raises
    ------
    InputError
        Several texts were given, or something else than transcoders of this model.
    ModelError
        The model is not linear even so: it mixes positions or scales the stream by other means.
    MemoryLimitError
        The limit is too small.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> learned = ll.train_transcoder(model, texts, layers="all", size=2, k=4, test=0.25, batch=16)
    >>> graph = ll.feature_circuit(model, "cat dog bee cat dog", learned)
    >>> graph.checks.ok, int((graph.data.kind == 0).sum()), sorted(graph.data.sizes)
    (True, 6, ['link', 'node'])
    """
    if len(tokens.ids) > 1:
        raise InputError(f"A circuit is of one text and got {len(tokens.ids)}: give one of them.")
    if most_nodes < 0:
        raise InputError(f"most_nodes is {most_nodes}; expected a number from 0.")
    rows = _rows(model, tokens.ids.shape[1], most_nodes, memory_limit)
    run = record_text(model, tokens, stand_ins(model, transcoders), job.tick)
    held = HeldModel(run, rows)
    outputs = _outputs(job, run, held, answers)
    growing = Growing(run, held, outputs)
    _require_room(growing, most_nodes, memory_limit)
    thresholds = {"node_threshold": node_threshold, "link_threshold": link_threshold}
    total = min(most_nodes, growing.features)
    job.note(**named_texts({"text": run.tokens}))  # no axis of the graph is of its tokens
    streamed = Streamed(job, growing, most_nodes, thresholds)

    def followed(done: int) -> None:
        streamed.show()
        job.progress(done, total, "features followed")

    try:
        growing.follow(most_nodes, job.tick, followed)
    except Cancelled:
        if growing.rows:
            _hand_over(job, growing, streamed)
        raise
    _check_sums(job, growing, held.constants())
    _hand_over(job, growing, streamed)


def _outputs(
    job: Job, run: Recorded, held: HeldModel, answers: str | int | Sequence[str | int] | None
) -> Outputs:
    """The logits to explain; checks that the linear model has those of the model itself.

    Raises
    ------
    ModelError
        It has others.
    """
    model, own = run.model, run.logits
    chances = own.softmax(-1)
    chosen = _chosen(model, run.tokens, chances, answers)
    weights = torch.zeros(len(chosen) + 1, len(own), dtype=torch.float64)
    weights[range(len(chosen)), chosen] = 1
    known = own.isfinite()  # suppressed tokens (-inf) have no share in the mean
    weights[-1] = known / known.sum()
    readout = Readout()
    state = run.values[run.last][run.place].to(model.device, model.dtype)
    along = through_head(model, {run.last: state}, weights, readout)
    again = along @ held.reproduced()[run.last][run.place].double() + readout.constant
    size = logit_size(own)
    off = float((readout.capped(again[:-1]) - own[chosen]).abs().max())
    limit = logit_tolerance(model.dtype) * size
    if not off <= 10 * limit:
        raise ModelError(
            f"{model.name} is not linear with its patterns and norms held and its MLPs replaced by "
            f"what they wrote: logits are off by {off:.2g}, allowed is {limit:.2g}; it scales or "
            "gates the stream by other means, so there is no circuit of it."
        )
    job.check(
        "the linear model is the model", off, limit,
        "largest difference of the logits from the model's own, with patterns and norms held and "
        "MLPs replaced by features and errors",
    )  # fmt: skip
    centred, constants = (x[:-1] - x[-1] for x in (along, readout.constant))
    return Outputs(chosen, chances[chosen].numpy(), centred.float(), constants)


def _chosen(
    model: LensModel,
    tokens: Tokens,
    chances: Tensor,
    answers: str | int | Sequence[str | int] | None,
) -> list[int]:
    if answers is None:
        best = chances.topk(min(MOST_OUTPUTS, len(chances)))
        before = best.values.cumsum(0) - best.values
        likely: list[int] = best.indices[before < MASS].tolist()
        return likely
    given = [answers] if isinstance(answers, str | int) else list(answers)
    if not given:
        raise InputError("answers is empty: give a token, several, or None for the likeliest.")
    found = [model.token_id(one, tokens) for one in given]
    if len(set(found)) < len(found):
        raise InputError("answers names a token twice: give each once.")
    return found


def _require_room(growing: Growing, most_nodes: int, limit: int) -> None:
    """Refuse a graph whose links could take more than half of the limit.

    Raises
    ------
    MemoryLimitError
        They could.
    """
    rows = min(most_nodes, growing.features) + len(growing.outputs.tokens)
    needed = 12 * rows * growing.sources  # a number, and where it stands
    if needed > limit // 2:
        raise MemoryLimitError(
            f"The links of {rows:,} nodes to {growing.sources:,} sources can take "
            f"{needed / 1e6:.0f} MB and the limit leaves {limit / 2e6:.0f} MB: raise memory_limit, "
            "lower most_nodes, or give a shorter text."
        )


def _check_sums(job: Job, growing: Growing, constants: States) -> None:
    """What enters each target, with the constants, has to be what the run had there."""
    run, outputs, all_ = growing.run, growing.outputs, growing.run.features
    last = run.values[run.last][run.place], constants[run.last][run.place]
    own, still = (outputs.directions.double() @ state.double() for state in last)
    wanted, fixed = [own.numpy()], [still.numpy()]
    for feature in growing.followed:
        site, position, direction = growing.target(feature)
        number = all_.number[feature : feature + 1]
        bias = run.stand_ins[int(all_.layer[feature])].biases(number)
        fixed.append((direction @ constants[site][position] + bias).double().numpy())
        wanted.append(all_.activation[feature : feature + 1].double().numpy())
    value = np.concatenate(wanted)
    off = growing.sums() + np.concatenate(fixed) - value
    job.check(
        "links add up", float((np.abs(off) / np.maximum(1, np.abs(value))).max()),
        max(EXACT, logit_tolerance(run.model.dtype)),
        "what enters each output and each feature that was followed, with the constants, from its "
        "own value, as a share of that or of 1",
    )  # fmt: skip


def _hand_over(job: Job, growing: Growing, streamed: Streamed) -> None:
    """Prune the graph, and hand over what is left of it."""
    nodes, links = growing.graph()
    left = streamed.pruned(nodes, links)
    _remark(job, growing, nodes, links)
    nodes, links = _kept(nodes, links, left.nodes, left.links)
    influence = node_influence(links, nodes.answers)
    flow = flow_check(influence, links, nodes)
    job.check(flow.name, flow.error, flow.limit, flow.what)
    job.note(passes=3 + growing.held.rows, features_followed=len(growing.followed))
    streamed.close(nodes, links)


def _remark(job: Job, growing: Growing, nodes: Nodes, links: Links) -> None:
    """Say how much of the answers the whole graph explains, and what was left out of it."""
    share = error_share(node_influence(links, nodes.answers), links, nodes)
    job.note(error_share=share)
    job.remark(error_words(share, "the graph before it was pruned"))
    if left := growing.left_out():
        job.remark(
            f"{len(growing.followed):,} features were followed, the most influential; {left:,} "
            "others that carry some of the answers count as errors."
        )
    run = growing.run
    if bare := [site.block for site in run.writes if site.block not in run.stand_ins]:
        listed = ", ".join(map(str, bare))
        job.remark(f"There is no transcoder of layers {listed}: all their MLPs write is an error.")


def _kept(nodes: Nodes, links: Links, which: np.ndarray, among: np.ndarray) -> tuple[Nodes, Links]:
    """Nodes and links of a mask, numbered anew; links from the answers down, strongest first."""
    chosen = np.flatnonzero(which).tolist()
    number = np.cumsum(which) - 1
    links = links.kept(among)
    arrays = ("kind", "layer", "position", "feature", "activation", "probability")
    left = replace(
        nodes,
        **{name: getattr(nodes, name)[which] for name in arrays},
        ids=[nodes.ids[i] for i in chosen],
        words=[nodes.words[i] for i in chosen],
    )
    order = np.lexsort((-np.abs(links.weight), -nodes.layer[links.target]))
    source, target = (number[ends[order]] for ends in (links.source, links.target))
    return left, Links(source, target, links.weight[order], len(chosen))
