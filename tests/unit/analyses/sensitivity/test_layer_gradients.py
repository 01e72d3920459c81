"""Gradients of projections: those of plain autograd, known ones, and what tells texts apart."""

from __future__ import annotations

from dataclasses import astuple
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.cells import Place
from layerlens.analyses.sensitivity import gradient_run
from layerlens.analyses.sensitivity.factors import Factors, Rows, Spectrum, inner
from layerlens.analyses.sensitivity.projection_gradients import ProjectionGradients
from layerlens.errors import InputError
from layerlens.metrics.projections import projections
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks, without

TEXTS = without.TEXTS


def by_hand(
    model: LensModel, ids: list[int], wanted: list[int] | None = None, skip: int = 0
) -> dict[tuple[int, str], Tensor]:
    """The gradient of each projection, by one way back of the plain model."""
    hf = model.hf
    logits = hf(torch.tensor([ids])).logits[0, skip:-1]
    targets = torch.tensor(ids[skip + 1 :] if wanted is None else wanted)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    found = {}
    for layer in range(model.n_layers):
        for part in projections(model, layer):
            whole = []
            for matrix in part.matrices:
                slope = matrix.parameter.grad
                slope = slope.mT if matrix.turned else slope
                whole.append(slope if part.rows is None else slope[part.rows])
            found[layer, part.name] = (
                torch.block_diag(*whole[0]) if whole[0].dim() == 3 else whole[0]
            )
    hf.zero_grad()
    return found


def numbers(slope: Tensor) -> tuple[float, float, float]:
    """Nuclear norm, Frobenius norm and effective rank, by a full decomposition."""
    values = torch.linalg.svdvals(slope.double())
    values = values[values > 1e-9 * values[0]]
    shares = values / values.sum()
    return values.sum(), slope.norm(), torch.exp(-(shares * shares.log()).sum())


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_gradients_are_those_of_autograd(family: str) -> None:
    """Fused, grouped and turned matrices; a text that is longer than k and v have rows."""
    model = by_hooks.wrapped(family)
    texts = [TEXTS[0], list(range(3, 40))]
    found = ll.layer_gradients(model, texts, control=False)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    assert not any("chance" in name for name in found.data)
    each = [by_hand(model, ids) for ids in texts]
    for layer in range(model.n_layers):
        for part in found.data.projection.values.tolist():
            own = found.data.sel(projection=part, following="text").isel(layer=layer)
            slopes = [one[layer, part] for one in each]
            wanted = np.mean([numbers(slope) for slope in slopes], axis=0)
            got = [float(own[name]) for name in ("nuclear", "frobenius", "effective_rank")]
            np.testing.assert_allclose(got, wanted, rtol=2e-4)
            cosine = torch.cosine_similarity(*(slope.flatten() for slope in slopes), dim=0)
            assert float(own.text_cosine) == pytest.approx(float(cosine), abs=1e-5)


