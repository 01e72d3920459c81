"""The circuit of an answer: a planted one is found, and links are those of plain torch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.circuits import streamed
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.cells import Opened
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.errors import Cancelled, InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result
from layerlens.result.fitted import Fitted, ModelFacts
from layerlens.views.answer_cell import place_of

from ..by_hooks import wrapped
from ..planted import SHARP, WORDS, Stream, empty, set_head
from ..small_calls import small_transcoders

FACTS = {3: 8, 4: 9, 5: 10}
PROMPT = [1, 2, 3, 6, 7]
TOKENS = [5, 9, 1, 3, 7, 5]
TOKEN, FEATURE, ERROR, OUTPUT = range(4)


def planted() -> tuple[LensModel, Fitted, float]:
    """Two layers: one MLP knows answers, a head moves them to the end, one MLP says them.

    The transcoders are the MLPs, neuron by neuron. Also the root of the number of features of the
    stream: what a feature is after a norm where it is alone.
    """
    stream = Stream(token=WORDS, position=WORDS, answer=WORDS, flag=1, moved=WORDS, out=WORDS)
    hf = empty(stream, layers=2, hidden=len(FACTS))
    root = stream.n**0.5
    seen = (stream.n / 2) ** 0.5
    for module in hf.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12  # so that the transcoders, which have none, are the MLPs
    knows, says = (block.mlp for block in hf.transformer.h)
    with torch.no_grad():
        for neuron, (subject, answer) in enumerate(FACTS.items()):
            knows.c_fc.weight[:, neuron] = stream.read("token")[:, subject]
            knows.c_fc.bias[neuron] = -0.8 * seen
            fact = stream.code("answer", answer, 100.0) + stream.code("flag", 0, 100.0)
            knows.c_proj.weight[neuron] = fact / (0.2 * seen)
            says.c_fc.weight[:, neuron] = stream.read("moved")[:, answer]
            says.c_fc.bias[neuron] = -0.5 * root
            says.c_proj.weight[neuron] = stream.code("out", answer, 30.0) / root
    size = stream.width // 4
    set_head(
        hf, 1, 3, q=torch.zeros(stream.width, 1),
        q_bias=torch.tensor([SHARP * size**0.5 / seen]), k=stream.read("flag"),
        v=stream.read("answer") / seen, write=stream.codes("moved", 20.0),
    )  # fmt: skip
    model = LensModel.wrap(hf, None, name="planted", prove=False)
    mlps = (knows, says)
    arrays = {
        "W_enc": torch.stack([mlp.c_fc.weight.detach() for mlp in mlps]),
        "b_enc": torch.stack([mlp.c_fc.bias.detach() for mlp in mlps]),
        "W_dec": torch.stack([mlp.c_proj.weight.detach() for mlp in mlps]),
        "b_dec": torch.stack([mlp.c_proj.bias.detach() for mlp in mlps]),
    }
    form = Form("relu", normalise="constant_norm_rescale", centred_input=False, only_in=True)
    options = {"site": "resid_mid", "site_out": "mlp_out", "layers": [0, 1],
               "positions_skipped": 0, "dictionary": form.told()}  # fmt: skip
    return model, Fitted("transcoder", arrays, ModelFacts.of(model), "", options), root


def test_just_the_planted_circuit_is_found() -> None:
    model, transcoders, root = planted()
    graph = ll.feature_circuit(model, PROMPT, transcoders)
    data = graph.data
    assert graph.checks.ok
    names = data.node.values.tolist()
    place, end = 2, 4
    token, knows, says, answer = f"E_3_{place}", f"0_0_{place}", f"1_0_{end}", f"2_8_{end}"
    assert [n for n, kind in zip(names, data.kind.values, strict=True) if kind] == [
        knows, says, answer,
    ]  # fmt: skip
    weights = {
        (names[source], names[target]): weight
        for source, target, weight in zip(
            *(data[name].values.tolist() for name in ("source", "target", "weight")), strict=True
        )
    }
    assert set(weights) == {(token, knows), (knows, says), (says, answer)}
    activation = dict(zip(names, data.activation.values.tolist(), strict=True))
    # What enters is all that lifts the feature over its bias.
    seen = root / 2**0.5
    assert weights[token, knows] == pytest.approx(activation[knows] + 0.8 * seen, rel=1e-4)
    assert weights[knows, says] == pytest.approx(activation[says] + 0.5 * root, rel=1e-4)
    logits = ll.run(model, PROMPT).logits[0, -1]
    assert weights[says, answer] == pytest.approx(float(logits[8] - logits.mean()), rel=1e-4)
    assert data.attrs["error_share"] < 1e-3
    carried = dict(zip(names, data.influence.values.tolist(), strict=True))
    assert carried[token] == pytest.approx(1, abs=1e-3)


def test_another_subject_takes_its_own_features() -> None:
    model, transcoders, _ = planted()
    found = ll.feature_circuit(model, [5, 1, 6, 7, 2], transcoders, answers=10).data
    assert found.node.values[found.kind.values > 0].tolist() == ["0_2_0", "1_2_4", "2_10_4"]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def transcoders(model: LensModel) -> Fitted:
    return small_transcoders(model, skip=True)


@pytest.fixture(scope="module")
def whole(model: LensModel, transcoders: Fitted) -> Result:
    return ll.feature_circuit(
        model, TOKENS, transcoders, answers=[9, 11], node_threshold=1, link_threshold=1
    )


def test_links_are_those_of_plain_torch(
    model: LensModel, transcoders: Fitted, whole: Result
) -> None:
    """What a feature of block 0 adds to one of block 1: along the stream, and through the heads."""
    data, hf = whole.data, model.hf
    assert whole.checks.ok
    cached = ll.record(model, TOKENS, ["resid_pre", "resid_mid", "pattern"])
    layer = hf.model.layers[1]
    pre, mid = cached["resid_pre", 1][0], cached["resid_mid", 1][0]
    pattern = cached["pattern", 1][0]
    gain, scale = layer.input_layernorm.weight, (pre.square().mean(1) + 1e-6).rsqrt()
    v, out = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
    rate = 8 / mid.norm(dim=1)
    checked = 0
    rows = [data[name].values.tolist() for name in ("source", "target", "weight")]
    for source, target, weight in zip(*rows, strict=True):
        one, other = (data.isel(node=node) for node in (source, target))
        if (int(one.kind), int(one.node_layer), int(other.kind)) != (FEATURE, 0, FEATURE):
            continue
        s, t = int(one.node_position), int(other.node_position)
        write = float(one.activation) * transcoders["W_dec"][0, int(one.feature)]
        with torch.no_grad():
            heads = (v @ (write * gain * scale[s])).unflatten(0, (4, 16)) * pattern[:, t, s, None]
            arrived = out @ heads.flatten() + (write if s == t else 0)
        read = transcoders["W_enc"][1, :, int(other.feature)] * rate[t]
        assert weight == pytest.approx(float(read @ arrived), abs=1e-4)
        checked += 1
    assert checked > 20


def test_errors_and_features_are_all_that_an_mlp_wrote(model: LensModel, whole: Result) -> None:
    """Without a feature followed, its MLP's error adds what both did."""
    transcoders = small_transcoders(model, skip=True)
    few = ll.feature_circuit(
        model, TOKENS, transcoders, answers=[9, 11], most_nodes=3, node_threshold=1,
        link_threshold=1,
    )  # fmt: skip
    assert few.checks.ok and int((few.data.kind == FEATURE).sum()) == 3
    assert "count as errors" in few.data.attrs["notes"]
    for answer in (9, 11):
        sums = [_into(graph.data, f"2_{answer}_5") for graph in (few, whole)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-4)


