"""Sparsity, firing, codes and top texts of neurons: plain hooks and planted activations."""

from __future__ import annotations

import itertools
import json
from typing import Any

import measuring
import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import InputError, SiteError
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

MEANS = ["activation_sparsity", "activation_concentration"]
NAMES = [*MEANS, "neuron_firing", "neural_codes", "top_activations"]
LAST = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h"}
LAST |= {"gemma2": "mlp.down_proj", "opt": "fc2"}
OPEN = {"llama": "mlp.act_fn", "gpt2": "mlp.act", "gpt_neox": "mlp.act", "gemma2": "mlp.act_fn"}


def inputs(model: LensModel, text: list[int], paths: dict[str, str]) -> list[Tensor]:
    """What a module of each block is given, [position, width], by a hook of PyTorch alone."""
    found: list[Tensor] = []
    handles = [
        model.hf.get_submodule(
            f"{block.path}.{paths[model.anatomy.family]}"
        ).register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
        for block in model.anatomy.blocks
    ]
    with torch.inference_mode():
        model.hf(torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [x.reshape(-1, x.shape[-1]).double() for x in found]


def activations(model: LensModel, skip: int = 1) -> list[Tensor]:
    """[token, neuron] of each layer, over all texts."""
    rows = [inputs(model, text, LAST) for text in measuring.TEXTS]
    return [torch.cat([row[layer][skip:] for row in rows]) for layer in range(model.n_layers)]


@pytest.mark.parametrize("family", [*measuring.FAMILIES, "opt"])
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, [*MEANS, "neuron_firing"])
    for layer, a in enumerate(activations(model)):
        size = a.abs()
        small = size <= 0.01 * size.max(-1, keepdim=True).values
        squares = (a**2).sort(-1, descending=True).values
        holds = [
            next(m for m in range(1, len(row) + 1) if row[:m].sum() >= 0.9 * row.sum())
            for row in squares
        ]
        n = a.shape[1]
        hoyer = (n**0.5 - size.sum(-1) / a.norm(dim=-1)) / (n**0.5 - 1)
        on = (~small).double().mean(0)
        expected = {
            "activation_sparsity": (a == 0).double().mean(),
            "activation_sparsity_small": small.double().mean(),
            "activation_sparsity_hoyer": hoyer.mean(),
            "activation_concentration": np.mean(holds) / n,
            "neuron_firing": on.mean(),
            "neuron_firing_dead": (on == 0).double().mean(),
            "neuron_firing_always": (on == 1).double().mean(),
            "neuron_firing_zero": (a == 0).all(0).double().mean(),
            "neuron_firing_bound": 3 / len(a),
        }
        for name, value in expected.items():
            assert found[name][layer] == pytest.approx(float(value), rel=1e-4, abs=1e-9), name
        histogram = found["neuron_firing_histogram"][layer]
        assert histogram.sum() == pytest.approx(1)
        assert histogram[-1] == pytest.approx(float((on >= 0.95).double().mean()))
        assert (
            on[found["neuron_firing_most"][layer]].tolist()
            == on.sort().values[-5:].flip(0).tolist()
        )
        assert on[found["neuron_firing_least"][layer]].tolist() == on.sort().values[:5].tolist()


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_codes_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, "neural_codes")
    rows = [inputs(model, text, OPEN) for text in measuring.TEXTS]
    every = []
    for layer in range(model.n_layers):
        codes = (torch.cat([row[layer][1:] for row in rows]) > 0).numpy()
        every.append(codes)
        pairs = [(x != y).mean() for x, y in itertools.combinations(codes, 2)]
        different = len({row.tobytes() for row in codes})
        assert found["neural_codes"][layer] == pytest.approx(1 - different / len(codes))
        assert found["neural_codes_distance"][layer] == pytest.approx(np.mean(pairs))
        constant = (codes.all(0) | ~codes.any(0)).mean()
        assert found["neural_codes_constant"][layer] == pytest.approx(constant)
    whole = np.concatenate(every, axis=1)
    different = len({row.tobytes() for row in whole})
    assert found["neural_codes_model"] == pytest.approx(1 - different / len(whole))
    assert found["neural_codes_sample"] == sum(len(text) - 1 for text in measuring.TEXTS)


@pytest.mark.parametrize("family", [*measuring.FAMILIES, "opt"])
def test_padding_and_merging(family: str) -> None:
    model = measuring.tiny(family)
    options = {
        "top_activations": {"layer": 1, "neurons": [3, 0, 9], "k": 3},
        "neural_codes": {"sample": 7},
    }
    measuring.assert_padding_is_nothing(model, NAMES, options=options)
    measuring.assert_merged_is_single(model, NAMES, options=options)


