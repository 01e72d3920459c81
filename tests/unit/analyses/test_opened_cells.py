"""What cells open is what the analyses measured there, and the code beside it gives it again."""

from __future__ import annotations

import copy
import json
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.answers.next_tokens import moved_most
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.cells import FOUND, Opened, Place
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result import Result
from layerlens.views.answer_cell import place_of
from tests.unit.views.tiny import tiny_llama

TEXT = "w1 w2 w3 w2 w5"
OTHERS = ["w9 w8 w7 w6 w5 w4", "w11 w12 w13 w14 w15"]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_llama()


def opened(model: LensModel, result: Result, array: str, *index: int) -> Opened:
    assert result.given is not None
    inputs, options = result.given
    place = place_of(result.data, {"array": array, "index": list(index)})
    return registry.get(result.analysis).open(model, inputs, options, place)


def column(model: LensModel, found: Opened, which: int, answer: str) -> float:
    """Return a probability of the answer in the table."""
    rows = {row[0]: row for row in found.tables[0].rows}
    return float(rows[answer][which])  # type: ignore[arg-type]


def agrees_with_its_code(model: LensModel, found: Opened, which: int = 2) -> None:
    """The code runs, and its first tokens are as likely as the table says."""
    assert found.code.startswith("ll.run(")
    trace = eval(found.code, {"ll": ll, "model": model})
    chances = trace.logits[0, -1].float().softmax(-1)
    for row in found.tables[0].rows:
        expected = float(chances[model.token_id(str(row[0]))])
        assert row[which] == pytest.approx(expected, abs=1e-5), row


ABLATIONS = [
    ({"unit": "head", "how": "zero"}, (1, 2), True),
    ({"unit": "head", "how": "mean"}, (2, 1), True),
    ({"unit": "head", "how": "mean", "reference": OTHERS}, (0, 3), True),
    ({"unit": "head", "how": "mean", "reference": OTHERS, "by_position": True}, (0, 3), False),
    ({"unit": "head", "how": "resample", "reference": OTHERS, "draws": 1}, (3, 0), False),
    ({"unit": "attn", "how": "zero", "positions": 2}, (1,), True),
    ({"unit": "mlp", "how": "mean"}, (3,), True),
    ({"unit": "layer", "how": "zero"}, (1,), True),
    ({"unit": "layer", "how": "mean"}, (1,), False),
    ({"unit": "neuron", "how": "zero", "neurons": [3, 9], "layers": [1, 2]}, (1, 1), True),
]


@pytest.mark.parametrize(("options", "index", "edits"), ABLATIONS, ids=str)
def test_a_part_left_out(
    model: LensModel, options: dict[str, Any], index: tuple[int, ...], edits: bool
) -> None:
    result = ll.ablate_sweep(model, TEXT, metric="probability", **options)
    answer = model.token_string(int(result.data.attrs["answer"]))
    found = opened(model, result, "effect", *index)
    before, after = (column(model, found, which, answer) for which in (1, 2))
    assert before == pytest.approx(result.data.attrs["clean_metric"], abs=1e-5)
    assert after == pytest.approx(float(result.data["metric"].values[index]), abs=1e-5)
    if edits:
        agrees_with_its_code(model, found)
    else:
        assert found.code == result.code


@pytest.mark.parametrize(("neuron", "index"), [((2, 3), (1,)), ([(0, 1), (2, 3)], (1, 1))], ids=str)
def test_a_neuron_held(model: LensModel, neuron: Any, index: tuple[int, ...]) -> None:
    result = ll.clamp(model, TEXT, neuron, [0, 5], metric="probability", positions=[1, -1], draws=0)
    answer = model.token_string(int(result.data.attrs["answer"]))
    found = opened(model, result, "change", *index)
    before, after = (column(model, found, which, answer) for which in (1, 2))
    assert before == pytest.approx(result.data.attrs["base_metric"], abs=1e-5)
    assert after == pytest.approx(float(result.data["metric"].values[index]), abs=1e-5)
    agrees_with_its_code(model, found)
    with pytest.raises(InputError, match="no value"):
        opened(model, result, "activation", *index)


