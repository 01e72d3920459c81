"""What a node of ``feature_circuit`` opens: its page, from weights and from runs without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.circuits.recorded import Recorded, record_text
from layerlens.analyses.circuits.stand_ins import Given, StandIn, stand_ins
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.options import written
from layerlens.analyses.contributions.token_scores import read_scores
from layerlens.analyses.features.effects import logit_effects, why_no_effects
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TOKENS = 8
"""Tokens at either end."""
SEED = 0
"""Of the random direction that a node is held against."""


@dataclass(frozen=True)
class _Node:
    """A node by its name: a token, an error, or a feature or output of a layer."""

    first: str
    number: int
    position: int

    @classmethod
    def of(cls, name: str) -> _Node:
        first, number, position = name.split("_")
        return cls(first, int(number), int(position))


def open_node(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    transcoders: Given | None,
    **_: Any,
) -> Opened:
    """Say what a node reads and writes, and run the text without it."""
    node = _Node.of(str(place.need("node")))
    text, found = row_of(tokens, 0), stand_ins(model, transcoders)
    run = record_text(model, text, found, job.tick)
    token = text.strings[0][node.position]
    where = f"at {token!r} (position {node.position})"
    if node.first == str(model.n_layers):
        name = model.token_string(node.number)
        return Opened(f"Output {name!r} {where}", place.call, [_likeliest(run)])
    if node.first == "E":
        return _opened(job, run, Site("resid_pre", 0), node, f"Token {where}", place.call)
    if node.first == "error":
        title = f"Error of layer {node.number} {where}: what its features miss"
        return _opened(job, run, Site("mlp_out", node.number), node, title, place.call)
    return _open_feature(job, run, found[int(node.first)], node, place)


def _opened(job: Job, run: Recorded, site: Site, node: _Node, title: str, code: str) -> Opened:
    """The page of what is no feature."""
    states = run.values[site] if node.first == "E" else run.error(site.block)
    write = states[node.position]
    tables = [_without(run, {site: write}, node.position)]
    return Opened(title, code, tables + _writes(job, run.model, write))


def _open_feature(job: Job, run: Recorded, stand_in: StandIn, node: _Node, place: Place) -> Opened:
    model, text, number, position = run.model, run.tokens, node.number, node.position
    read = stand_in.dictionary.encode(run.values[stand_in.read])[:, number]
    values = read * run.kept[stand_in.layer]
    value = float(values[position])
    marks = values / values.max().clamp_min(1e-12)
    rows = {Site("mlp_out", layer): rows[number] for layer, rows in stand_in.rows.items()}
    writes = {site: value * row for site, row in rows.items()}
    tables = [_without(run, writes, position), _reads(job, model, stand_in, number)]
    tables += _by_layer(writes)
    return Opened(
        title=f"Feature {number} of layer {stand_in.layer} at {text.strings[0][position]!r} "
        f"(position {position}), where it is {value:.3g}",
        code=_code(place, stand_in, number, position, value),
        tables=tables + _writes(job, model, torch.stack(list(rows.values())).sum(0)),
        texts=[list(zip(text.strings[0], marks.tolist(), strict=True))],
    )


def _code(place: Place, stand_in: StandIn, number: int, position: int, value: float) -> str:
    """Python that runs the text without what the feature writes."""
    if place.one_text is None:
        return place.call
    how = "" if place.add_bos is None else f", add_bos={place.add_bos}"
    edits = ", ".join(
        f"ll.edit('mlp_out.{layer}', 'add', {-value:.9g} * {decoder}[{number}], "
        f"position={position})"
        for layer, decoder in stand_in.code.items()
    )
    return f"ll.run(model, {written(place.given['text'])}, edits=[{edits}]{how})"


@torch.no_grad()
def _without(run: Recorded, writes: Mapping[Site, Tensor], position: int) -> Table:
    """The next token with as much of anything added, as it is, and without what a node writes."""
    drawing = torch.Generator().manual_seed(SEED)
    chance = {}
    for site, write in writes.items():
        drawn = torch.randn(len(write), generator=drawing)
        chance[site] = drawn * write.norm() / drawn.norm()
    model = run.model
    base = record_base(model, run.tokens, asked=run.place)
    away = {site: -write for site, write in writes.items()}
    found = [
        chances_with(
            model, base, [Change(site, "add", x, (position,)) for site, x in steps.items()]
        )
        for steps in (chance, away)
    ]
    own = chances(model, base.final)
    conditions = {"random added": found[0], "as it is": own, "without it": found[1]}
    return next_token_table(model, conditions)


def _by_layer(writes: Mapping[Site, Tensor]) -> list[Table]:
    """How much a feature writes into each layer, where it writes into several."""
    if len(writes) < 2:
        return []
    rows = [[site.block, float(write.norm())] for site, write in writes.items()]
    return [Table(["layer", "length"], rows, "How much it writes into each layer")]


def _likeliest(run: Recorded) -> Table:
    """What the model says."""
    best = run.logits.softmax(-1).topk(min(TOKENS, len(run.logits)))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    listed = [[run.model.token_string(token), chance] for token, chance in rows]
    return Table(["token", "probability"], listed, "The likeliest next tokens")


def _reads(job: Job, model: LensModel, stand_in: StandIn, number: int) -> Table:
    """The tokens whose embeddings it reads most and least, beside a random direction's best."""
    row = stand_in.dictionary["W_enc"].T[number]
    drawn = torch.randn(len(row), generator=torch.Generator().manual_seed(SEED))
    rows = torch.stack([row, drawn * row.norm() / drawn.norm()]).to(model.device)
    scores = read_scores(model, None, rows, job.tick).float().cpu()
    count = min(TOKENS, scores.shape[1])
    most, least = scores[0].topk(count), scores[0].topk(count, largest=False)
    listed = [
        [model.token_string(up), high, model.token_string(down), low]
        for up, high, down, low in zip(
            most.indices.tolist(), most.values.tolist(), least.indices.tolist(),
            least.values.tolist(), strict=True,
        )
    ]  # fmt: skip
    listed.append(["a random direction", float(scores[1].max()), "", float(scores[1].min())])
    head = ["reads most", "score", "reads least", "score"]
    return Table(head, listed, "Embeddings that it reads")


def _writes(job: Job, model: LensModel, row: Tensor) -> list[Table]:
    """The tokens that it raises and lowers most, past all that comes after it."""
    if why_no_effects(model, "mlp_out") is not None:
        return []
    tokens, scores = logit_effects(model, row[None], min(TOKENS, model.d_vocab), job.tick)
    up, down = ([model.token_string(int(i)) for i in side] for side in tokens[0])
    raised, lowered = scores[0].tolist()
    listed = [list(each) for each in zip(up, raised, down, lowered, strict=True)]
    head = ["raised", "score", "lowered", "score"]
    return [Table(head, listed, "What it writes, directly")]
