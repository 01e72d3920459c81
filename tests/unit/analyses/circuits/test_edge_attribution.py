"""Edges between parts: against plain torch, on a circuit that was written, where all is linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.answers.answer_metric import Metric, make_metric
from layerlens.analyses.circuits.edge_nodes import parts_of
from layerlens.analyses.circuits.edge_scores import EdgeScores, cut
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.texts.text_pair import make_pair
from layerlens.analyses.tracing.head_edges import Edges
from layerlens.errors import Cancelled, InputError, ResultError
from layerlens.model.lensmodel import LensModel
from layerlens.views.answer_cell import place_of

from ..by_hooks import FAMILIES, IDS, OTHER, wrapped
from ..planted import INDUCTION, PREVIOUS, induction_model

ASKED = {"answer": 7, "wrong": 11}


@torch.inference_mode()
def pair_of(model: LensModel, clean: list[int], corrupt: list[int]) -> tuple[Edges, Metric]:
    """All parts' runs of two texts, and what is measured."""
    pair = make_pair(model.tokens(clean), model.tokens(corrupt), None, "noise")
    parts = parts_of(model)
    edges = Edges.make(
        model,
        pair,
        [site for part in parts for site in part.receives],
        [site for part in parts for site in part.sends],
        freeze_mlps=True,
        where=None,
    )
    metric = make_metric(model, "logit_diff", final=edges.base.final, other=edges.source.final,
                         **ASKED)  # fmt: skip
    return edges, metric


def test_a_written_circuit_is_cut_where_it_was_written() -> None:
    """Previous token to the keys of the induction head, and that to the answer: no other edge."""
    model = induction_model()
    clean, corrupt = [0, 3, 5, 7, 9, 3], [0, 7, 5, 3, 9, 3]
    found = ll.edge_attribution(model, clean, corrupt, verify=0, most_edges=3)
    edges, _ = pair_of(model, clean, corrupt)
    parts = parts_of(model)
    with torch.inference_mode():
        metric = make_metric(model, "logit_diff", final=edges.base.final, other=edges.source.final)
        before, gap = (float(metric(run.final[None])[0]) for run in (edges.base, edges.source))
        effects = {
            (sender.name, receiver.name): (cut(edges, metric, sender, receiver) - before)
            / (gap - before)
            for sender in parts
            for receiver in parts
            if sender.reaches(receiver) and sender.name.startswith("head")
        }
    strong = {ends for ends, share in effects.items() if abs(share) > 1e-4}
    previous, induction = (f"head {layer}.{head}" for layer, head in (PREVIOUS, INDUCTION))
    assert strong == {(previous, induction), (induction, "answer")}
    assert [effects[ends] for ends in strong] == pytest.approx([1, 1], abs=1e-4)
    assert found.checks.ok


@pytest.mark.parametrize("family", FAMILIES)
def test_what_enters_adds_up_in_every_family(family: str) -> None:
    found = ll.edge_attribution(wrapped(family), IDS, OTHER, verify=1, steps=1, **ASKED)
    assert [check for check in found.checks if not check.ok] == []


def test_an_estimate_is_that_of_plain_torch() -> None:
    """MLP 0 to heads of layer 2: its change times the derivative through their inputs alone."""
    model = wrapped("llama")
    edges, metric = pair_of(model, IDS, OTHER)
    scores = EdgeScores(edges, parts_of(model), metric, 1, lambda: None)
    receiver = next(p for p in parts_of(model) if p.layer == 2 and p.receives and not p.is_mlp)
    estimate = scores.entering(receiver)["MLP 0"]

    hf, blocks = model.hf, model.hf.model.layers
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, out: kept.__setitem__(name, out)

    def run(ids: list[int]) -> torch.Tensor:
        return hf(torch.tensor([ids])).logits[0, -1]

    hooks = [blocks[0].mlp.register_forward_hook(keep("mlp"))]
    projections = [getattr(blocks[2].self_attn, f"{kind}_proj") for kind in "qkv"]
    hooks += [m.register_forward_hook(keep(str(i))) for i, m in enumerate(projections)]
    hooks.append(blocks[2].input_layernorm.register_forward_pre_hook(
        lambda module, args: kept.__setitem__("input", args[0])))  # fmt: skip
    run(OTHER)
    foreign = kept["mlp"].detach()
    logits = run(IDS)
    moved, state = foreign - kept["mlp"].detach(), kept["input"].detach().requires_grad_()
    made = [kept[str(i)] for i in range(3)]
    slopes = torch.autograd.grad(logits[7] - logits[11], made)
    for hook in hooks:
        hook.remove()
    normed = blocks[2].input_layernorm(state)
    size = model.hf.config.hidden_size // model.n_heads
    number = torch.zeros(())
    for i, projection in enumerate(projections):
        heads = {site.head for site in receiver.receives if site.kind.endswith("qkv"[i])}
        columns = [column for h in heads for column in range(h * size, (h + 1) * size)]
        number = number + (projection(normed) * slopes[i])[..., columns].sum()
    (slope,) = torch.autograd.grad(number, state)
    assert estimate == pytest.approx(float((slope * moved).sum()), abs=1e-5)