def test_a_place_that_excites_a_neuron(model: LensModel) -> None:
    texts = [TEXT, *OTHERS]
    result = ll.neuron(model, texts, 2, 3, k=2, draws=0)
    found = opened(model, result, "activation", 0)
    row, at = (int(result.data[name][0]) for name in ("text", "position"))
    strongest = found.tables[0].rows[0]
    assert strongest[0] == at
    assert strongest[2] == pytest.approx(float(result.data.activation[0]), abs=1e-5)
    off = ll.run(model, texts[row], edits=[ll.edit("mlp_post.2", "zero", position=at, neuron=3)])
    chances = off.logits[0, at].float().softmax(-1)
    for name, _, without, _ in found.tables[1].rows:
        assert without == pytest.approx(float(chances[model.token_id(str(name))]), abs=1e-5)
    with pytest.raises(InputError, match="no rank"):
        opened(model, result, "raised_score", 0)


def test_the_code_reads_the_text_as_the_analysis_did() -> None:
    model = ll.load("toy:induction")
    result = ll.ablate_sweep(model, "cat dog owl cat", how="zero", add_bos=False)
    assert opened(model, result, "effect", 1, 0).code.endswith(", add_bos=False)")
    plain = ll.ablate_sweep(model, "cat dog owl cat", how="zero")
    assert opened(model, plain, "effect", 1, 0).code.endswith("])")


@pytest.mark.parametrize("into", [None, "w4 w8 w6"])
def test_a_state_put_back(model: LensModel, into: str | None) -> None:
    result = ll.back_patch(model, TEXT, metric="probability", answer="w7", into=into, source=2)
    found = opened(model, result, "change", 3, 1)
    rows = {row[0]: row for row in found.tables[0].rows}
    if "w7" in rows:
        assert rows["w7"][2] == pytest.approx(float(result.data["metric"][3, 1]), abs=1e-5)
    if into is None:
        agrees_with_its_code(model, found)
    best = model.token_string(int(result.data["token_id"][3, 1]))
    likely = max(found.tables[0].rows, key=lambda row: float(row[2] or 0))
    assert likely[0] == best


@pytest.mark.parametrize(
    ("options", "array", "index", "edits"),
    [
        ({}, "effect", (1, 2), True),
        ({"keep_first": False}, "kl", (2,), True),
        ({"part": "attn", "mode": "pairs"}, "joint_kl", (0, 2), True),
        ({"part": "mlp", "mode": "ranges"}, "effect", (2, 3), True),
        ({"mode": "ranges"}, "joint_kl", (0, 2), False),
    ],
    ids=str,
)
def test_layers_left_out(
    model: LensModel, options: dict[str, Any], array: str, index: tuple[int, ...], edits: bool
) -> None:
    result = ll.skip_layers(model, TEXT, answer="w7", **options)
    found = opened(model, result, array, *index)
    name = "joint_answer_probability" if array.startswith("joint") else "answer_probability"
    at = index if array.startswith("joint") else index[:1]
    expected = float(result.data[name].values[at])
    rows = {row[0]: row for row in found.tables[0].rows}
    assert "w7" not in rows or rows["w7"][2] == pytest.approx(expected, abs=1e-5)
    if edits:
        agrees_with_its_code(model, found)
    best = ll.skip_layers(model, TEXT, answer=found.tables[0].rows[0][0], **options)
    value = float(best.data[name].values[at])
    assert found.tables[0].rows[0][2] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out"])
def test_a_state_restored(model: LensModel, kind: str) -> None:
    result = ll.causal_trace(model, TEXT, subject=[1, 2], kind=kind, samples=3, window=2)
    answer = model.token_string(int(result.data.attrs["answer"]))
    found = opened(model, result, "indirect_effect", 1, 2)
    clean, spoilt, restored = (column(model, found, which, answer) for which in (1, 2, 3))
    assert clean == pytest.approx(result.data.attrs["clean_metric"], abs=1e-5)
    assert spoilt == pytest.approx(result.data.attrs["corrupt_metric"], abs=1e-5)
    assert restored == pytest.approx(float(result.data["restored"][1, 2]), abs=1e-5)


