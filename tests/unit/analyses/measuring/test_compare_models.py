"""Two models compared depth by depth: with hooks, with themselves, with strangers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.model.tiny import tiny_model

METRICS = ("cka", "svcca", "pwcca", "rsa", "procrustes", "mutual_neighbours")
TEXTS = [[(7 * i + 3 * j * j + i * j) % 40 for j in range(9)] for i in range(8)]


def tiny(family: str, seed: int = 1) -> ll.LensModel:
    return ll.LensModel.wrap(tiny_model(family, seed=seed), None, name=family, prove=False)


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def other() -> ll.LensModel:
    hf = tiny_model("gpt2", seed=3, n_layer=2)
    return ll.LensModel.wrap(hf, None, name="gpt2", prove=False)


def test_against_plain_passes(model: ll.LensModel, other: ll.LensModel) -> None:
    """Biased CKA and Procrustes of the states of all tokens but the first."""
    options = {"debiased": False}
    cka = ll.compare_models(model, TEXTS, other=other, metric_options=options).data.similarity
    turned = ll.compare_models(model, TEXTS, other=other, metric="procrustes").data.similarity
    assert cka.shape == (model.n_layers + 1, other.n_layers + 1)
    mine, theirs = _states(model, "model.layers"), _states(other, "transformer.h")
    for row, x in enumerate(mine):
        for column, y in enumerate(theirs):
            cross = x.T @ y
            value = (cross**2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
            assert float(cka[row, column]) == pytest.approx(value, abs=2e-5)
            value = np.linalg.svd(cross, compute_uv=False).sum()
            value /= np.linalg.norm(x) * np.linalg.norm(y)
            assert float(turned[row, column]) == pytest.approx(value, abs=2e-5)


def _states(model: ll.LensModel, path: str) -> list[np.ndarray]:
    blocks = list(model.hf.get_submodule(path))
    found: list[list[torch.Tensor]] = [[] for _ in range(len(blocks) + 1)]
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: found[0].append(args[0][0, 1:]))]
    for place, block in enumerate(blocks, 1):
        hooks.append(
            block.register_forward_hook(
                lambda _, args, output, place=place: found[place].append(
                    (output[0] if isinstance(output, tuple) else output)[0, 1:]
                )
            )
        )
    with torch.inference_mode():
        for text in TEXTS:
            model.hf(torch.tensor([text]), use_cache=False)
    for hook in hooks:
        hook.remove()
    rows = [torch.cat(states).double().numpy() for states in found]
    return [x - x.mean(0) for x in rows]


@pytest.mark.parametrize("metric", METRICS)
def test_with_itself(model: ll.LensModel, metric: str) -> None:
    result = ll.compare_models(model, TEXTS, other=model, metric=metric)
    assert all(check.ok for check in result.checks)
    alone = ll.layer_metrics(model, TEXTS, [metric]).data[metric]
    np.testing.assert_allclose(result.data.similarity, alone.values, atol=1e-5)
    np.testing.assert_array_equal(result.data.best_match, range(model.n_layers + 1))
    late = result.data.similarity_chance.values[1:, 1:]
    assert (late < result.data.similarity.values[1:, 1:]).all()


def test_a_rotated_model_is_the_same(model: ll.LensModel) -> None:
    """An embedding of twice the size and blocks that write nothing: all depths are the first."""
    hf = copy.deepcopy(model.hf)
    turned = ll.LensModel.wrap(hf, None, name="turned", prove=False)
    with torch.no_grad():
        turn = torch.linalg.qr(torch.randn(model.d_model, model.d_model)).Q
        hf.get_input_embeddings().weight.copy_(2 * model.hf.get_input_embeddings().weight @ turn)
        for block in hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    found = ll.compare_models(model, TEXTS, other=turned).data.similarity
    np.testing.assert_allclose(found[0], 1, atol=1e-6)
    np.testing.assert_allclose(found[1:], np.repeat(found[1:, :1], 4, 1), atol=1e-6)


def test_mean_states_of_strings() -> None:
    toy, other = ll.load("toy:modular"), ll.load("toy:addition")
    texts = [f"{i} + {i + 3} =" for i in range(1, 9)]
    result = ll.compare_models(
        toy, texts, other=toy, metric="procrustes", unit="text", skip_first=False
    )
    np.testing.assert_allclose(np.diagonal(result.data.similarity), 1, atol=1e-6)
    assert result.data.attrs["compared"] == 8
    mixed = ll.compare_models(
        toy, texts, other=other, metric="procrustes", unit="text", skip_first=False
    )
    assert mixed.data.similarity.shape == (toy.n_layers + 1, other.n_layers + 1)


def test_what_does_not_fit(model: ll.LensModel, other: ll.LensModel) -> None:
    for options, words in (
        ({}, "other is a model from ll.load"),
        ({"other": other, "metric": "cks"}, "metric is 'cks'; expected one of cka"),
        ({"other": other, "unit": "text"}, "needs strings"),
        ({"other": other, "unit": "word"}, "unit is 'word'"),
        ({"other": other, "skip_first": 8, "metric": "svcca"}, "needs at least 10"),
        ({"other": other, "metric_options": {"k": 3}}, "Option 'k' of cka is not known"),
    ):
        with pytest.raises(ll.InputError, match=words):
            ll.compare_models(model, TEXTS, **options)
    small = ll.LensModel.wrap(tiny_model("llama", seed=1, vocab_size=20), None, prove=False)
    with pytest.raises(ll.InputError, match="has no token"):
        ll.compare_models(model, TEXTS, other=small)