def planted(values: Tensor) -> LensModel:
    """An OPT (ReLU) whose first MLP is given these pre-activations [token id, neuron]."""
    hf = tiny_model("opt", seed=1)
    model = LensModel.wrap(hf, None, name="planted", prove=False)
    first = model.hf.get_submodule(f"{model.anatomy.blocks[0].path}.fc1")
    table = torch.zeros(model.d_vocab, values.shape[1])
    table[: len(values)] = values
    ids: list[Tensor] = []
    model.hf.get_submodule(model.anatomy.embedding).register_forward_pre_hook(
        lambda _, args: ids.append(args[0])
    )

    def give(_: Any, args: Any, output: Tensor) -> Tensor:
        return table[ids[-1]].view_as(output)

    first.register_forward_hook(give)
    return model


def test_known_activations() -> None:
    """One-hot, constant and Gaussian activations."""
    width = tiny_model("opt").config.ffn_dim
    values = torch.zeros(30, width)
    values[0, 5] = 3
    values[1] = 2
    model = planted(values)
    one = {k: v[0] for k, v in measuring.measure(model, MEANS, [[0, 0, 0]]).items()}
    assert one["activation_sparsity"] == pytest.approx(1 - 1 / width)
    assert one["activation_sparsity_small"] == pytest.approx(1 - 1 / width)
    assert one["activation_sparsity_hoyer"] == pytest.approx(1)
    assert one["activation_concentration"] == pytest.approx(1 / width)
    same = {k: v[0] for k, v in measuring.measure(model, MEANS, [[1, 1]]).items()}
    assert same["activation_sparsity"] == same["activation_sparsity_small"] == 0
    assert same["activation_sparsity_hoyer"] == pytest.approx(0, abs=1e-6)
    assert same["activation_concentration"] == pytest.approx(np.ceil(0.9 * width) / width)
    nothing = {k: v[0] for k, v in measuring.measure(model, MEANS, [[2, 2]]).items()}
    assert nothing["activation_sparsity"] == nothing["activation_sparsity_small"] == 1
    assert np.isnan(nothing["activation_sparsity_hoyer"])
    assert np.isnan(nothing["activation_concentration"])
    gaussian = planted(torch.randn(40, width, generator=torch.Generator().manual_seed(0)))
    half = measuring.measure(gaussian, "activation_sparsity", [list(range(40))])
    assert half["activation_sparsity"][0] == pytest.approx(0.5, abs=4 * 0.5 / (39 * width) ** 0.5)


def test_dead_and_always_on_neurons() -> None:
    """A bias of minus infinity kills, one of plus much keeps on; more data never kill more."""
    hf = tiny_model("opt", seed=1)
    model = LensModel.wrap(hf, None, name="opt", prove=False)
    bias = hf.get_parameter(f"{model.anatomy.blocks[1].path}.fc1.bias")
    width = len(bias)
    with torch.no_grad():
        bias[[2, 7, 11]] = -1e9
        bias[[4, 5]] = 1e3
    options = {"neuron_firing": {"epsilon": 0.0, "k": 20}}
    found = measuring.measure(model, "neuron_firing", options=options)
    assert found["neuron_firing_dead"][1] * width >= 3
    assert found["neuron_firing_dead"][1] == found["neuron_firing_zero"][1]
    assert {2, 7, 11} <= set(found["neuron_firing_least"][1])
    assert found["neuron_firing_always"][1] * width >= 2
    loud = measuring.measure(model, "neuron_firing", options={"neuron_firing": {"k": 2}})
    assert sorted(loud["neuron_firing_most"][1]) == [4, 5]
    dead = [
        measuring.measure(model, "neuron_firing", measuring.TEXTS[:n], options=options)
        for n in (1, 2, 3, 4)
    ]
    shares = np.array([found["neuron_firing_dead"] for found in dead])
    assert (np.diff(shares, axis=0) <= 0).all()


def test_codes_of_known_inputs() -> None:
    """Of n equal tokens, n - 1 repeat; a thermometer has neighbours one bit apart."""
    width = tiny_model("opt").config.ffn_dim
    steps = 9
    values = -torch.ones(steps, width)
    for step in range(steps):
        values[step, :step] = 1
    model = planted(values)
    equal = measuring.measure(model, "neural_codes", [[3] * 8])
    assert equal["neural_codes"][0] == pytest.approx(6 / 7)
    assert equal["neural_codes_distance"][0] == 0
    assert equal["neural_codes_constant"][0] == 1
    text = list(range(steps))
    found = measuring.measure(model, "neural_codes", [text], skip_first=False)
    assert found["neural_codes"][0] == 0
    mean = np.mean([abs(i - j) for i, j in itertools.combinations(range(steps), 2)]) / width
    assert found["neural_codes_distance"][0] == pytest.approx(mean)
    assert found["neural_codes_constant"][0] == pytest.approx(1 - (steps - 1) / width)
    options = {"neural_codes": {"token": "last"}}
    last = measuring.measure(model, "neural_codes", [[1, 4], [2, 5], [8, 4]], options=options)
    assert last["neural_codes_sample"] == 3
    assert last["neural_codes"][0] == pytest.approx(1 / 3)


