"""Ablation against plain hooks, identities and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.errors import Cancelled, InputError

from .. import by_hooks as by
from ..by_hooks import FAMILIES, IDS
from ..lenses.test_logit_lens import Recorder

ANSWER, WRONG = 7, 50
TOKENS: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG}
REFERENCE = [[9, 8, 7, 6, 5, 4, 3], [44, 45, 46]]


def place_of(hf: PreTrainedModel, unit: str, layer: int) -> tuple[Any, str]:
    """Where the output of a kind of unit passes."""
    sides = {"head": ("z", "in"), "attn": ("attn", "out"), "mlp": ("mlp", "out")}
    name, side = sides.get(unit, ("neurons", "in"))
    return by.part(hf, layer, name), side


def columns_of(hf: PreTrainedModel, unit: str, index: int) -> slice:
    """Columns of one unit in what passes there."""
    if unit == "head":
        return by.head_columns(hf, index)
    return slice(index, index + 1) if unit == "neuron" else slice(None)


def difference(logits: torch.Tensor) -> float:
    """The metric of these tests."""
    return float(logits[ANSWER] - logits[WRONG])


def without(
    hf: PreTrainedModel, unit: str, layer: int, index: int, value: torch.Tensor | float
) -> float:
    """The metric with a unit's output put to ``value`` ([position or 1, width of the place])."""
    columns = columns_of(hf, unit, index)

    def put(old: torch.Tensor) -> torch.Tensor:
        old[0, :, columns] = value if isinstance(value, float) else value[:, columns]
        return old

    return difference(by.run(hf, IDS, [(*place_of(hf, unit, layer), put)]))


def mean_over(hf: PreTrainedModel, unit: str, layer: int, texts: list[list[int]]) -> torch.Tensor:
    """Mean output over all positions of some texts, [1, width of the place]."""
    place = place_of(hf, unit, layer)
    rows = [by.kept(hf, text, [place])[place][0] for text in texts]
    return torch.cat(rows).mean(0, keepdim=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("unit", "count"), [("head", 4), ("attn", 1), ("mlp", 1), ("neuron", 64)])
@pytest.mark.parametrize("how", ["zero", "mean"])
def test_every_unit_equals_plain_hooks(family: str, unit: str, count: int, how: str) -> None:
    chosen = [0, 3, 63] if unit == "neuron" else list(range(count))
    options: dict[str, Any] = {"neurons": chosen} if unit == "neuron" else {}
    if how == "mean":
        options["reference"] = REFERENCE
    result = ll.ablate_sweep(by.wrapped(family), IDS, unit=unit, how=how, **options, **TOKENS)
    hf = by.plain(family)
    plain = difference(by.run(hf, IDS))
    found = result.data.metric.values.reshape(3, len(chosen))
    for layer in range(3):
        mean = mean_over(hf, unit, layer, REFERENCE) if how == "mean" else 0.0
        for place, index in enumerate(chosen):
            expected = without(hf, unit, layer, index, mean)
            assert found[layer, place] == pytest.approx(expected, abs=2e-4)
    np.testing.assert_allclose(result.data.effect, result.data.metric - plain, atol=2e-4)
    assert result.data.attrs["complete"] == 1
    assert [check for check in result.checks if not check.ok] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_that_writes_nothing_is_skipped(family: str) -> None:
    data = ll.ablate_sweep(by.wrapped(family), IDS, unit="layer", how="zero", **TOKENS).data
    hf = by.plain(family)
    for layer, block in enumerate(by.blocks(hf)):
        held: list[torch.Tensor] = []

        def keep(value: torch.Tensor, held: list[torch.Tensor] = held) -> torch.Tensor:
            held.append(value.clone())
            return value

        def back(_: torch.Tensor, held: list[torch.Tensor] = held) -> torch.Tensor:
            return held[0]

        logits = by.run(hf, IDS, [(block, "in", keep), (block, "out", back)])
        assert float(data.metric[layer]) == pytest.approx(difference(logits), abs=2e-4)