PATHS = [
    ({}, (1, 2)),
    ({"freeze_mlps": True, "direction": "denoise"}, (2, 0)),
    ({"receiver": (3, 1, "k"), "positions": 2}, (1, 3)),
    ({"sender": "mlp_out", "receiver": [(2, 0, "q"), (3, 1, "v")]}, (1, 0)),
]


@pytest.mark.parametrize(("options", "index"), PATHS, ids=str)
def test_one_path_patched(
    model: LensModel, options: dict[str, Any], index: tuple[int, ...]
) -> None:
    asked = {"metric": "probability", "answer": "w7", **options}
    result = ll.path_patch(model, TEXT, "w1 w9 w3 w4 w5", **asked)
    found = opened(model, result, "effect", *index)
    answer = found.tables[0].rows[0][0]
    again = ll.path_patch(model, TEXT, "w1 w9 w3 w4 w5", **{**asked, "answer": answer})
    ends = [again.data.attrs[f"{name}_metric"] for name in ("corrupt", "clean")]
    ends = ends[::-1] if options.get("direction") == "denoise" else ends
    expected = [*ends, float(again.data["metric"].values[index])]
    values = [column(model, found, which, answer) for which in (1, 2, 3)]
    assert values == pytest.approx(expected, abs=1e-5)
    assert found.code == result.code


KNOCKOUTS: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"window": 1}, (1, 2)),
    ({"subject": [1, 2], "window": 3}, (0, 0)),
    ({"sources": {"them": [0, 3]}, "query": 3, "layers": [1, 3]}, (0, 1)),
    ({"sources": {"later": 4}, "query": 3}, (0, 2)),
]


@pytest.mark.parametrize(("options", "index"), KNOCKOUTS, ids=str)
def test_attention_blocked(
    model: LensModel, options: dict[str, Any], index: tuple[int, int]
) -> None:
    result = ll.knockout(model, TEXT, **options)
    answer = model.token_string(int(result.data.attrs["answer"]))
    found = opened(model, result, "percent_change", *index)
    before, after = (column(model, found, which, answer) for which in (1, 2))
    assert before == pytest.approx(result.data.attrs["clean_metric"], abs=1e-5)
    assert after == pytest.approx(float(result.data["metric"].values[index]), abs=1e-5)
    if "later" in options.get("sources", {}):
        assert found.code == result.code
    else:
        assert before != pytest.approx(after, abs=1e-5)
        agrees_with_its_code(model, found)


def test_what_would_leave_nothing_to_look_at_does_not_open(model: LensModel) -> None:
    windowed = LensModel.wrap(
        tiny_model("mistral", seed=1, sliding_window=2), None, name="local", prove=False
    )
    result = ll.knockout(windowed, [5, 9, 1, 3], sources={"near": [2, 3]})
    assert np.isnan(result.data["metric"].values).all()
    with pytest.raises(InputError, match="leave nothing to look at"):
        opened(windowed, result, "metric", 0, 0)


@pytest.mark.parametrize("positions", [None, [1, 2]])
def test_states_of_another_model(model: LensModel, positions: Any) -> None:
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(1.05)
    other = ll.load(hf, model.tokenizer, name="other")
    asked = {"other": other, "metric": "probability", "positions": positions}
    result = ll.cross_model_patch(model, TEXT, **asked)
    answer = model.token_string(int(result.data["answer_id"]))
    found = opened(model, result, "recovered", 2)
    values = [column(model, found, which, answer) for which in (1, 2, 3)]
    expected = [result.data["other_metric"], result.data["own_metric"], result.data["metric"][2]]
    assert values == pytest.approx([float(value) for value in expected], abs=1e-5)
    assert values[0] != pytest.approx(values[1], abs=1e-4)


def test_a_token_that_the_other_model_lacks(model: LensModel) -> None:
    hf = copy.deepcopy(model.hf)
    hf.resize_token_embeddings(40)
    other = ll.load(hf, model.tokenizer, name="smaller")
    result = ll.cross_model_patch(model, TEXT, other=other)
    [table] = opened(model, result, "recovered", 0).tables
    lacking = [row[1] for row in table.rows if model.token_id(str(row[0])) >= 40]
    assert lacking
    assert np.isnan(lacking).all()


