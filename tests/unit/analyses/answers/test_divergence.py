"""KL from the final row: the shortcut against the definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import Reference
from layerlens.run.head_rows import Head

N, V, D, POINTS = 37, 260, 12, 4


def case(**options: Any) -> tuple[Head, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    dtype = options.pop("dtype", torch.float32)
    fields = {"bias": None, "scale": 1.0, "softcap": None, "widens": True, **options}
    matrix = SimpleNamespace(weight=torch.randn(V, D, dtype=dtype), **fields)
    head = Head(matrix, lambda x: x, V)  # type: ignore[arg-type]
    rows = torch.randn(POINTS + 1, N, D, dtype=dtype)
    return head, rows[0], list(rows[1:])


def direct(head: Head, final: Tensor, points: list[Tensor]) -> Tensor:
    """KL by its definition, in double precision, of logits that the head makes."""
    logp = head.logits(final).double().log_softmax(-1)
    return torch.stack(
        [(logp.exp() * (logp - head.logits(x).double().log_softmax(-1))).sum(-1) for x in points]
    )


def shortcut(head: Head, final: Tensor, points: list[Tensor]) -> Tensor:
    none = torch.empty((N, 0), dtype=torch.int64)
    reduced, extras = head.reduce_final(final, none, 1)
    norms = torch.stack([head.reduce(x, none, 1).log_norm for x in points])
    return Reference(head, final, reduced.log_norm, extras).kl(points, norms)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_kl_equals_its_definition(softcap: float | None, scale: float, bias: bool) -> None:
    options: dict[str, Any] = {"softcap": softcap, "scale": scale}
    if bias:
        options["bias"] = torch.linspace(-2, 2, V)
    made = case(**options)
    assert made[0].linear is (softcap is None)
    assert torch.allclose(shortcut(*made).double(), direct(*made), atol=2e-5)


def test_the_shortcut_is_exact_in_double_precision() -> None:
    made = case(dtype=torch.float64, scale=0.7, bias=torch.linspace(-2, 2, V).double())
    assert torch.allclose(shortcut(*made), direct(*made), atol=1e-12, rtol=1e-12)


def test_rounded_logits_are_compared_as_they_are() -> None:
    made = case(dtype=torch.bfloat16)
    assert torch.allclose(shortcut(*made).double(), direct(*made), atol=1e-4)


def test_kl_of_a_point_from_itself_is_zero() -> None:
    head, final, _ = case()
    assert torch.equal(shortcut(head, final, [final]), torch.zeros(1, N))


def test_kl_from_a_uniform_point_is_ln_v_minus_the_entropy() -> None:
    head, final, _ = case()
    none = torch.empty((N, 0), dtype=torch.int64)
    entropy = head.reduce(final, none, 1).entropy
    got = shortcut(head, final, [torch.zeros(N, D)])[0]
    assert torch.allclose(got, torch.log(torch.tensor(float(V))) - entropy, atol=1e-5)


def test_a_suppressed_token_adds_nothing() -> None:
    bias = torch.zeros(V)
    bias[7] = -torch.inf
    for options in ({"bias": bias}, {"bias": bias, "dtype": torch.float32}):
        head, final, points = case(**options)
        direct_logp = head.logits(final).double()[:, torch.arange(V) != 7].log_softmax(-1)
        other = head.logits(points[0]).double()[:, torch.arange(V) != 7].log_softmax(-1)
        expected = (direct_logp.exp() * (direct_logp - other)).sum(-1)
        none = torch.empty((N, 0), dtype=torch.int64)
        reduced, extras = head.reduce_final(final, none, 1)
        norm = head.reduce(points[0], none, 1).log_norm
        got = Reference(head, final, reduced.log_norm, extras._replace(mean_weight=None))
        assert torch.allclose(got.kl([points[0]], norm[None])[0].double(), expected, atol=1e-5)
        by_mean = Reference(head, final, reduced.log_norm, extras).kl([points[0]], norm[None])
        assert torch.allclose(by_mean[0].double(), expected, atol=1e-5)
