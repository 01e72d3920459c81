"""Edges between parts: against plain torch, on a circuit that was written, where all is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.answers.answer_metric import Metric, make_metric
from layerlens.analyses.circuits.edge_attribution import Task
from layerlens.analyses.circuits.edge_faithfulness import Faithfulness
from layerlens.analyses.circuits.edge_nodes import parts_of
from layerlens.analyses.circuits.edge_scores import EdgeScores, cut
from layerlens.analyses.circuits.kept_edges import KeptEdges
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.job import Job
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.texts.text_pair import make_pair
from layerlens.analyses.tracing.head_edges import Edges
from layerlens.errors import Cancelled, InputError
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


@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_but_one_are_that_edge_patched(family: str) -> None:
    """No edge is the other text, all are the model itself: by two ways of running them."""
    model = wrapped(family)
    edges, metric = pair_of(model, IDS, OTHER)
    parts = parts_of(model)
    every = np.ones((len(parts), len(parts)), dtype=bool)
    graphs, values = [~every, every], [edges.source, edges.base]
    with torch.inference_mode():
        truths = [float(metric(run.final[None])[0]) for run in values]
        reached = [(i, j) for i, one in enumerate(parts) for j, other in enumerate(parts)
                   if one.reaches(other)]  # fmt: skip
        for i, j in reached[::7]:
            graphs.append(every.copy())
            graphs[-1][i, j] = False
            truths.append(cut(edges, metric, parts[i], parts[j]))
        kept = KeptEdges(edges, parts, metric, lambda: None)
        assert kept.values(np.stack(graphs)) == pytest.approx(truths, abs=1e-5)


def test_a_graph_that_is_run_is_that_of_plain_torch() -> None:
    """All but MLP 0 to the attention of layer 2, which alone reads what it is in the other text."""
    model = wrapped("llama")
    edges, metric = pair_of(model, IDS, OTHER)
    parts = parts_of(model)
    graph = np.ones((1, len(parts), len(parts)), dtype=bool)
    mlp = next(i for i, part in enumerate(parts) if part.name == "MLP 0")
    heads = [i for i, part in enumerate(parts) if part.layer == 2 and not part.is_mlp]
    graph[0, mlp, heads] = False
    with torch.inference_mode():
        value = KeptEdges(edges, parts, metric, lambda: None).values(graph)[0]

    kept: dict[str, torch.Tensor] = {}
    blocks = model.hf.model.layers
    hook = blocks[0].mlp.register_forward_hook(lambda m, a, out: kept.__setitem__("mlp", out))
    with torch.inference_mode():
        model.hf(torch.tensor([OTHER]))
        foreign = kept["mlp"]
        model.hf(torch.tensor([IDS]))
        moved = foreign - kept["mlp"]
        hook.remove()
        # Only the attention reads through this norm; the stream beside it stays as it is.
        hook = blocks[2].input_layernorm.register_forward_pre_hook(lambda m, a: (a[0] + moved,))
        logits = model.hf(torch.tensor([IDS])).logits[0, -1]
        hook.remove()
    assert value == pytest.approx(float(logits[7] - logits[11]), abs=1e-5)


def test_the_written_circuit_is_all_that_is_needed() -> None:
    """The written edges and what the tokens send keep the answer; without one of them, nothing."""
    model = induction_model()
    clean, corrupt = [0, 3, 5, 7, 9, 3], [0, 7, 5, 3, 9, 3]
    pair = make_pair(model.tokens(clean), model.tokens(corrupt), None, "noise")
    parts = parts_of(model)
    previous, induction = (f"head {layer}.{head}" for layer, head in (PREVIOUS, INDUCTION))
    with torch.inference_mode():
        task = Task.make(model, parts, pair, "logit_diff", None, None)
        runs = [KeptEdges(task.edges, parts, task.metric, lambda: None)]
        found = Faithfulness(Job({}, Silent(), batched=False, model=model, fed={}), runs, [], [],
                             1, np.random.default_rng(0))  # fmt: skip
        tokens = [("tokens", part.name) for part in parts if parts[0].reaches(part)]
        written = [*tokens, (previous, induction), (induction, "answer")]
        masks = np.stack([found._mask(written), found._mask(written[:-1]),
                          found._mask([*tokens, written[-1]])])  # fmt: skip
        shares = found._shares(runs[0], masks, found.ends[0])
    assert shares == pytest.approx([1, 0, 0], abs=1e-4)


def test_graphs_keep_more_than_random_ones_here_and_in_other_texts() -> None:
    toy = ll.load("toy:induction")
    asked = {"answer": "dog", "wrong": "owl", "sizes": [3, 10], "verify": 3, "draws": 2}
    texts = "cat dog bee owl cat", "bee dog cat owl cat"
    others = [("cat dog owl bee cat", "owl dog cat bee cat")]
    found = ll.edge_attribution(toy, *texts, **asked, others=others, others_wrong="bee").data
    strongest, patched, random = found.faithfulness.values.T
    assert strongest[1] > 0.9 > 0.5 > random[1]
    assert np.isnan(patched[1]) and np.isfinite(patched[0])  # of three edges nothing more is known
    assert found.others_faithfulness.values[1, 0] > 0.8
    low, high = (found[f"faithfulness_{end}"].values[:, 2] for end in ("low", "high"))
    assert (low <= random).all() and (random <= high).all()
    assert found.estimate_spearman.dims == ("edges_patched",)
    alone = ll.edge_attribution(toy, *texts, **asked, rest="zero").data
    assert "others_faithfulness" not in alone
    assert not np.allclose(alone.faithfulness[:, 0], strongest)


def test_the_graph_grows_while_it_is_followed() -> None:
    class Hears(Silent):
        links: list[int] = []  # noqa: RUF012

        def on_emit(self, where: Any, arrays: Any) -> None:
            if "weight" in arrays:
                self.links.append(int(np.isfinite(arrays["weight"]).sum()))

    heard = Hears()
    asked = {"steps": 1, "most_edges": 20, "verify": 0, **ASKED}
    result = ll.edge_attribution.run(
        wrapped("gpt2"), {"clean": IDS, "corrupt": OTHER}, asked, heard
    )
    assert len(heard.links) > 10
    assert 0 < heard.links[0] <= heard.links[3] <= 20
    assert result.data.sizes["link"] == heard.links[-1]
    assert (result.data.kind.values >= 0).all()


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
    for asked, words in [
        ({"steps": 0}, "steps is 0"),
        ({"sizes": [3, 0]}, "sizes holds 0"),
        ({"rest": "noise"}, "rest of edge_attribution"),
        ({"others": "cat"}, "list of pairs"),
        ({"others_answer": 3}, "others_answer of edge_attribution has an effect only where others"),
        ({"rest": "zero", "sizes": []}, "rest of edge_attribution has an effect only where sizes"),
    ]:
        with pytest.raises(InputError, match=words):
            ll.edge_attribution(model, IDS, OTHER, **asked)
