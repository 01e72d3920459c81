"""Norms, ratios, cosines and influence: against plain hooks, and where the answer is known."""

from __future__ import annotations

import itertools

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.metrics.batch import split
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


def naive(model: LensModel, skip: int) -> dict[str, np.ndarray]:
    """All of them, from hooks on modules, token by token over `measuring.TEXTS`."""
    found: dict[str, list[list[Tensor]]] = {}
    for text in measuring.TEXTS:
        stream = measuring.states(model, text)
        middle = middles(model, text, stream)
        for layer, (h, after) in enumerate(itertools.pairwise(stream)):
            a, m, state = increments(h, after, middle[layer])
            c = after - h
            cos = torch.nn.functional.cosine_similarity
            values = {
                "attn_norm": a.norm(dim=-1),
                "mlp_norm": m.norm(dim=-1),
                "block_norm": c.norm(dim=-1),
                "attn_ratio": a.norm(dim=-1) / h.norm(dim=-1),
                "mlp_ratio": m.norm(dim=-1) / state.norm(dim=-1),
                "block_ratio": c.norm(dim=-1) / h.norm(dim=-1),
                "attn_cosine": cos(a, h, -1),
                "mlp_cosine": cos(m, state, -1),
                "block_cosine": cos(c, h, -1),
                "block_influence": 1 - cos(h, after, -1),
                "attn_influence": 1 - cos(h, h + a, -1),
                "mlp_influence": 1 - cos(state, state + m, -1),
            }
            pairs = {"attn": (a, h), "mlp": (m, state), "block": (c, h)}
            for part, (added, there) in pairs.items():
                values[f"{part}_cosine_chance"] = with_others(added, there, skip)
            for name, value in values.items():
                layers = found.setdefault(name, [[] for _ in range(model.n_layers)])
                layers[layer].append(value[skip:])
        for point, h in enumerate(stream):
            points = found.setdefault("residual_norm", [[] for _ in stream])
            points[point].append(h.norm(dim=-1)[skip:])
    return {name: np.array([torch.cat(v).mean() for v in rows]) for name, rows in found.items()}


def with_others(added: Tensor, there: Tensor, skip: int) -> Tensor:
    """Mean cosine of what is added at each token with the states of the others that count."""
    found = torch.full((len(added),), torch.nan)
    counted = range(skip, len(added))
    for token in counted:
        others = [other for other in counted if other != token]
        cosines = torch.nn.functional.cosine_similarity(added[token], there[others], -1)
        found[token] = cosines.mean()
    return found