def _into(data: Any, name: str) -> float:
    node = data.node.values.tolist().index(name)
    return float(data.weight.values[data.target.values == node].sum())


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "bloom", "mixtral"])
def test_links_add_up_in_other_families(family: str) -> None:
    """Sublayers side by side, norms behind them, attention of the family's own, experts."""
    other = wrapped(family)
    graph = ll.feature_circuit(other, TOKENS, small_transcoders(other, skip=True))
    assert graph.checks.ok and len(graph.checks) == 3
    assert int((graph.data.kind == FEATURE).sum()) > 0


def test_of_a_layer_without_a_transcoder_all_is_an_error(model: LensModel) -> None:
    both = small_transcoders(model)
    arrays = {name: both[name][1].contiguous() for name in both}
    one = Fitted("transcoder", arrays, ModelFacts.of(model), "", {**both.options, "layers": [1]})
    graph = ll.feature_circuit(model, TOKENS, [one], node_threshold=1, link_threshold=1)
    assert graph.checks.ok and "no transcoder of layers 0" in graph.data.attrs["notes"]
    kinds, layers = graph.data.kind.values, graph.data.node_layer.values
    assert set(layers[kinds == FEATURE]) == {1} and 0 in layers[kinds == ERROR]


def test_a_stop_hands_over_what_was_followed(model: LensModel, transcoders: Fitted) -> None:
    class StopsAfterOutputs(Silent):
        ticks = 0

        def on_progress(self, done: int, total: int, what: str) -> None:
            self.ticks = done

        def cancelled(self) -> bool:
            return self.ticks >= 10

    options = {"transcoders": transcoders, "memory_limit": 900_000}
    with pytest.raises(Cancelled) as caught:
        ll.feature_circuit.run(model, TOKENS, options, StopsAfterOutputs())
    partial = caught.value.partial  # type: ignore[attr-defined]
    assert 0 < partial.data.attrs["features_followed"] < 60
    assert int((partial.data.kind == OUTPUT).sum()) > 0