def test_a_part_is_its_matrices_as_blocks_of_one() -> None:
    model = by_hooks.wrapped("llama")
    data = ll.layer_gradients(model, TEXTS[:1], control=False).data
    slopes = by_hand(model, TEXTS[0])
    for part, names in (("attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
        whole = torch.block_diag(*(slopes[1, name] for name in names))
        got = [float(data[f"{part}_{n}"][1]) for n in ("nuclear", "frobenius", "effective_rank")]
        np.testing.assert_allclose(got, numbers(whole), rtol=1e-4)


def test_experts_are_blocks_of_one_and_their_weights_are_asked_themselves() -> None:
    model = LensModel.wrap(tiny_model("mixtral", seed=1), None, name="mixtral", prove=False)
    found = ll.layer_gradients(model, TEXTS[:1], control=False)
    assert found.checks.ok
    slopes = by_hand(model, TEXTS[0])
    experts = [name for name in found.data.projection.values if name.startswith("experts")]
    assert experts
    for name in experts:
        own = found.data.sel(projection=name, following="text").isel(layer=0)
        got = [float(own[n]) for n in ("nuclear", "frobenius", "effective_rank")]
        np.testing.assert_allclose(got, numbers(slopes[0, name]), rtol=2e-4)


def test_one_prediction_asks_one_direction_of_the_last_block() -> None:
    """From two tokens only the first predicts: all its matrices behind attention get rank one."""
    model = by_hooks.wrapped("llama")
    data = ll.layer_gradients(model, [5, 9], control=False).data
    last = data.isel(layer=-1, following=0).sel(projection=["v", "o", "gate", "up", "down"])
    np.testing.assert_allclose(last.effective_rank, 1, atol=1e-5)
    np.testing.assert_allclose(last.nuclear, last.frobenius, rtol=1e-5)


def test_numbers_of_matrices_that_are_known() -> None:
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    same = Factors.whole(2 * turn)  # six singular values of 2
    np.testing.assert_allclose(astuple(Spectrum.of([same])), (24**0.5, 12, 6, 1), rtol=1e-5)
    slope, given = torch.randn(3, 8), Rows(torch.randn(3, 7))
    few, whole = Factors(slope, given), Factors.whole(slope.T @ given.values)
    assert few.most == 3 and whole.most == 7
    np.testing.assert_allclose(few.singular, whole.singular[-3:], rtol=1e-6)
    assert inner(few, whole) == pytest.approx(float(few.matrix().square().sum()), rel=1e-5)
    silent = Factors(torch.zeros(3, 8), given)
    assert Spectrum.of([silent]).nuclear == 0 and np.isnan(Spectrum.of([silent]).rank)


def test_the_control_asks_for_shuffled_tokens() -> None:
    model = by_hooks.wrapped("llama")
    text = TEXTS[0]
    data = ll.layer_gradients(model, text, seed=3).data
    order = np.random.default_rng((3, 0)).permutation(len(text) - 1)
    slopes = by_hand(model, text, [text[1:][i] for i in order])
    own = data.isel(layer=0).sel(projection="down", following="shuffled")
    assert float(own.nuclear) == pytest.approx(float(numbers(slopes[0, "down"])[0]), rel=1e-4)
    assert float(data.mlp_nuclear_chance[0]) != pytest.approx(float(data.mlp_nuclear[0]), rel=0.01)


def test_a_response_is_put_behind_its_text_and_alone_counts() -> None:
    model = by_hooks.wrapped("llama")
    text, response = [5, 17, 20], [3, 90, 41]
    data = ll.layer_gradients(model, text, responses=response, control=False).data
    slopes = by_hand(model, text + response, skip=len(text) - 1)
    got = float(data.frobenius.isel(layer=1).sel(projection="up", following="text"))
    assert got == pytest.approx(float(slopes[1, "up"].norm()), rel=1e-5)
    toy = ll.load("toy:induction")
    data = ll.layer_gradients(toy, ["cat dog", "owl"], responses=[" owl", " cat dog"]).data
    assert data.attrs["complete"] == 1


def test_cosines_are_of_pairs_that_go_side_by_side() -> None:
    model = by_hooks.wrapped("gpt2")
    texts = [*TEXTS, TEXTS[0][::-1]]
    slopes = [by_hand(model, ids)[0, "down"].flatten() for ids in texts]
    for together, pairs in ((4, combinations(range(4), 2)), (2, ((0, 1), (2, 3)))):
        data = ll.layer_gradients(model, texts, control=False, together=together).data
        wanted = [float(torch.cosine_similarity(slopes[i], slopes[j], dim=0)) for i, j in pairs]
        got = data.text_cosine.isel(layer=0, following=0).sel(projection="down")
        assert float(got) == pytest.approx(np.mean(wanted), abs=1e-5)
    assert "text_cosine" not in ll.layer_gradients(model, texts, together=1).data


def test_its_check_fails_where_a_gradient_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = by_hooks.wrapped("llama")
    right = Factors.matrix
    monkeypatch.setattr(Factors, "matrix", lambda self: 1.01 * right(self))
    checks = {check.name: check for check in ll.layer_gradients(model, TEXTS[0]).checks}
    assert checks["naive agreement"].error == pytest.approx(0.01, rel=0.01)
    assert not checks["naive agreement"].ok


def test_weights_are_left_as_they_are() -> None:
    model = by_hooks.wrapped("llama")
    for parameter in model.hf.parameters():
        parameter.requires_grad_(False)
    found = ll.layer_gradients(model, TEXTS[0])
    assert found.checks.ok
    assert not any(p.requires_grad or p.grad is not None for p in model.hf.parameters())
    assert ProjectionGradients(model).names == ["q", "k", "v", "o", "gate", "up", "down"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"together": 0}, "together is 0"),
        ({"skip_first": 6}, "No next token counts"),
        ({"responses": "now"}, "does not fit its text"),
        ({"responses": []}, "no token behind its text"),
        ({"responses": [3], "skip_first": True}, "left out"),
        ({"control": False, "seed": 1}, "control"),
    ],
)
def test_what_does_not_fit(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.layer_gradients(by_hooks.wrapped("gpt2"), TEXTS[0][:6], **options)


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_cosines_with_the_next_layer_and_inside_one(family: str) -> None:
    model = by_hooks.wrapped(family)
    data = ll.layer_gradients(model, TEXTS[:2], control=False).data
    each = [by_hand(model, ids) for ids in TEXTS[:2]]

    def cosine(first: tuple[int, str], second: tuple[int, str]) -> float:
        return float(
            np.mean(
                [
                    float(torch.cosine_similarity(g[first].flatten(), g[second].flatten(), dim=0))
                    for g in each
                ]
            )
        )

    for layer in range(model.n_layers):
        for name in data.projection.values.tolist():
            got = float(data.layer_cosine.sel(projection=name).isel(layer=layer, following=0))
            if layer + 1 < model.n_layers:
                assert got == pytest.approx(cosine((layer, name), (layer + 1, name)), abs=1e-5)
            else:
                assert np.isnan(got)
        for couple in ("qo", "kv"):
            one, other = ((layer, name) for name in couple)
            if each[0][one].shape == each[0][other].shape:
                wanted = cosine(one, other)
                assert float(data[f"cosine_{couple}"][layer]) == pytest.approx(wanted, abs=1e-5)
            else:
                assert np.isnan(data[f"cosine_{couple}"][layer])


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
@pytest.mark.parametrize("labels", [{"projection": "k", "following": "text"}, {}])
def test_a_step_against_the_gradient_does_what_it_foresees(
    family: str, labels: dict[str, str]
) -> None:
    """The same step by hand: a plain copy whose rows were moved, k's or all of the MLP."""
    model, texts = by_hooks.wrapped(family), TEXTS[:2]
    names = [labels["projection"]] if labels else [
        n for n in ProjectionGradients(model).names if n in ("gate", "up", "down")
    ]  # fmt: skip
    result = ll.layer_gradients(model, texts)
    array = "nuclear" if labels else "mlp_nuclear"
    analysis = registry.get("layer_gradients")
    inputs, options = result.given or ({}, {})
    found = analysis.open(model, inputs, options, Place(array, {"layer": 1, **labels}, 0.0))
    [table] = found.tables
    slopes = by_hand(model, texts[0])
    norm = sum(float(slopes[1, name].square().sum()) for name in names) ** 0.5
    held = [p for p in projections(model, 1) if p.name in names]
    size = sum(float(w.square().sum()) for part in held for w in part.weights) ** 0.5
    moved = by_hooks.wrapped(family)
    for share, foreseen, true, random, other in table.rows:  # type: ignore[misc]
        assert foreseen == pytest.approx(-norm * share * size, rel=1e-4)
        with torch.no_grad():
            fresh = by_hooks.wrapped(family)
            for part, own in zip(projections(fresh, 1), projections(moved, 1), strict=True):
                if part.name in names:
                    weight = own.matrices[0].weight
                    rows = slice(None) if own.rows is None else own.rows
                    weight[rows] = part.weights[0] - share * size / norm * slopes[1, part.name]
        losses = [[float(loss_by_hand(one, ids)) for one in (moved, model)] for ids in texts]
        changes = [after - before for after, before in losses]
        assert [true, other] == pytest.approx(changes, abs=2e-6)
        assert abs(random) < abs(true)
    assert table.rows[1][2] == pytest.approx(table.rows[1][1], rel=0.05)


def loss_by_hand(model: LensModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))