ATTRIBUTIONS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"site": "resid_post"}, (1, 3)),
    ({"site": "resid_pre", "direction": "noise", "positions": [1, 2]}, (0, 0)),
    ({"site": "z"}, (2, 3)),
    ({"site": "z", "by": "head_position", "grad_drop": True}, (1, 0, 2)),
    ({"site": "rot_k", "positions": [1, 2, 3]}, (1, 1)),
    ({"site": "v", "by": "position", "heads": [1]}, (2, 1)),
    ({"site": "embed"}, (0, 1)),
    ({"site": "mlp_post", "by": "neuron", "neurons": [3, 9], "layers": [2, 3]}, (1, 1)),
    ({"site": "mlp_out", "align": [(1, 1), (3, 2)]}, (1, 2)),
]


@pytest.mark.parametrize(("options", "index"), ATTRIBUTIONS, ids=str)
def test_an_estimate_beside_the_patch(
    model: LensModel, options: dict[str, Any], index: tuple[int, ...]
) -> None:
    other = "w1 w9 w3 w4 w5"
    result = ll.attribution_patch(model, TEXT, other, verify="all", **options)
    found = opened(model, result, "recovered", *index)
    values = [row[1] for row in found.tables[0].rows]
    attrs = result.data.attrs
    way = attrs["clean_metric"] - attrs["corrupt_metric"]
    way *= -1 if options.get("direction") == "noise" else 1
    true = float(result.data["patched"].values[index])
    expected = [float(result.data["attribution"].values[index]), true, way]
    assert values == pytest.approx(expected, abs=1e-4)
    trace = eval(found.code, {"ll": ll, "model": model})
    chances = trace.logits[0, -1].float().softmax(-1)
    for row in found.tables[1].rows:
        assert row[3] == pytest.approx(float(chances[model.token_id(str(row[0]))]), abs=1e-5)


def test_a_patch_with_nothing_to_patch_with(model: LensModel) -> None:
    result = ll.attribution_patch(model, TEXT, "w1 w9 w3", align=[(0, 0), (1, 1)])
    assert np.isnan(result.data["attribution"].values[1, 2])
    with pytest.raises(InputError, match="nothing to patch with"):
        opened(model, result, "attribution", 1, 2)


PROMPTS = ["w1 w2 w3", "w9 w2 w4", "w5 w2 w8"], ["w1 w7 w3", "w9 w7 w4", "w5 w7 w8"]
STEERED: list[dict[str, Any]] = [
    {"steer_at": [1, -1]},
    {"relative": False, "site": "mlp_out"},
    {"front": True, "site": "resid_pre", "relative": False},
]


@pytest.mark.parametrize("options", STEERED, ids=str)
def test_a_dose_of_a_direction(model: LensModel, options: dict[str, Any]) -> None:
    asked = {"metric": "probability", "answer": "w7", "neutral": OTHERS[0], **options}
    result = ll.steering(model, *PROMPTS, text=TEXT, coefficients=[0.0, 2.0], **asked)
    answer = opened(model, result, "dose_change", 1, 1).tables[0].rows[0][0]
    result = ll.steering(
        model, *PROMPTS, text=TEXT, coefficients=[0.0, 2.0], **{**asked, "answer": answer}
    )
    found = opened(model, result, "dose_change", 1, 1)
    values = [column(model, found, which, answer) for which in (1, 2)]
    expected = [result.data.attrs["base_metric"], float(result.data["dose_metric"][1, 1])]
    assert values == pytest.approx(expected, abs=1e-5)
    assert values[0] != pytest.approx(values[1], abs=1e-4)
    aside = opened(model, result, "neutral_kl", 1, 1)
    plain = ll.run(model, OTHERS[0]).logits[0, -1].float().softmax(-1)
    for row in aside.tables[0].rows:
        expected_chance = float(plain[model.token_id(str(row[0]))])
        assert row[1] == pytest.approx(expected_chance, abs=1e-5)


