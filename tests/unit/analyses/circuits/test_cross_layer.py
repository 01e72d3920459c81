"""Features that write into several layers: one is found where others find copies; links add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from layerlens.result.fitted import Fitted, ModelFacts
from layerlens.views.answer_cell import place_of

from ..by_hooks import wrapped
from ..planted import WORDS, Stream, empty
from ..small_calls import small_transcoders

TOKENS = [5, 9, 1, 3, 7, 5]
SUBJECT, ANSWER, LAYERS = 3, 8, 3
PROMPT = [1, 2, SUBJECT]
FEATURE, ERROR = 1, 2
NO_PRUNING = {"node_threshold": 1, "link_threshold": 1}


def planted() -> LensModel:
    """Three blocks, whose MLPs all see the subject and say a part of the answer each."""
    stream = Stream(token=WORDS, position=WORDS, out=WORDS)
    hf = empty(stream, layers=LAYERS, hidden=1)
    with torch.no_grad():
        for module in hf.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-12  # so that the transcoders, which have none, are the MLPs
        for block in hf.transformer.h:
            block.mlp.c_fc.weight[:, 0] = stream.read("token")[:, SUBJECT]
            block.mlp.c_fc.bias[0] = -0.5
            block.mlp.c_proj.weight[0] = stream.code("out", ANSWER, 0.01)
    return LensModel.wrap(hf, None, name="planted", prove=False)


def fitted(model: LensModel, cross: bool) -> Fitted:
    """The MLPs, neuron by neuron; or the first one's neuron for what all of them write."""
    mlps = [block.mlp for block in model.hf.transformer.h]
    arrays = {
        "W_enc": torch.stack([mlp.c_fc.weight.detach() for mlp in mlps]),
        "b_enc": torch.stack([mlp.c_fc.bias.detach() for mlp in mlps]),
        "W_dec": torch.stack([mlp.c_proj.weight.detach() for mlp in mlps]),
        "b_dec": torch.stack([mlp.c_proj.bias.detach() for mlp in mlps]),
    }
    if cross:
        wrote = ll.record(model, PROMPT, ["mlp_out"])
        norms = [wrote["mlp_out", layer][0, -1].norm() for layer in range(LAYERS)]
        rows = [mlps[0].c_proj.weight.detach() * norm / norms[0] for norm in norms[1:]]
        arrays["b_enc"][1:] = -100.0
        arrays["W_dec_later"] = torch.stack([*rows, torch.zeros_like(rows[0])])
    form = Form("relu", normalise="constant_norm_rescale", centred_input=False, only_in=True)
    options = {"site": "resid_mid", "site_out": "mlp_out", "layers": list(range(LAYERS)),
               "positions_skipped": 0, "dictionary": form.told()}  # fmt: skip
    return Fitted("transcoder", arrays, ModelFacts.of(model), "", options)


def test_one_feature_stands_for_copies_in_three_layers() -> None:
    model = planted()
    graphs = [ll.feature_circuit(model, PROMPT, fitted(model, cross), answers=ANSWER, **NO_PRUNING)
              for cross in (False, True)]  # fmt: skip
    found = []
    for graph in graphs:
        assert graph.checks.ok and graph.data.attrs["error_share"] < 1e-3
        found.append(sorted(graph.data.node.values[graph.data.kind.values == FEATURE]))
    assert found == [["0_0_2", "1_0_2", "2_0_2"], ["0_0_2"]]
    # It carries to the answer what the three carry together.
    sums = [float(graph.data.weight.values[_of(graph, FEATURE, ANSWER)].sum()) for graph in graphs]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4) and sums[1] > 1


def _of(graph: Result, kind: int, answer: int) -> np.ndarray:
    """Links that lead from nodes of a kind to an answer."""
    data = graph.data
    [target] = [
        i for i, name in enumerate(data.node.values) if name.startswith(f"{LAYERS}_{answer}_")
    ]
    chosen: np.ndarray = (data.kind.values[data.source.values] == kind) & (
        data.target.values == target
    )
    return chosen


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


def _weights(graph: Result) -> dict[tuple[str, str], float]:
    data = graph.data
    names = data.node.values.tolist()
    ends = zip(data.source.values, data.target.values, data.weight.values.tolist(), strict=True)
    return {(names[source], names[target]): weight for source, target, weight in ends}


def test_what_is_written_later_is_added(model: LensModel) -> None:
    """Beside the same without it: through the final norm, as it scaled, and the head."""
    given = small_transcoders(model, skip=True, cross=True)
    without = small_transcoders(model, skip=True)
    without.arrays.update({n: given[n] for n in given if n != "W_dec_later"})
    options = {"answers": [9, 11], **NO_PRUNING}
    both = [ll.feature_circuit(model, TOKENS, one, **options) for one in (without, given)]
    assert all(graph.checks.ok for graph in both)
    before, after = map(_weights, both)
    last, hf = len(TOKENS) - 1, model.hf
    state = ll.record(model, TOKENS, ["resid_post.1"])["resid_post", 1][0, last]
    scale = (state.square().mean() + hf.model.norm.variance_epsilon).rsqrt()
    head = hf.lm_head.weight.detach()
    checked = 0
    activations = dict(zip(both[1].data.node.values, both[1].data.activation.values, strict=True))
    for (source, target), weight in after.items():
        if not (source.startswith("0_") and target.startswith("2_")):
            continue
        _, number, position = map(int, source.split("_"))
        more = 0.0
        if position == last:
            write = float(activations[source]) * given["W_dec_later"][0, number]
            logits = head @ (write * hf.model.norm.weight.detach() * scale)
            more = float(logits[int(target.split("_")[1])] - logits.mean())
            checked += 1
        assert weight - before[source, target] == pytest.approx(more, abs=1e-4)
    assert checked > 4


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_links_add_up_in_other_families(family: str) -> None:
    other = wrapped(family)
    graph = ll.feature_circuit(other, TOKENS, small_transcoders(other, cross=True), most_nodes=20)
    assert graph.checks.ok and len(graph.checks) == 3
    assert int((graph.data.kind == FEATURE).sum()) > 0


def test_a_feature_is_taken_out_of_all_that_it_writes() -> None:
    model = planted()
    transcoders = fitted(model, True)
    graph = ll.feature_circuit(model, PROMPT, transcoders, answers=ANSWER)
    inputs, options = graph.given or ({}, {})
    place = place_of(graph.data, {"array": "influence", "at": {"node": "0_0_2"}})
    page = registry.get("feature_circuit").open(model, inputs, options, place)
    [table] = [table for table in page.tables if "into each layer" in table.title]
    assert [row[0] for row in table.rows] == [0, 1, 2] and all(row[1] > 0 for row in table.rows)
    [row] = [row for row in page.tables[0].rows if row[0] == model.token_string(ANSWER)]
    wrote = ll.record(model, PROMPT, ["mlp_out"])
    edits = [ll.edit(f"mlp_out.{layer}", "add", -wrote["mlp_out", layer][0, -1], position=2)
             for layer in range(LAYERS)]  # fmt: skip
    chances = ll.run(model, PROMPT, edits=edits).logits[0, -1].softmax(-1)
    assert row[3] == pytest.approx(float(chances[ANSWER]), abs=1e-5)
    assert row[3] < row[2] - 1e-3


def test_arrays_that_do_not_fit_are_refused(model: LensModel) -> None:
    given = small_transcoders(model, cross=True)
    given.arrays["W_dec_later"] = given["W_dec_later"][:, :-1].contiguous()
    with pytest.raises(InputError, match="W_dec_later"):
        ll.feature_circuit(model, TOKENS, given)
