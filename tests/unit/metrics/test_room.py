"""What holds for every metric: padding, merging, stored states, bad input, the table."""

from __future__ import annotations

import json

import measuring
import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import Cancelled, InputError, LayerLensError, SiteError
from layerlens.metrics import registry
from layerlens.metrics.base import LayerMetric, ModelShape
from layerlens.metrics.batch import GROUPS, Batch, split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.means import TokenMean, bootstrap, ratio
from layerlens.metrics.runner import run_metrics
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

NAMES = [name for name, kind in registry.every().items() if issubclass(kind, LayerMetric)]
STREAM = [
    *("residual_norm", "attn_norm", "mlp_norm", "block_norm", "attn_ratio", "mlp_ratio"),
    *("block_ratio", "attn_cosine", "mlp_cosine", "block_cosine", "block_influence"),
    *("attn_influence", "mlp_influence", "angular_distance", "variance_growth"),
    *("massive_activations", "voids"),
]


@pytest.mark.parametrize("family", measuring.FAMILIES)
@pytest.mark.parametrize("skip_first", [False, True])
def test_padding_is_no_padding(family: str, skip_first: bool) -> None:
    names = [name for name in STREAM if name not in ("variance_growth", "voids")]
    measuring.assert_padding_is_nothing(measuring.tiny(family), names, skip_first=skip_first)


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_merged_is_single(family: str) -> None:
    measuring.assert_merged_is_single(measuring.tiny(family), STREAM)


def test_many_texts_share_groups_and_still_merge() -> None:
    model = measuring.tiny("llama")
    texts = [[i % 40, (7 * i) % 40, (3 * i) % 40] for i in range(GROUPS + 30)]
    batches = split(model.tokens(texts), 16)
    single = measuring.gather(model, STREAM, batches)
    first = measuring.gather(model, STREAM, batches[::2])
    first.merge(measuring.gather(model, STREAM, batches[1::2]))
    measuring.assert_same(first.values(), single.values(), rtol=1e-9)


def test_order_of_layers_texts_and_numbers_do_not_matter() -> None:
    model = measuring.tiny("gpt2")
    batches = split(model.tokens(measuring.TEXTS), 1)
    forth = measuring.gather(model, STREAM, batches).values()
    back = measuring.gather(model, STREAM, batches[::-1]).values()
    measuring.assert_same(forth, back)


def test_the_model_is_left_as_it_was() -> None:
    model = measuring.tiny("llama")
    before = [parameter.clone() for parameter in model.hf.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    measuring.measure(model, STREAM)

    def stop() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        run_metrics(model, split(model.tokens([1, 2, 3])), MetricSet.make(model, STREAM), tick=stop)
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    assert hooks == after
    assert all(map(torch.equal, before, model.hf.parameters()))


def test_a_stopped_pass_leaves_nothing_behind_in_the_next() -> None:
    model = measuring.tiny("llama")
    whole, stopped = (MetricSet.make(model, ["voids", "angular_distance"]) for _ in range(2))
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 2:
            raise Cancelled("stop")

    batches = split(model.tokens(measuring.TEXTS), 1)
    part = stopped.empty()
    with pytest.raises(Cancelled):
        run_metrics(model, batches, part, tick=stop)
    for metric in part.metrics:  # as if nothing had been counted: only what a batch leaves behind
        for array in metric.arrays.values():
            array[...] = 0
    run_metrics(model, batches, part)
    run_metrics(model, batches, whole)
    measuring.assert_same(part.values(), whole.values())


def test_one_token_more_or_less_is_skipped() -> None:
    model = measuring.tiny("llama")
    batch = Batch(model.tokens([[1, 2, 3, 4], [5, 6]]), [0, 1], skip_first=2)
    assert batch.kept.ids.tolist() == [3, 4]
    assert batch.kept.text.tolist() == [0, 0]
    assert batch.kept.position.tolist() == [2, 3]
    assert batch.kept.counts.tolist() == [2, 0]
    assert list(batch.kept.rows()) == [(0, slice(0, 2))]
    assert batch.every.ids.tolist() == [1, 2, 3, 4, 5, 6]


def test_keys_depend_on_text_and_position_alone() -> None:
    model = measuring.tiny("llama")
    texts = [[1, 2, 3, 4], [5, 6]]
    together = Batch(model.tokens(texts, padding_side="left"), [10, 11]).keys
    apart = [Batch(model.tokens([text]), [10 + i]).keys for i, text in enumerate(texts)]
    assert np.array_equal(together, np.concatenate(apart))
    many = Batch(model.tokens([[1] * 50] * 40), range(40)).keys
    assert len(set(many.tolist())) == 2000
    uniform = many / 2**64
    assert abs(uniform.mean() - 0.5) < 4 / np.sqrt(12 * 2000)


def test_split_trims_padding_and_keeps_order() -> None:
    model = measuring.tiny("llama")
    batches = split(model.tokens(measuring.TEXTS, padding_side="left"), 2)
    assert [tokens.ids.shape for tokens, _ in batches] == [(2, 7), (2, 10)]
    assert [list(numbers) for _, numbers in batches] == [[0, 1], [2, 3]]
    rows = [row[mask].tolist() for t, _ in batches for row, mask in zip(t.ids, t.mask, strict=True)]
    assert rows == measuring.TEXTS
    assert len(split(model.tokens(measuring.TEXTS), most_tokens=14)) == 3
    with pytest.raises(InputError, match="batch_size is 0"):
        split(model.tokens([1]), 0)


def test_intervals_resample_texts() -> None:
    """Of means of ``n`` normal numbers, the interval is nearly 1.96 standard errors wide."""
    rng = np.random.default_rng(3)
    sums = rng.normal(5, 2, size=(GROUPS, 3))
    low, high = bootstrap(ratio, {"sum": sums, "count": np.ones((GROUPS, 3))})
    error = sums.std(0, ddof=1) / np.sqrt(GROUPS)
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.1)
    assert ((low < sums.mean(0)) & (sums.mean(0) < high)).all()