def test_the_pairs_of_a_direction(model: LensModel) -> None:
    result = ll.steering(model, *PROMPTS)
    found = opened(model, result, "auc", 2)
    rows = found.tables[0].rows
    higher = np.mean([[up[1] > down[3] for down in rows] for up in rows])
    assert higher == pytest.approx(float(result.data["auc"][2]))
    assert [row[0] for row in rows] == ["w1w2w3", "w9w2w4", "w5w2w8"]
    alone = ll.steering(model, PROMPTS[0][0], PROMPTS[1][0])
    single = opened(model, alone, "norm_ratio", 0)
    [[_, up, _, down]] = single.tables[0].rows
    assert np.isnan([up, down]).all()
    json.dumps(single.to_dict(), allow_nan=False)


def test_the_text_of_a_neuron(model: LensModel) -> None:
    result = ll.top_texts(model, [TEXT, *OTHERS], 1, [4, 7], k=2)
    found = opened(model, result, "activation", 1, 0)
    place = int(result.data["position"][1, 0])
    [first, *_] = found.tables[0].rows
    assert first[0] == place
    assert first[2] == pytest.approx(float(result.data["activation"][1, 0]), abs=1e-5)
    [tokens] = found.texts
    assert [mark for _, mark in tokens].index(1.0) == place
    again = eval(found.code, {"ll": ll, "model": model})
    assert float(again[place]) == pytest.approx(float(first[2]), abs=1e-5)


def test_two_depths_by_every_measure(model: LensModel) -> None:
    result = ll.compare_models(model, [TEXT, *OTHERS], other=model)
    found = opened(model, result, "similarity", 1, 3)
    rows = {row[0]: row for row in found.tables[0].rows}
    assert rows["cka"][1] == pytest.approx(float(result.data["similarity"][1, 3]), abs=1e-6)
    assert rows["cka"][2] == pytest.approx(float(result.data["similarity_chance"][1, 3]), abs=1e-6)
    assert len(rows) > 3


@pytest.mark.parametrize("positions", [None, slice(None)])
def test_a_state_erased(model: LensModel, positions: Any) -> None:
    result = ll.residual_erasure(model, TEXT, reference=OTHERS, answers=positions)
    found = opened(model, result, "effect", 1, 2)
    states = [ll.record(model, text, "resid_pre.1")["resid_pre.1"][0, 1:] for text in OTHERS]
    edits = [ll.edit("resid_pre.1", "set", torch.cat(states).mean(0), position=2)]
    logits = [ll.run(model, TEXT, edits=some).logits[0].float() for some in ([], edits)]
    before, after = (each.softmax(-1) for each in logits)
    at = -1 if positions is None else int((before - after).norm(dim=-1).argmax())
    for row in found.tables[0].rows:
        token = model.token_id(str(row[0]))
        assert row[1] == pytest.approx(float(before[at, token]), abs=1e-5)
        assert row[3] == pytest.approx(float(after[at, token]), abs=1e-5)


def test_what_steps_have_left_out_stays_left_out(model: LensModel) -> None:
    cut = ll.finercut(model, TEXT, steps=3)
    found = opened(model, cut, "removed", 2)
    assert found.code.count("'zero'") == 3
    agrees_with_its_code(model, found, 3)
    agrees_with_its_code(model, opened(model, cut, "distance", 0, 5))
    influence = ll.macro_influence(model, TEXT, rounds=2)
    gone = int(influence.data.removed[0])
    other = next(layer for layer in range(4) if layer != gone)
    found = opened(model, influence, "kl", other, 1)
    order = [layer for layer in range(4) if layer not in (gone, other)]
    chances = ll.run_layers(model, TEXT, order=order).logits[0, -1].softmax(-1)
    for row in found.tables[0].rows:
        assert row[3] == pytest.approx(float(chances[model.token_id(str(row[0]))]), abs=1e-5)
    agrees_with_its_code(model, opened(model, ll.macro_influence(model, TEXT), "kl", 1))
    agrees_with_its_code(
        model, opened(model, ll.matchness(model, TEXT, counts=2), "matchness", 0), 3
    )