def middles(model: LensModel, text: list[int], stream: list[Tensor]) -> list[tuple[Tensor, str]]:
    """What the attention of each block adds, from the family's own modules."""
    family = model.anatomy.family
    paths = {
        "llama": "model.layers.{}.self_attn",
        "gpt2": "transformer.h.{}.attn",
        "gpt_neox": "gpt_neox.layers.{}.attention",
        "gemma2": "model.layers.{}.post_attention_layernorm",
    }
    found: list[tuple[Tensor, str]] = []
    handles = []
    for layer in range(model.n_layers):

        def hook(_, args, output):  # type: ignore[no-untyped-def]
            found.append(((output[0] if isinstance(output, tuple) else output)[0].clone(), family))

        module = model.hf.get_submodule(paths[family].format(layer))
        handles.append(module.register_forward_hook(hook))
    with torch.inference_mode():
        model.hf(torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def increments(h: Tensor, after: Tensor, attention: tuple[Tensor, str]) -> tuple[Tensor, ...]:
    """What attention and MLP add, and the state that the MLP is compared with."""
    a, family = attention
    return a, after - h - a, h if family == "gpt_neox" else h + a


@pytest.mark.parametrize("family", measuring.FAMILIES)
@pytest.mark.parametrize("skip", [0, 1])
def test_against_plain_hooks(family: str, skip: int) -> None:
    model = measuring.tiny(family)
    expected = naive(model, skip)
    names = [name for name in expected if not name.endswith("_chance")]
    found = measuring.measure(model, names, skip_first=skip)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    streams = [measuring.states(model, text) for text in measuring.TEXTS]
    largest = [
        max(float(s[point][skip:].norm(dim=-1).max()) for s in streams)
        for point in range(model.n_layers + 1)
    ]
    np.testing.assert_allclose(found["residual_norm_max"], largest, rtol=1e-5)


def test_an_identity_block_does_nothing() -> None:
    model = LensModel.wrap(tiny_model("llama", seed=2), None, name="identity", prove=False)
    measuring.identity(model, 1)
    names = ["attn_ratio", "mlp_ratio", "block_ratio", "block_influence", "attn_influence"]
    batches = split(model.tokens(measuring.TEXTS))
    metrics = measuring.gather(model, [*names, "mlp_influence", "block_cosine"], batches)
    found = metrics.values()
    for name in (*names, "mlp_influence"):
        assert abs(found[name][1]) < 1e-12, name
        assert found[name][0] > 1e-3, name
    assert np.isnan(found["block_cosine"][1])  # there is no direction in nothing
    assert [metric.left_out for metric in metrics.metrics][-1] == metrics.kept


def test_orthogonal_increments() -> None:
    """Increments of norm q, each orthogonal to all before, and ||h_0|| = q: 1 / sqrt(1 + l)."""
    layers, q = 6, 3.0

    def write(layer: int) -> object:
        def does(h: Tensor) -> Tensor:
            h = h.clone()
            h[..., layer + 1] = q
            return h

        return does

    model = measuring.planted(8, [write(layer) for layer in range(layers)])
    with torch.no_grad():
        model.hf.transformer.wte.weight.zero_()
        model.hf.transformer.wte.weight[:, 0] = q
    found = measuring.measure(model, ["block_ratio", "block_cosine", "block_influence"])
    depth = np.arange(1, layers + 1)
    np.testing.assert_allclose(found["block_ratio"], 1 / np.sqrt(depth), rtol=1e-6)
    np.testing.assert_allclose(found["block_cosine"], 0, atol=1e-7)
    np.testing.assert_allclose(
        found["block_influence"], 1 - np.sqrt(depth / (depth + 1)), rtol=1e-6
    )


@pytest.mark.parametrize(("factor", "cosine"), [(-1.0, -1), (1.5, 1), (0.25, -1)])
def test_reflection_and_scaling(factor: float, cosine: float) -> None:
    """``c = (factor - 1) h``: its cosine with h has the sign of factor - 1."""
    model = measuring.planted(8, [lambda h: factor * h])
    found = measuring.measure(model, ["block_cosine", "block_influence", "block_ratio"])
    np.testing.assert_allclose(found["block_cosine"], cosine, rtol=1e-6)
    np.testing.assert_allclose(found["block_influence"], 1 - np.sign(factor), atol=1e-6)
    np.testing.assert_allclose(found["block_ratio"], abs(factor - 1), rtol=1e-6)


def test_random_writes_have_no_direction() -> None:
    """A Gaussian increment in width d: |mean cosine| < 4 / sqrt(d T)."""
    width, texts = 512, [[i % 7 for i in range(60)]] * 4
    generator = torch.Generator().manual_seed(5)
    model = measuring.planted(width, [lambda h: h + torch.randn(h.shape, generator=generator)])
    found = measuring.measure(model, "block_cosine", texts, skip_first=False)
    assert abs(found["block_cosine"][0]) < 4 / np.sqrt(width * 240)


def test_a_cosine_that_any_token_has_is_no_news() -> None:
    """States share a direction, and the block adds along it: the control is as high."""
    generator = torch.Generator().manual_seed(3)
    shared = torch.zeros(64)
    shared[0] = 1.0
    model = measuring.planted(64, [lambda h: h + shared])
    with torch.no_grad():
        noise = 0.05 * torch.randn(40, 64, generator=generator)
        model.hf.transformer.wte.weight.copy_(shared + noise)
    found = measuring.measure(model, "block_cosine", [list(range(40))] * 2)
    assert found["block_cosine"][0] > 0.8
    assert abs(found["block_cosine"][0] - found["block_cosine_chance"][0]) < 1e-6
    own = measuring.planted(512, [lambda h: 1.5 * h])
    found = measuring.measure(own, "block_cosine", [list(range(1, 39))])
    np.testing.assert_allclose(found["block_cosine"], 1, rtol=1e-6)
    assert abs(found["block_cosine_chance"][0]) < 0.02


def test_a_token_alone_has_no_others_to_compare_with() -> None:
    model = measuring.planted(8, [lambda h: 1.5 * h])
    found = measuring.measure(model, "block_cosine", [[3, 5], [4]])  # the first is left out
    assert found["block_cosine"][0] == pytest.approx(1)
    assert np.isnan(found["block_cosine_chance"][0])


def test_scaling_the_whole_stream_changes_norms_alone() -> None:
    def twice(h: Tensor) -> Tensor:
        return h + torch.roll(h, 1, -1)

    small, large = (measuring.planted(8, [twice, twice]) for _ in range(2))
    with torch.no_grad():
        large.hf.transformer.wte.weight.mul_(10)
    names = ["block_ratio", "block_cosine", "block_influence", "voids", "angular_distance"]
    before, after = (measuring.measure(model, names) for model in (small, large))
    measuring.assert_same(before, after, rtol=1e-5, atol=1e-6)
    norms = [measuring.measure(m, "residual_norm")["residual_norm"] for m in (small, large)]
    np.testing.assert_allclose(norms[1], 10 * norms[0], rtol=1e-5)


def test_contributions_bound_each_other() -> None:
    """Per token |c|/|h| <= |a|/|h| + |m|/|h+a| (1 + |a|/|h|); with one token, so do the means."""
    model = measuring.tiny("llama")
    found = measuring.measure(
        model, ["attn_ratio", "mlp_ratio", "block_ratio"], [[4]], skip_first=False
    )
    a, m, c = (found[f"{name}_ratio"] for name in ("attn", "mlp", "block"))
    assert (c <= a + m * (1 + a) + 1e-6).all()


def test_parallel_blocks_add_up() -> None:
    """In a parallel block the increments are both seen from the state before it."""
    model = measuring.tiny("gpt_neox")
    text = [[3, 1, 4, 1, 5]]
    found = measuring.measure(model, ["attn_norm", "mlp_norm", "mlp_ratio"], text, skip_first=4)
    stream = measuring.states(model, text[0])
    ratio = found["mlp_norm"] / [float(h[-1].norm()) for h in stream[:-1]]
    np.testing.assert_allclose(found["mlp_ratio"], ratio, rtol=1e-5)