def test_what_goes_straight_to_a_linear_end_is_exact() -> None:
    """Without the final norm a logit is linear in what was sent: estimated is what is cut."""
    model = wrapped("llama")
    model.hf.model.norm = torch.nn.Identity()
    model = LensModel.wrap(model.hf, model.tokenizer, name="no norm", prove=False)
    edges, metric = pair_of(model, IDS, OTHER)
    scores = EdgeScores(edges, parts_of(model), metric, 1, lambda: None)
    answer = parts_of(model)[-1]
    estimates = scores.entering(answer)
    with torch.inference_mode():
        before = float(metric(edges.base.final[None])[0])
        for sender in parts_of(model)[1:-1]:
            real = cut(edges, metric, sender, answer) - before
            assert estimates[sender.name] == pytest.approx(real, abs=1e-4)


def test_the_graph_is_of_links_that_lead_to_the_answer() -> None:
    model = wrapped("gpt2")
    data = ll.edge_attribution(model, IDS, OTHER, most_edges=12, verify=3, **ASKED).data
    source, target = data.source.values, data.target.values
    names = data.node.values.tolist()
    leading = {names.index("answer")}
    for _ in range(len(names)):
        leading |= {int(a) for a, b in zip(source, target, strict=True) if int(b) in leading}
    assert set(target.tolist()) <= leading
    assert np.isfinite(data.link_effect.values).sum() >= 3
    assert np.all(np.diff(np.abs(data.weight.values)) <= 1e-7)


def test_a_part_opens_its_links_patched_alone() -> None:
    model = wrapped("gpt2")
    result = ll.edge_attribution(model, IDS, OTHER, most_edges=12, verify=4, **ASKED)
    place = place_of(result.data, {"array": "influence", "index": [result.data.sizes["node"] - 1]})
    assert result.given is not None
    found = registry.get(result.analysis).open(model, *result.given, place)
    rows = {row[0]: row for row in found.tables[0].rows}
    names = result.data.node.values
    for i in range(result.data.sizes["link"]):
        ends = f"{names[result.data.source[i]]} → {names[result.data.target[i]]}"
        effect = float(result.data.link_effect[i])
        if ends in rows and np.isfinite(effect):
            assert rows[ends][2] == pytest.approx(effect, abs=1e-4)


def test_stopped_it_hands_over_what_it_has() -> None:
    class Stops(Silent):
        ticks = 0

        def cancelled(self) -> bool:
            self.ticks += 1
            return self.ticks > 8

    inputs = {"clean": IDS, "corrupt": OTHER}
    with pytest.raises(Cancelled) as stopped:
        ll.edge_attribution.run(wrapped("gpt2"), inputs, {"steps": 1, **ASKED}, Stops())
    assert stopped.value.partial.data.sizes["link"] > 0


def test_what_is_asked_wrongly() -> None:
    model = wrapped("gpt2")
    with pytest.raises(InputError, match="A graph is of one pair and got 2"):
        ll.edge_attribution(model, [IDS, IDS], [OTHER, OTHER])
    with pytest.raises(InputError, match="steps is 0"):
        ll.edge_attribution(model, IDS, OTHER, steps=0)


def test_a_graph_of_parts_is_not_written_as_one_of_features() -> None:
    found = ll.edge_attribution(wrapped("gpt2"), IDS, OTHER, steps=1, verify=0, **ASKED)
    with pytest.raises(ResultError, match="has parts of a model"):
        ll.export_graph(found, "graph.json")
