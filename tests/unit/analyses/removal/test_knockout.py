"""Attention knockout against masks in plain transformers, identities and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks as by
from ..by_hooks import FAMILIES, IDS
from ..lenses.test_logit_lens import Recorder

ANSWER = 7
SOURCES = {"pair": [1, 2], "first": 0, "own": 4}
BLOCKS = {"pair": [1, 2], "first": [0], "own": [4]}


def masked(family: str, query: int, keys: list[int], layers: range) -> torch.Tensor:
    """Last logits with the scores of some keys at the lowest number, in the mask of some layers."""
    hf = by.plain(family)

    def block(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[..., query, keys] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    for layer in layers:
        by.part(hf, layer, "attn").register_forward_pre_hook(block, with_kwargs=True)
    return by.run(hf, IDS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("query", "window"), [(-1, 2), (4, 1)])
def test_every_cell_equals_a_mask(family: str, query: int, window: int) -> None:
    result = ll.knockout(
        by.wrapped(family), IDS, sources=SOURCES, query=query, window=window, answer=ANSWER
    )
    data = result.data
    assert data.source.values.tolist() == list(SOURCES)
    plain = by.probability(by.run(by.plain(family), IDS), ANSWER)
    for layer in range(3):
        around = range(max(0, layer - window // 2), min(3, layer + (window + 1) // 2))
        for row, keys in enumerate(BLOCKS.values()):
            logits = masked(family, query % len(IDS), keys, around)
            expected = by.probability(logits, ANSWER)
            assert float(data.metric[row, layer]) == pytest.approx(expected, abs=1e-6)
            percent = 100 * (expected - plain) / plain
            assert float(data.percent_change[row, layer]) == pytest.approx(percent, abs=2e-3)
    np.testing.assert_allclose(data.change, data.metric - plain, atol=1e-6)
    assert [check for check in result.checks if not check.ok] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_without_other_positions_only_the_own_token_counts(family: str) -> None:
    """Blocked from all else, in all layers, the last position is a text of one token."""
    model = by.wrapped(family)
    how: dict[str, Any] = {"sources": {"rest": range(5)}, "window": 7, "layers": [1]}
    texts = [IDS, [*OTHERS, IDS[-1]]]
    found = [ll.knockout(model, text, answer=ANSWER, **how).data.metric.values for text in texts]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


OTHERS = [60, 61, 62, 63, 64]


def test_keys_after_the_query_are_not_seen_anyway() -> None:
    data = ll.knockout(by.wrapped("llama"), IDS, sources={"after": [4, 5]}, query=2, window=1).data
    np.testing.assert_array_equal(data.change, 0)
    assert data.attrs["complete"] == 1


def test_the_default_is_each_earlier_position_alone() -> None:
    data = ll.knockout(by.wrapped("gpt2"), IDS, query=3).data
    assert data.source.values.tolist() == ["0 [5]", "1 [17]", "2 [20]"]
    alone = ll.knockout(by.wrapped("gpt2"), IDS, query=3, sources={"x": 1}).data
    np.testing.assert_allclose(data.change[1], alone.change[0], atol=1e-6)


def test_a_subject_makes_the_groups_of_the_paper() -> None:
    model = by.wrapped("gpt2")
    data = ll.knockout(model, IDS, subject=[1, 2]).data
    same = {"subject": [1, 2], "other": [0, 3, 4], "last": -1}
    named = ll.knockout(model, IDS, sources=same).data
    assert data.source.values.tolist() == list(same)
    np.testing.assert_array_equal(data.change, named.change)


def test_several_texts_have_a_mean_and_an_interval() -> None:
    model = by.wrapped("llama")
    texts, subjects = [IDS, [8, 9, 10, 11], [4, 30, 31, 32]], [[1, 2], 1, [0, 2]]
    data = ll.knockout(model, texts, subject=subjects, window=1).data
    assert data.percent_change.dims == ("batch", "source", "layer")
    for row, text in enumerate(texts):
        alone = ll.knockout(model, text, subject=subjects[row], window=1).data
        np.testing.assert_allclose(data.percent_change[row], alone.percent_change, atol=1e-2)
    mean = data.percent_change.values.mean(0)
    np.testing.assert_allclose(data.percent_change_mean, mean, rtol=1e-5)
    assert (data.percent_change_low <= data.percent_change_mean + 1e-5).all()
    assert (data.percent_change_high >= data.percent_change_mean - 1e-5).all()


def test_default_sources_of_texts_of_unequal_length_leave_gaps() -> None:
    data = ll.knockout(by.wrapped("gpt2"), [[5, 17, 20], [5, 17]], window=1).data
    assert data.source.values.tolist() == ["0 [5]", "1 [17]"]
    assert np.isnan(data.change[1, 1]).all()
    assert data.attrs["complete"] == 1


def test_local_attention_is_never_left_blind() -> None:
    """With three positions in sight, blocking them leaves nothing: no number, and the reason."""
    model = LensModel.wrap(tiny_model("mistral", seed=1), None, name="local", prove=False)
    data = ll.knockout(model, IDS, sources={"near": [3, 4, 5], "far": [0, 1]}, window=1).data
    assert np.isnan(data.change[0]).all()
    np.testing.assert_allclose(data.change[1], 0, atol=1e-6)
    assert "see nothing but 'near'" in data.attrs["notes"]


@pytest.mark.parametrize("method", ["naive", "restart", "packed"])
def test_every_way_to_run_gives_the_same(method: str) -> None:
    model = by.wrapped("llama")
    auto = ll.knockout(model, IDS, sources=SOURCES).data
    found = ll.knockout(model, IDS, sources=SOURCES, method=method).data
    assert found.attrs["method"] == method
    np.testing.assert_allclose(found.change, auto.change, atol=1e-6)


def test_a_stop_keeps_finished_cells() -> None:
    options = {"sources": SOURCES, "method": "naive"}
    with pytest.raises(Cancelled) as caught:
        ll.knockout.run(by.wrapped("gpt2"), IDS, options, Recorder(stop_at=4))
    data = caught.value.partial.data  # type: ignore[union-attr]
    assert np.isfinite(data.change[0]).all()
    assert np.isnan(data.change[2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {"all": None}}, "holds every position that the query sees"),
        ({"sources": {"all": [0, 1]}, "query": 1}, "holds every position that the query sees"),
        ({"sources": [0, 1]}, "sources maps names to positions"),
        ({"sources": {}}, "sources maps names to positions"),
        ({"sources": {"x": 9}}, "Position 9 does not exist"),
        ({"query": 0}, "nothing before it to block"),
        ({"query": [1, 2]}, "query names 2 positions"),
        ({"window": 0}, "window is 0"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.knockout(by.wrapped("gpt2"), IDS, **options)


def test_work_is_counted_without_running() -> None:
    model = by.wrapped("gpt2")
    assert ll.knockout.work(model, IDS, sources=SOURCES).head_rows == 3 * 3
    assert ll.knockout.work(model, IDS).head_rows == 3 * (len(IDS) - 1)
    assert ll.estimate("knockout", model, IDS).passes > 2