def test_it_grows_and_nodes_keep_their_places(
    model: LensModel, transcoders: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hears(Silent):
        links: list[int] = []  # noqa: RUF012
        names: list[list[str]] = []  # noqa: RUF012

        def on_label(self, coords: Any) -> None:
            self.names.append(coords["node"][1].tolist())

        def on_emit(self, where: Any, arrays: Any) -> None:
            if "weight" in arrays and where["link"].start == 0:
                self.links.append(where["link"].stop)

    monkeypatch.setattr(streamed, "SECONDS_BETWEEN", 0.0)
    heard, options = Hears(), {"transcoders": transcoders, "memory_limit": 900_000}
    result = ll.feature_circuit.run(model, TOKENS, options, heard)
    assert len(heard.links) > 2 and heard.links[0] < heard.links[-1]
    *growing, last = heard.names
    for before, after in itertools.pairwise(growing):
        assert all(name in ("", later) for name, later in zip(before, after, strict=True))
    assert [name for name in last if name] == result.data.node.values.tolist()
    assert result.checks.ok
    assert (result.data.kind.values >= 0).all() and result.data.sizes["link"] == heard.links[-1]


def test_it_is_written_for_other_packages(whole: Result, tmp_path: Path) -> None:
    again = ll.import_graph(ll.export_graph(whole, tmp_path / "graph.json"))
    assert again.checks.ok and again.data.sizes == whole.data.sizes
    for name in ("kind", "node_layer", "node_position", "feature", "source", "target"):
        np.testing.assert_array_equal(again.data[name], whole.data[name])
    np.testing.assert_allclose(again.data.weight, whole.data.weight, rtol=1e-5)
    tokens = json.loads(again.data.attrs["text_tokens"])
    assert tokens == [whole.data.words.values[i] for i in range(len(TOKENS))]


def opened(model: LensModel, result: Result, node: str) -> Opened:
    inputs, options = result.given or ({}, {})
    place = place_of(result.data, {"array": "influence", "at": {"node": node}})
    return registry.get("feature_circuit").open(model, inputs, options, place)


def test_a_node_opens_its_page(tmp_path: Path) -> None:
    model, transcoders, _ = planted()
    kept = ll.open(transcoders.save(tmp_path / "planted.safetensors"))
    graph = ll.feature_circuit(model, PROMPT, kept)
    page = opened(model, graph, "0_0_2")
    without, reads, writes = page.tables
    assert reads.rows[0][0] == model.token_string(3) and writes.rows[0][1] >= 0
    [row] = [row for row in without.rows if row[0] == model.token_string(8)]
    assert row[1] > 0.99 and row[2] > 0.99 and row[3] < 0.2
    chances = eval(page.code, {"ll": ll, "model": model}).logits[0, -1].softmax(-1)
    assert row[3] == pytest.approx(float(chances[8]), abs=1e-5)
    token = opened(model, graph, "E_3_2").tables[0]
    [row] = [row for row in token.rows if row[0] == model.token_string(8)]
    assert row[2] > 0.99 and row[3] < 0.2
    assert opened(model, graph, "2_8_4").tables[0].rows[0][0] == model.token_string(8)


def test_an_error_opens_what_the_model_says_without_it(model: LensModel, whole: Result) -> None:
    name = "error_1_5"
    assert name in whole.data.node.values
    page = opened(model, whole, name)
    edits = [ll.edit("mlp_out.1", "add", -_error(model, 1, 5), position=5)]
    chances = ll.run(model, TOKENS, edits=edits).logits[0, -1].softmax(-1)
    for row in page.tables[0].rows:
        assert row[3] == pytest.approx(float(chances[model.token_id(str(row[0]))]), abs=1e-5)


def _error(model: LensModel, layer: int, position: int) -> torch.Tensor:
    """What an MLP wrote and its transcoder does not, by plain torch."""
    one = small_transcoders(model, skip=True)
    cached = ll.record(model, TOKENS, ["resid_mid", "mlp_out"])
    read = cached["resid_mid", layer][0, position]
    read = read * 8 / read.norm()
    features = (read @ one["W_enc"][layer] + one["b_enc"][layer]).relu()
    y = features @ one["W_dec"][layer] + one["b_dec"][layer] + one["W_skip"][layer] @ read
    return cached["mlp_out", layer][0, position] - y


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transcoders": None}, "transcoders is none"),
        ({"transcoders": "twice"}, "two transcoders of layer 0"),
        ({"answers": []}, "answers is empty"),
        ({"answers": [9, 9]}, "names a token twice"),
        ({"most_nodes": -1}, "most_nodes is -1"),
        ({"node_threshold": 2}, "between 0 and 1"),
    ],
    ids=str,
)
def test_wrong_options(
    model: LensModel, transcoders: Fitted, options: dict[str, Any], words: str
) -> None:
    given = {"transcoders": transcoders} | options
    if given["transcoders"] == "twice":
        given["transcoders"] = [transcoders, transcoders]
    with pytest.raises(InputError, match=words):
        ll.feature_circuit(model, TOKENS, **given)


def test_what_it_cannot_be_asked_of(model: LensModel, transcoders: Fitted) -> None:
    with pytest.raises(InputError, match="one text and got 2"):
        ll.feature_circuit(model, [TOKENS, TOKENS], transcoders)
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        ll.feature_circuit(model, TOKENS, transcoders, memory_limit=10_000)
    told = {**transcoders.options, "site": "resid_pre"}
    other = Fitted("transcoder", dict(transcoders.arrays), ModelFacts.of(model), "", told)
    with pytest.raises(InputError, match="reads resid_pre"):
        ll.feature_circuit(model, TOKENS, other)
