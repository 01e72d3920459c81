"""A path through heads and MLPs followed on one text, with norms and patterns as they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.contributions.head_matrices import HeadMaps
from layerlens.analyses.contributions.logit_directions import read_out, stream_sites
from layerlens.analyses.contributions.split_text import components
from layerlens.analyses.contributions.value_paths import Node, PathRun, Step, between
from layerlens.model.evidence import logit_size
from layerlens.model.sites import Site
from layerlens.run.answer_place import answer_place
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def vector_of(model: LensModel, parts: Mapping[int, float]) -> Tensor:
    """``[1, vocabulary]`` float64."""
    row = torch.zeros(1, model.d_vocab, dtype=torch.float64)
    for index, weight in parts.items():
        row[0, index] = weight
    return row


def written_before(model: LensModel, nodes: list[Node]) -> list[Site]:
    """What writes the state that the first node reads: its first state, then the sublayers."""
    every = components(model)
    if not nodes:
        return every
    state = nodes[0].reads(model)
    return [
        site
        for site in every
        if site.kind == "resid_pre"
        or site.block < state.block
        or (site.block == state.block and site.kind == "attn_out" and state.kind == "resid_mid")
    ]


def on_text(
    job: Job,
    model: LensModel,
    nodes: list[Node],
    parts: Mapping[int, float],
    maps: HeadMaps | None,
    tokens: Tokens,
    position: Any,
) -> None:
    """The path on one text, with norms and patterns as they are there."""
    asked = answer_place(model, tokens) if position is None else None
    place = model.positions(tokens, position)[-1] if asked is None else asked
    values: dict[Site, Tensor] = {}

    def keep(site: Site, value: Tensor) -> None:
        job.tick()
        values[site] = value[0].clone()

    wanted = [*stream_sites(model), *written_before(model, nodes), *PathRun.sites(model, nodes)]
    logits = forward(model, tokens, dict.fromkeys(wanted), keep, logits="all")
    assert logits is not None  # the contract asked for a head
    own = logits[0, place].cpu().double()
    vector = vector_of(model, parts)
    value = float(vector[0, vector[0] != 0] @ own[vector[0] != 0])
    size = logit_size(own) * max(1.0, float(vector.abs().sum()))
    allowed = logit_tolerance(logits.dtype) * size
    # Patterns have another shape, and nothing of them is needed here.
    here = {site: v[place] for site, v in values.items() if site.kind != "pattern"}
    readout = read_out(model, here, vector)
    every = components(model)
    straight = [float(readout.along[s][0] @ here[s].cpu().double()) for s in every]
    total = sum(straight) + float(readout.constant[0])
    error = abs(float(readout.capped(torch.tensor(total))) - value)
    if readout.cap is None or len(parts) == 1:
        job.check("parts sum to the observable", error, allowed, "against the model's own logits")
    else:
        job.remark("The model soft-caps its logits: what is followed is the sum before the cap.")
    run = PathRun(model, tokens, values, maps, allowed)
    length = tokens.ids.shape[1]
    steps = [_straight(straight, readout.constant, place, length)]
    along = torch.zeros(length, model.d_model, dtype=torch.float64)
    after = model.n_layers
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if index == len(nodes) - 1:
            along[place] = readout.along[node.write][0]
        else:
            along = along * between(model, node.layer, after)
        steps.insert(0, run.back(node, along))
        along, after = steps[0].along, node.layer
        job.tick()
    _emit(job, steps)
    _split_first(job, model, nodes, steps, values, straight, allowed)
    if any(not node.mlp for node in nodes):
        job.check("sources and biases sum to heads", run.error, allowed, "of each head on the path")
    job.note(value=value, observed_position=place)


def _straight(parts: list[float], constant: Tensor, place: int, length: int) -> Step:
    """The end of the path: what the head of the model reads of the last state."""
    contribution = torch.zeros(length, dtype=torch.float64)
    contribution[place] = sum(parts)
    return Step(torch.empty(0), contribution, sum(parts) + float(constant[0]))


def _emit(job: Job, steps: list[Step]) -> None:
    for index, step in enumerate(steps):
        constant = step.carried - float(step.contribution.sum())
        job.emit(
            {"node": index},
            {
                "contribution": step.contribution.numpy(),
                "carried": np.array(step.carried),
                "constant": np.array(constant),
            },
        )


def _split_first(
    job: Job,
    model: LensModel,
    nodes: list[Node],
    steps: list[Step],
    values: Mapping[Site, Tensor],
    straight: list[float],
    allowed: float,
) -> None:
    """What the first node reads, split into what wrote it."""
    if not nodes:
        job.emit({}, {"component_contribution": np.array(straight)})
        return
    found = []
    for site in written_before(model, nodes):
        gain = between(model, site.block, nodes[0].layer)
        written = values[site].cpu().double()
        found.append(gain * float((steps[0].along * written).sum()))
    job.emit({}, {"component_contribution": np.array(found)})
    error = abs(sum(found) - float(steps[0].contribution.sum()))
    job.check("components sum to positions", error, allowed, "of what the first node reads")