def test_a_path_through_the_layers(model: LensModel) -> None:
    result = ll.chain_of_layers(model, TEXT, simulations=20)
    for array, index in (("path", (3, 0)), ("best_length", (5,)), ("skipped", (2,))):
        found = opened(model, result, array, *index)
        assert found.code.startswith("ll.run_layers(")
        logits = eval(found.code, {"ll": ll, "model": model}).logits
        for row in found.tables[0].rows:
            expected = float(logits[0, -1].softmax(-1)[model.token_id(str(row[0]))])
            assert row[2] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="random paths are not kept"):
        opened(model, result, "random_length", 1)


def test_a_layer_with_fewer_bits_or_channels(model: LensModel) -> None:
    for result, name in (
        (ll.quantisation_sensitivity(model, TEXT, bits=[8, 2]), "2 bits"),
        (ll.sparse_layers(model, TEXT, sparsity=0.75), "sparse"),
        (ll.massive_ablation(model, TEXT, times_median=3, relative=True), "set to 0"),
    ):
        first = str(next(iter(result.data.data_vars)))
        array = result.data[first]
        index = [1, *(array.shape[1] - 1 for _ in range(array.ndim - 1))]
        [table] = opened(model, result, first, *index).tables
        assert table.head[-2] == name
        moved = max(abs(float(row[-2]) - float(row[1])) for row in table.rows)  # type: ignore[arg-type]
        assert moved > 1e-6 and float(array.values[tuple(index)]) > 0


def test_tokens_behind_a_layers_number(model: LensModel) -> None:
    jacobian = ll.block_jacobian(model, TEXT)
    rows = opened(model, jacobian, "jacobian_distance", 2).tables[0].rows
    mean = np.mean([row[2] for row in rows])  # type: ignore[misc]
    assert mean == pytest.approx(float(jacobian.data.jacobian_distance[2]))
    cosine = ll.first_cosine(model, TEXT)
    rows = opened(model, cosine, "cosine", 2, 3).tables[0].rows
    (own,) = [row[2] for row in rows if row[0] == 0]
    assert own == pytest.approx(float(cosine.data.cosine[2, 3]), abs=1e-6)
    growth = ll.perturbation_growth(model, TEXT, steps=1)
    rows = opened(model, growth, "growth", 0).tables[0].rows
    assert all(row[3] > 0 for row in rows) and len(rows) == 5  # type: ignore[operator]


def test_what_a_head_looks_at_and_which_look_alike(model: LensModel) -> None:
    roles = ll.head_roles(model, length=6)
    found = opened(model, roles, "score", 1, 2, 0)
    pattern = eval(found.code, {"ll": ll, "model": model})["pattern.1.2"][0]
    for query, _, _, weight, _ in found.tables[0].rows:
        assert weight == pytest.approx(float(pattern[query].max()), abs=1e-6)
    heads = ll.head_clusters(model, TEXT)
    rows = opened(model, heads, "cluster", 1, 0).tables[0].rows
    far = np.sort(heads.data.distance.sel(layer_head="L1H0").values)[1:]
    np.testing.assert_allclose([row[2] for row in rows], far[: len(rows)])


def test_neurons_are_found_by_a_token_and_open_as_cells(model: LensModel) -> None:
    token = 17
    result = ll.neuron_tokens(model, [token], k=4)
    analysis = registry.get("neuron_tokens")
    inputs, options = result.given or ({}, {})
    found = analysis.open(model, inputs, options, Place("", {FOUND: token}, 0.0))
    written, read = found.tables[0], found.tables[1]
    data = result.data.isel(tracked=0)
    names = zip(data.found_layer.values, data.found_neuron.values, strict=True)
    *best, random = written.rows
    assert [row[0] for row in best] == [f"{layer}.{neuron}" for layer, neuron in names]
    np.testing.assert_allclose([row[1] for row in best], data.found_score, rtol=1e-5)
    assert random == ["random, best", pytest.approx(float(data.random_found_score[0]))]
    as_read = ll.neuron_tokens(model, [token], k=4, direction="input").data.isel(tracked=0)
    np.testing.assert_allclose([row[1] for row in read.rows[:-1]], as_read.found_score, rtol=1e-5)
    again = eval(found.code, {"ll": ll, "model": model})
    np.testing.assert_array_equal(again.isel(tracked=0), data.found_neuron)
    # a row opens the neuron that it is about, with what it writes first
    array, at = written.opens[0]
    place = place_of(result.data, {"array": array, "at": at})
    neuron = analysis.open(model, inputs, options, place)
    assert neuron.title == f"Neuron {at['neuron']} of layer {at['layer']}: its tokens"
    assert [table.title for table in neuron.tables][:2] == ["What it writes", "What it reads"]
    with pytest.raises(InputError, match="There is no token 99999"):
        analysis.open(model, inputs, options, Place("", {FOUND: 99999}, 0.0))
    with pytest.raises(InputError, match="is an index along each"):
        place_of(result.data, {"array": array, "at": {"layer": 99, "neuron": 0}})