@pytest.mark.parametrize(
    ("array", "words"),
    [("cosine_kv_chance", "k, v, next tokens shuffled"), ("attn_text_cosine", "q, k, v, o of")],
)
def test_a_cell_says_what_it_moves(array: str, words: str) -> None:
    model = by_hooks.wrapped("llama")
    inputs, options = ll.layer_gradients(model, TEXTS[0]).given or ({}, {})
    opened = registry.get("layer_gradients").open(
        model, inputs, options, Place(array, {"layer": 0}, 0.0)
    )
    assert words in opened.title and len(opened.tables[0].head) == 4


@pytest.mark.parametrize("family", by_hooks.FAMILIES)
def test_long_texts_run_each_block_again_and_find_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where graphs of all blocks have no room; checks say that the runs agree."""
    model, texts = by_hooks.wrapped(family), TEXTS[:2]
    at_once = ll.layer_gradients(model, texts, verify=0)
    monkeypatch.setattr(gradient_run, "ROOM", 0)
    again = ll.layer_gradients(model, texts, verify=0)
    assert [check.name for check in again.checks] == ["block alone equals the pass"]
    assert again.checks.ok and not at_once.checks
    for name in at_once.data:
        np.testing.assert_allclose(again.data[name], at_once.data[name], rtol=1e-5, atol=1e-7)
    assert again.data.attrs["passes"] == at_once.data.attrs["passes"] + 1
    asked = ll.estimate(ll.layer_gradients, model, texts, verify=0)
    assert asked.passes == again.data.attrs["passes"]
