"""What is known of dictionaries without learning any: kinds that are one another, and units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import (
    Dictionary,
    Form,
    mean_max_cosine,
)
from layerlens.analyses.features.training.gradients import Chosen, Jump, gathered
from layerlens.errors import InputError

D, M = 12, 30


def drawn(seed: int = 0, *, gated: bool = False, threshold: bool = False) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    names = ["b_gate", "b_mag", "r_mag"] if gated else ["b_enc"]
    found = {"W_enc": torch.randn(D, M, generator=random), "b_dec": torch.randn(D)}
    found["W_dec"] = torch.randn(M, D, generator=random)
    found |= {name: torch.randn(M, generator=random) for name in names}
    if threshold:
        found["threshold"] = torch.rand(M, generator=random)
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(50, D, generator=torch.Generator().manual_seed(9))


def test_a_gated_dictionary_is_a_jumprelu_one(x: Tensor) -> None:
    gated = Dictionary(Form("gated"), drawn(gated=True))
    torch.testing.assert_close(gated.as_jumprelu().encode(x), gated.encode(x))
    assert (gated.encode(x) > 0).any() and (gated.encode(x) == 0).any()


def test_without_thresholds_and_with_all_features_every_kind_is_relu(x: Tensor) -> None:
    arrays = drawn()
    relu = Dictionary(Form("relu"), arrays).encode(x)
    jump = Dictionary(Form("jumprelu"), arrays | {"threshold": torch.zeros(M)})
    assert torch.equal(jump.encode(x), relu)
    assert torch.equal(Dictionary(Form("topk", k=M), arrays).encode(x), relu)


def test_topk_keeps_the_largest_and_no_more(x: Tensor) -> None:
    arrays = drawn()
    found = Dictionary(Form("topk", k=3), arrays).encode(x)
    assert (found > 0).sum(-1).max() == 3
    best = ((x - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"]).relu().topk(3).values
    torch.testing.assert_close(found.sum(-1), best.sum(-1))


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated"])
def test_rescaled_features_decode_to_the_same(kind: str, x: Tensor) -> None:
    arrays = drawn(gated=kind == "gated", threshold=kind == "jumprelu")
    given = Dictionary(Form(kind), arrays)
    factor = torch.rand(M) + 0.5
    y, f = given.reconstruct(x)
    again, grown = given.rescaled(factor).reconstruct(x)
    torch.testing.assert_close(again, y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grown, f * factor, atol=1e-4, rtol=1e-4)
    weighted = (grown @ given.rescaled(factor)["W_dec"].norm(dim=-1)).mean()
    torch.testing.assert_close(weighted, (f @ given["W_dec"].norm(dim=-1)).mean())


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated", "topk"])
def test_a_folded_factor_changes_nothing(kind: str, x: Tensor) -> None:
    arrays = drawn(gated=kind == "gated", threshold=kind == "jumprelu")
    form = Form(kind, 4 if kind == "topk" else None, "expected_average_only_in", 2.5)
    given = Dictionary(form, arrays)
    assert given.folded().form.normalise == "none"
    torch.testing.assert_close(
        given.folded().reconstruct(x)[0], given.reconstruct(x)[0], atol=1e-4, rtol=1e-4
    )


def test_what_is_missing_or_misshapen_is_said() -> None:
    arrays = drawn()
    with pytest.raises(InputError, match="threshold"):
        Dictionary(Form("jumprelu"), arrays)
    with pytest.raises(InputError, match=r"b_enc .* expected \[30\]"):
        Dictionary(Form("relu"), arrays | {"b_enc": torch.zeros(3)})
    with pytest.raises(InputError, match="k=None"):
        Form("topk")


def test_mmcs_of_a_turned_order_is_one_and_of_orthogonal_rows_nothing() -> None:
    rows = torch.eye(8)
    assert mean_max_cosine(rows[:4] * 3, rows[:4].flip(0)) == pytest.approx(1)
    assert mean_max_cosine(rows[:4], rows[4:]) == 0


def test_gradients_of_the_chosen_are_those_of_autograd(x: Tensor) -> None:
    arrays = {name: a.clone().requires_grad_() for name, a in drawn().items()}
    rows, bias, centre = arrays["W_dec"], arrays["b_enc"], arrays["b_dec"]
    pre = (x - centre) @ rows.T + bias
    value, index = pre.topk(4)
    weight = torch.randn(value.shape)
    plain = torch.autograd.grad((value.relu() * weight).sum(), (rows, bias, centre))
    ours = Chosen.apply(x, rows, bias, centre, index, value.detach()).relu()  # type: ignore[no-untyped-call]
    found = torch.autograd.grad((ours * weight).sum(), (rows, bias, centre))
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_gathered_is_a_product_with_a_sparse_matrix(x: Tensor) -> None:
    index, value = torch.randint(M, (50, 3)), torch.randn(50, 3)
    dense = torch.zeros(50, M).scatter_add_(1, index, value)
    torch.testing.assert_close(gathered(index, value, x, M), dense.T @ x, atol=1e-4, rtol=1e-4)


def test_a_threshold_has_a_slope_only_near_it() -> None:
    pre = torch.tensor([[1.0, 0.51, 0.2]], requires_grad=True)
    threshold = torch.full((3,), 0.5, requires_grad=True)
    Jump.apply(pre, threshold).sum().backward()  # type: ignore[no-untyped-call]
    assert pre.grad is not None and pre.grad.tolist() == [[1, 1, 0]]
    assert threshold.grad is not None and threshold.grad.tolist() == [0, -10, 0]