def test_the_mean_write_of_a_layer_takes_its_place() -> None:
    model, hf = by.wrapped("llama"), by.plain("llama")
    data = ll.ablate_sweep(model, IDS, unit="layer", reference=REFERENCE, **TOKENS).data
    block = by.blocks(hf)[1]
    states = [by.kept(hf, text, [(block, "in"), (block, "out")]) for text in [*REFERENCE, IDS]]
    writes = [kept[(block, "out")][0] - kept[(block, "in")][0] for kept in states]
    mean = torch.cat(writes[:-1]).mean(0, keepdim=True)
    new = states[-1][(block, "in")][0] + mean
    expected = difference(by.run(hf, IDS, [(block, "out", by.putting(new))]))
    assert float(data.metric[1]) == pytest.approx(expected, abs=2e-4)


def test_a_mean_at_each_position() -> None:
    model, hf = by.wrapped("gpt2"), by.plain("gpt2")
    texts = [[9, 8, 7, 6, 5, 4, 3], [44, 45, 46, 47, 48, 49]]
    data = ll.ablate_sweep(model, IDS, reference=texts, by_position=True, **TOKENS).data
    place = place_of(hf, "head", 1)
    mean = torch.stack([by.kept(hf, text, [place])[place][0, :6] for text in texts]).mean(0)
    assert float(data.metric[1, 2]) == pytest.approx(without(hf, "head", 1, 2, mean), abs=2e-4)
    with pytest.raises(InputError, match="No reference text reaches position 5"):
        ll.ablate_sweep(model, IDS, reference=REFERENCE[1:], by_position=True)


def test_resampling_puts_in_another_texts_output() -> None:
    model, hf = by.wrapped("llama"), by.plain("llama")
    other = [9, 8, 7, 6, 5, 4]
    data = ll.ablate_sweep(model, IDS, how="resample", reference=[other], draws=2, **TOKENS).data
    place = place_of(hf, "head", 1)
    value = by.kept(hf, other, [place])[place][0]
    assert float(data.metric[1, 2]) == pytest.approx(without(hf, "head", 1, 2, value), abs=2e-4)
    np.testing.assert_allclose(data.standard_error, 0, atol=1e-4)