def test_intervals_of_few_texts() -> None:
    """With one text there is none; texts that are all alike leave nothing open."""
    model = measuring.tiny("llama")
    one = measuring.measure(model, "block_ratio", [[1, 2, 3]])
    assert np.isnan(one["block_ratio_low"]).all()
    alike = measuring.measure(model, "block_ratio", [[1, 2, 3]] * 4)
    np.testing.assert_allclose(alike["block_ratio_low"], alike["block_ratio_high"], rtol=1e-6)
    np.testing.assert_allclose(alike["block_ratio"], one["block_ratio"], rtol=1e-6)


def test_states_survive_json_and_refuse_what_does_not_fit() -> None:
    model = measuring.tiny("llama")
    metrics = measuring.gather(model, STREAM, split(model.tokens(measuring.TEXTS)))
    arrays, about = metrics.state()
    again = MetricSet.from_state(arrays, json.dumps(json.loads(about)))
    measuring.assert_same(again.values(), metrics.values())
    with pytest.raises(InputError, match="of another shape"):
        MetricSet.from_state({**arrays, "residual_norm.sum": np.zeros(3)}, about)
    with pytest.raises(InputError, match="format 99"):
        MetricSet.from_state(arrays, about.replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="cannot be merged"):
        metrics.merge(MetricSet.make(model, STREAM, skip_first=False))
    low, high = (
        MetricSet.make(model, "voids", options={"voids": {"alpha": alpha}}) for alpha in (0.5, 0.8)
    )
    with pytest.raises(InputError, match="cannot be merged"):
        low.merge(high)


def test_the_table_says_everything_of_each() -> None:
    table = ll.metrics()
    assert set(STREAM) <= set(table.index)
    assert list(table.columns) == [
        *("family", "question", "units", "axes", "cost", "source", "formula")
    ]
    assert (table.map(len) > 0).all().all()
    for name, kind in registry.every().items():
        assert next(iter(kind.outputs)) == name
        assert kind.outputs[name].axes == kind.axes
        assert all(other == name or other.startswith(f"{name}_") for other in kind.outputs)
        assert not any(other.endswith(("_low", "_high")) for other in kind.outputs)
        assert kind.question.endswith(("?", ")")), name


def test_misspelt_names_and_options() -> None:
    model = measuring.tiny("llama")
    with pytest.raises(InputError, match="did you mean 'residual_norm'"):
        MetricSet.make(model, "residul_norm")
    with pytest.raises(InputError, match="No metric was asked for"):
        MetricSet.make(model, [])
    with pytest.raises(InputError, match="'beta' of voids is not known: it has alpha"):
        MetricSet.make(model, "voids", options={"voids": {"beta": 1}})
    with pytest.raises(InputError, match="not asked for"):
        MetricSet.make(model, "voids", options={"residual_norm": {}})
    with pytest.raises(InputError, match="alpha is 2"):
        MetricSet.make(model, "voids", options={"voids": {"alpha": 2}})
    with pytest.raises(InputError, match="give one each"):
        Batch(model.tokens([1, 2]), [0, 1])


def test_a_model_without_the_part_says_why() -> None:
    mamba = LensModel.wrap(tiny_model("mamba", seed=1), None, name="tiny mamba", prove=False)
    with pytest.raises(SiteError, match="mlp_ratio cannot be measured in tiny mamba"):
        MetricSet.make(mamba, "mlp_ratio")
    values = measuring.measure(mamba, ["attn_ratio", "block_ratio", "attn_influence"])
    np.testing.assert_allclose(values["attn_ratio"], values["block_ratio"], rtol=1e-5)
    assert (values["attn_influence"] > 0).all()


def test_nan_in_the_stream_is_an_error() -> None:
    model = measuring.planted(8, [lambda h: h, lambda h: h * float("nan")])
    with pytest.raises(LayerLensError, match="NaN or infinity after layer 1"):
        measuring.measure(model, "residual_norm")


def test_a_metric_of_ones_own() -> None:
    """The class of the contract's example, without registering it."""

    class Largest(TokenMean):
        name, question, formula, units = "largest", "How large?", "mean max |post|", "activation"
        source, parts = "none", ("post",)

        def measure(self, layer):  # type: ignore[no-untyped-def]
            return layer.rows("post").abs().amax(-1)

    model = measuring.tiny("llama")
    metrics = MetricSet(ModelShape.of(model), [Largest(ModelShape.of(model))], 0)
    run_metrics(model, split(model.tokens(measuring.TEXTS)), metrics)
    naive = [measuring.states(model, text)[1:] for text in measuring.TEXTS]
    expected = [torch.cat([s[i].abs().amax(-1) for s in naive]).mean() for i in range(3)]
    np.testing.assert_allclose(metrics.values()["largest"], expected, rtol=1e-5)