def test_a_sample_of_codes_is_the_same_however_texts_are_spread() -> None:
    model = measuring.tiny("llama")
    options = {"neural_codes": {"sample": 5}}
    alone = measuring.measure(model, "neural_codes", size=1, options=options)
    together = measuring.measure(model, "neural_codes", size=4, options=options)
    assert alone["neural_codes_sample"] == 5
    measuring.assert_same(alone, together)


@pytest.mark.parametrize("side", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("per_text", [True, False])
def test_top_texts_against_sorting_everything(side: str, per_text: bool) -> None:
    model = measuring.tiny("gpt2")
    neurons = [12, 0, 5]
    result = ll.top_texts(
        model, measuring.TEXTS, -1, neurons, k=3, side=side, per_text=per_text, batch_size=2
    )
    rows = [inputs(model, text, LAST)[-1] for text in measuring.TEXTS]
    for neuron in neurons:
        places = [
            (float(row[t, neuron]), text, t)
            for text, row in enumerate(rows)
            for t in range(1, len(row))
        ]
        keys = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -abs(v)}
        places.sort(key=lambda place: keys[side](place[0]))
        if per_text:
            first: dict[int, tuple[float, int, int]] = {}
            for place in places:
                first.setdefault(place[1], place)
            places = list(first.values())
        cell = result.data.sel(neuron=neuron)
        assert list(cell["rank"].values) == [1, 2, 3]
        np.testing.assert_allclose(cell.activation, [p[0] for p in places[:3]], rtol=1e-4)
        assert cell.text.values.tolist() == [p[1] for p in places[:3]]
        assert cell.position.values.tolist() == [p[2] for p in places[:3]]
        expected = [measuring.TEXTS[p[1]][p[2]] for p in places[:3]]
        assert cell.token.values.tolist() == expected
    snippets = json.loads(result.data.attrs["snippets"])
    assert [len(row) for row in snippets] == [3, 3, 3]
    assert all(snippet.count("[[") >= 1 for row in snippets for snippet in row)
    assert all(check.ok for check in result.checks)


def test_top_texts_find_the_planted_token() -> None:
    width = tiny_model("opt").config.ffn_dim
    values = torch.zeros(30, width)
    values[17, 4] = 9
    values[23, 4] = 5
    model = planted(values)
    found = ll.top_texts(model, [[1, 2, 3], [4, 23, 6], [7, 8, 17]], 0, 4, k=5).data
    assert found.text.values[0, :2].tolist() == [2, 1]
    assert found.token.values[0, :2].tolist() == [17, 23]
    assert found.activation.values[0, :3].tolist() == [9, 5, 0]
    assert np.isnan(found.activation.values[0, 3:]).all()
    assert found.text.values[0, 3:].tolist() == [-1, -1]


def test_what_is_kept_does_not_grow() -> None:
    model = measuring.tiny("llama")
    options = {"neural_codes": {"sample": 8}, "top_activations": {"k": 2, "neurons": [1, 2]}}
    sizes = []
    for times in (4, 40):
        batches = split(model.tokens(measuring.TEXTS * times), 8)
        made = measuring.gather(model, NAMES, batches, options=options)
        sizes.append(sum(array.nbytes for array in made.state()[0].values()))
    assert sizes[0] == sizes[1]


def test_bad_input() -> None:
    model = measuring.tiny("llama")
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("activation_sparsity", {"epsilon": 1}, "epsilon is 1"),
        ("activation_concentration", {"share": 0}, "share is 0"),
        ("neuron_firing", {"k": 0}, "k is 0"),
        ("neural_codes", {"sample": 1}, "sample is 1"),
        ("neural_codes", {"token": "first"}, "not 'first'"),
        ("top_activations", {"layer": 99}, "layer is 99; expected 0 to 2"),
        ("top_activations", {"neurons": [1, 1]}, "each once"),
        ("top_activations", {"side": "best"}, "side is 'best'"),
        ("top_activations", {"k": 0}, "k is 0"),
    ]
    for name, options, words in bad:
        with pytest.raises(InputError, match=words):
            MetricSet.make(model, name, options={name: options})
    with pytest.raises(InputError, match="Neuron 5000 does not exist"):
        ll.top_texts(model, [[1, 2]], 0, 5000)
    with pytest.raises(InputError, match="Layer 7 does not exist"):
        ll.top_texts(model, [[1, 2]], 7)
    with pytest.raises(InputError, match="No token counts"):
        ll.top_texts(model, [[1]], 0)
    mixtral = LensModel.wrap(tiny_model("mixtral", seed=1), None, name="experts", prove=False)
    with pytest.raises(SiteError, match="activation_sparsity cannot be measured in experts"):
        MetricSet.make(mixtral, "activation_sparsity")