def test_resampling_averages_over_draws_and_says_how_well() -> None:
    model = by.wrapped("llama")
    texts = [[9, 8, 7, 6, 5, 4], [44, 45, 46, 47, 48, 49]]
    how: dict[str, Any] = {"how": "resample", **TOKENS}
    ends = [ll.ablate_sweep(model, IDS, reference=[text], draws=1, **how).data for text in texts]
    both = ll.ablate_sweep(model, IDS, reference=texts, draws=8, seed=3, **how).data
    drawn = np.random.default_rng(3)
    picks = []
    for _ in range(8):
        picks.append(int(drawn.choice([0, 1])))
        drawn.integers(6, size=6)
    effects = np.array([ends[pick].effect.values for pick in picks])
    np.testing.assert_allclose(both.effect, effects.mean(0), atol=1e-4)
    error = effects.std(0, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(both.standard_error, error, atol=1e-4)


def test_what_is_put_back_changes_nothing() -> None:
    """Resampled from the same text, and the mean of a text at its own positions."""
    model = by.wrapped("gpt2")
    same = ll.ablate_sweep(model, IDS, how="resample", reference=[IDS], draws=2).data
    np.testing.assert_allclose(same.effect, 0, atol=2e-5)
    own = ll.ablate_sweep(model, IDS, reference=[IDS], by_position=True).data
    np.testing.assert_allclose(own.effect, 0, atol=2e-5)


def test_the_reference_is_said_in_words() -> None:
    model = by.wrapped("gpt2")
    words = {
        "the mean over the positions of the text itself": (IDS, {}),
        "the mean over the 2 texts given, all positions": ([IDS, IDS], {}),
        "the mean over 2 reference texts, all positions": (IDS, {"reference": REFERENCE}),
        "the output in a text drawn from the 2 texts given": (
            [IDS, IDS[:3]],
            {"how": "resample", "draws": 2},
        ),
        "zeros": (IDS, {"how": "zero"}),
    }
    for expected, (text, options) in words.items():
        data = ll.ablate_sweep(model, text, unit="attn", **options).data
        assert data.attrs["replaced_by"] == expected
        assert np.isfinite(data.effect).all()


def test_several_texts_have_a_mean_and_an_interval() -> None:
    model = by.wrapped("llama")
    texts = [IDS, [8, 9, 10, 11], [4, 30, 31, 32]]
    how: dict[str, Any] = {"unit": "mlp", "reference": REFERENCE, **TOKENS}
    data = ll.ablate_sweep(model, texts, **how).data
    assert data.effect.dims == ("batch", "layer")
    for row, text in enumerate(texts):
        alone = ll.ablate_sweep(model, text, **how).data
        np.testing.assert_allclose(data.effect[row], alone.effect, atol=1e-4)
    np.testing.assert_allclose(data.effect_mean, data.effect.values.mean(0), atol=1e-5)
    assert (data.effect_low <= data.effect_mean).all()
    assert (data.effect_high >= data.effect_mean).all()


def test_only_at_chosen_positions() -> None:
    model, hf = by.wrapped("gpt2"), by.plain("gpt2")
    data = ll.ablate_sweep(model, IDS, unit="mlp", how="zero", positions=[1, 2], **TOKENS).data
    for layer in range(3):
        put = by.putting(torch.zeros(2, 32), positions=[1, 2])
        expected = difference(by.run(hf, IDS, [(*place_of(hf, "mlp", layer), put)]))
        assert float(data.metric[layer]) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("method", ["naive", "restart", "packed"])
def test_every_way_to_run_gives_the_same(method: str) -> None:
    model = by.wrapped("llama")
    for unit in ("head", "layer"):
        auto = ll.ablate_sweep(model, IDS, unit=unit).data
        found = ll.ablate_sweep(model, IDS, unit=unit, method=method).data
        assert found.attrs["method"] == method
        np.testing.assert_allclose(found.effect, auto.effect, atol=1e-4)


def test_a_stop_keeps_finished_cells() -> None:
    options = {"method": "naive"}
    with pytest.raises(Cancelled) as caught:
        ll.ablate_sweep.run(by.wrapped("gpt2"), IDS, options, Recorder(stop_at=4))
    data = caught.value.partial.data  # type: ignore[union-attr]
    assert np.isfinite(data.effect[0]).all()
    assert np.isnan(data.effect[2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "heads"}, "'heads' is not known: did you mean 'head'"),
        ({"how": "average"}, "'average' is not known"),
        ({"how": "resample"}, "One text alone has nothing to be compared with"),
        ({"by_position": True}, "One text alone has nothing to be compared with"),
        ({"how": "resample", "reference": REFERENCE, "draws": 0}, "draws is 0"),
        ({"unit": "neuron", "neurons": [64]}, "Neuron 64 does not exist"),
        ({"unit": "neuron", "neurons": []}, "neurons is empty"),
        ({"neurons": [1]}, "neurons of ablate_sweep has an effect only with unit='neuron'"),
        ({"layers": [3]}, "Layer 3 does not exist"),
        ({"positions": []}, "names no position"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.ablate_sweep(by.wrapped("llama"), IDS, **options)


def test_work_is_counted_without_running() -> None:
    model = by.wrapped("gpt2")
    assert ll.ablate_sweep.work(model, IDS).head_rows == 3 * 4
    assert ll.ablate_sweep.work(model, IDS, how="resample", draws=3).head_rows == 3 * 3 * 4
    assert ll.ablate_sweep.work(model, IDS, unit="neuron", layers=[0]).head_rows == 128
