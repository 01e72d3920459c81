"""Second derivatives: a quadratic whose Hessian is given, and the whole Hessian of a tiny model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.analyses.sensitivity.curvature import Curvature, moved
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

IDS = [[5, 9, 1, 3, 7, 5], [4, 8, 1, 6]]


def quadratic(matrix: Tensor, sizes: list[int]) -> Curvature:
    """``x^T A x / 2``, with x in groups of these sizes, as the mean of two losses."""
    groups = [[nn.Parameter(torch.randn(size))] for size in sizes]

    def loss(share: float) -> Tensor:
        x = torch.cat([p for group in groups for p in group])
        return share * x @ matrix @ x / 2

    with torch.enable_grad():
        return Curvature(groups, [lambda: loss(0.5), lambda: loss(1.5)])


def test_products_with_a_quadratic_are_those_of_its_matrix() -> None:
    torch.manual_seed(0)
    root = torch.randn(7, 7)
    matrix = root + root.T
    curvature = quadratic(matrix, [3, 4])
    vectors = {0: torch.randn(3), 1: torch.randn(4)}
    with curvature.products([0, 1], [0, 1]) as product:
        found = product(vectors)
    wanted = matrix @ torch.cat([vectors[0], vectors[1]])
    torch.testing.assert_close(torch.cat([found[0], found[1]]), wanted)
    with curvature.products([0], [1]) as product:
        torch.testing.assert_close(product({0: vectors[0]})[1], matrix[3:, :3] @ vectors[0])
    # A quadratic's differences are exact whatever the step.
    torch.testing.assert_close(
        curvature.difference(1, vectors[1], 0.5), matrix[3:, 3:] @ vectors[1], rtol=1e-4, atol=1e-4
    )


def test_moved_weights_come_back_to_the_same_memory() -> None:
    weight = nn.Parameter(torch.ones(3))
    place = weight.data_ptr()
    with moved([weight], torch.tensor([1.0, 2.0, 3.0]), 0.1):
        torch.testing.assert_close(weight.data, torch.tensor([1.1, 1.2, 1.3]))
    assert weight.data_ptr() == place and weight.tolist() == [1, 1, 1]


@cache
def small() -> LensModel:
    """Two blocks of about a hundred weights, whose whole Hessian can be made."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=12, head_dim=2, initializer_range=0.5,
    )  # fmt: skip
    return LensModel.wrap(LlamaForCausalLM(config), None, name="small", prove=False)


@cache
def whole() -> tuple[Tensor, list[int]]:
    """The Hessian of the mean loss by all weights of both blocks, by plain autograd."""
    model = small()
    hf = model.hf
    hf.set_attn_implementation("eager")
    blocks = [
        dict(hf.get_submodule(block.path).named_parameters()) for block in model.anatomy.blocks
    ]
    names = [
        f"{block.path}.{name}"
        for block, own in zip(model.anatomy.blocks, blocks, strict=True)
        for name in own
    ]
    given = [hf.get_parameter(name).detach() for name in names]
    sizes = [sum(p.numel() for p in own.values()) for own in blocks]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in given])
        weights = {n: v.view_as(p) for n, v, p in zip(names, parts, given, strict=True)}
        each = []
        for ids in IDS:
            call = torch.func.functional_call(hf, weights, (torch.tensor([ids]),))
            targets = torch.tensor(ids[1:])
            each.append(torch.nn.functional.cross_entropy(call.logits[0, :-1], targets))
        return torch.stack(each).mean()

    flat = torch.cat([p.flatten() for p in given])
    found = torch.autograd.functional.hessian(loss, flat, vectorize=True)
    hf.set_attn_implementation("sdpa")
    return found.double(), sizes


def block(first: int, second: int) -> Tensor:
    """A block of the whole Hessian."""
    matrix, sizes = whole()
    return matrix.split(sizes)[first].split(sizes, dim=1)[second]


def test_trace_is_that_of_the_whole_hessian() -> None:
    found = ll.hessian(small(), IDS, draws=60, control=False)
    assert found.checks.ok and found.data.attrs["complete"] == 1
    data = found.data
    for layer in (0, 1):
        wanted = float(block(layer, layer).trace())
        error = float(data.trace_error[layer])
        assert abs(float(data.trace[layer]) - wanted) < 3 * error
        assert (
            float(data.trace_low[layer]) < float(data.trace[layer]) < float(data.trace_high[layer])
        )
        per_weight = float(data.trace[layer]) / whole()[1][layer]
        assert float(data.trace_per_weight[layer]) == pytest.approx(per_weight)
        # One product for all blocks: others add to the variance, by the square of what is shared.
        own, shared = block(layer, layer), block(layer, 1 - layer)
        variance = 2 * (own.square().sum() - own.diagonal().square().sum()) + shared.square().sum()
        assert error == pytest.approx(float(variance / 60) ** 0.5, rel=0.35)


@pytest.mark.parametrize("layers", [None, [1]])
def test_top_is_the_largest_eigenvalue_of_a_block(layers: list[int] | None) -> None:
    data = ll.hessian(small(), IDS, what="top", layers=layers, steps=200, control=False).data
    for layer, value in zip(data.layer.values, data.top.values, strict=True):
        every = torch.linalg.eigvalsh(block(int(layer), int(layer)))
        wanted = every[every.abs().argmax()]
        assert float(value) == pytest.approx(float(wanted), rel=0.02)
    assert (data.top_residual < 0.2).all()


def test_cross_is_the_norm_of_every_block() -> None:
    data = ll.hessian(small(), IDS, what="cross", draws=30, control=False).data
    wanted = np.array([[float(block(a, b).norm()) for b in (0, 1)] for a in (0, 1)])
    np.testing.assert_allclose(data.block_norm, wanted, rtol=0.3)
    own = wanted.diagonal()
    np.testing.assert_allclose(data.coupling, wanted / np.sqrt(own[:, None] * own), rtol=0.35)
    np.testing.assert_allclose(data.coupling.values.diagonal(), 1)


def test_the_control_and_one_text() -> None:
    one = ll.hessian(small(), IDS[0], draws=3)
    assert one.checks.ok
    assert not np.allclose(one.data.trace, one.data.trace_chance)
    twice = ll.hessian(small(), [IDS[0], IDS[0]], draws=3)
    np.testing.assert_allclose(one.data.trace, twice.data.trace, rtol=1e-4)
    assert all(p.requires_grad and p.grad is None for p in small().hf.parameters())


def test_its_check_fails_where_products_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Curvature.difference
    monkeypatch.setattr(Curvature, "difference", lambda *given: 1.2 * right(*given))
    checks = {check.name: check.ok for check in ll.hessian(small(), IDS, draws=2).checks}
    assert checks == {"difference of gradients": False, "symmetry": True}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": "density"}, "'density' is not known"),
        ({"draws": 1}, "at least 2"),
        ({"what": "top", "draws": 3}, "what='trace' or 'cross'"),
        ({"skip_first": 9}, "No next token counts"),
    ],
)
def test_what_does_not_fit(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ll.hessian(small(), IDS, **options)