def test_what_is_no_cell(model: LensModel) -> None:
    result = ll.ablate_sweep(model, TEXT, how="zero")
    for wrong in ([0], [0, 99], "0", [0, True, 2]):
        with pytest.raises(InputError, match="A cell of effect is an index along each"):
            place_of(result.data, {"array": "effect", "index": wrong})
    with pytest.raises(InputError, match="There is no array 'efect'"):
        place_of(result.data, {"array": "efect", "index": [0, 0]})
    with pytest.raises(InputError, match="A cell of head_scores opens nothing"):
        registry.get("head_scores").open(model, TEXT, {}, Place("change", {}, 0.0))
    skipped = ll.skip_layers(model, TEXT)
    with pytest.raises(InputError, match="has no layer"):
        registry.get("ablate_sweep").open(model, TEXT, {}, Place("effect", {}, 0.0))
    assert opened(model, skipped, "output_effect", 0).title.endswith("layer 0")


class Stopped(Silent):
    def cancelled(self) -> bool:
        return True


@pytest.mark.parametrize("point", [0, 2])
def test_a_state_that_relevance_names_taken_away(model: LensModel, point: int) -> None:
    found = opened(model, ll.relevance(model, TEXT, draws=0), "relevance", point, 2)
    assert found.tables[0].head[3:] == ["without it", "change"]
    agrees_with_its_code(model, found, which=3)


@pytest.mark.parametrize(("point", "position"), [(0, None), (2, 1)])
def test_a_state_that_is_doubled(model: LensModel, point: int, position: int | None) -> None:
    result = ll.linear_interpreter(model, TEXT, singular=0, draws=1, position=position)
    found = opened(model, result, "answer_change", point, 1)
    assert found.tables[0].head[2:] == ["as much at random", "doubled", "change"]
    agrees_with_its_code(model, found, which=3)


@pytest.mark.parametrize("name", [n for n in registry.names() if registry.get(n).opens])
def test_opening_can_be_taken_back(model: LensModel, name: str) -> None:
    from .small_calls import NAMES, arguments

    if name not in NAMES:
        model = LensModel.wrap(tiny_model("mixtral"), None, name="experts", prove=False)
    analysis = registry.get(name)
    texts, options = arguments(name, model)
    result = analysis(model, *texts, **options)
    assert result.given is not None
    inputs, asked = result.given
    for array, end in product(map(str, result.data.data_vars), (0, -1)):
        index = [end % max(1, size) for size in result.data[array].shape]
        place = place_of(result.data, {"array": array, "index": index})
        try:
            told = analysis.open(model, inputs, asked, place).to_dict()
        except InputError as error:  # what its cells lack; those of another array or end have it
            if not str(error).endswith(("open one of another array.", "open a node below them.")):
                raise
        else:
            break
    else:
        pytest.fail("no array opens")
    with pytest.raises(Cancelled):
        analysis.open(model, inputs, asked, place, Stopped())
    assert told["title"]
    assert told["tables"] or told["texts"]
    for table in told["tables"]:
        assert all(len(row) == len(table["head"]) for row in table["rows"])


def test_what_moved_most_is_first() -> None:
    before = np.array([0.5, 0.3, 0.1, 0.1, 0.0], np.float32)
    after = np.array([0.1, 0.3, 0.1, 0.45, 0.05], np.float32)
    assert moved_most(before, after, 1) == [0, 3]
    assert moved_most(before, after, 1, also=[4]) == [0, 3, 4]
    assert sorted(moved_most(before, after, 99)) == [0, 1, 2, 3, 4]
