"""``ll.layer_metrics`` over a corpus: the same numbers as at once, stopped, resumed, broken."""

from __future__ import annotations

import copy
import errno
import json
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.measuring.layer_metrics import layer_metrics
from layerlens.corpus import sweep as sweeps
from layerlens.corpus.rows import Rows, shards
from layerlens.corpus.shard import batches
from layerlens.errors import ActivationError, Cancelled, InputError, ResultError
from layerlens.metrics import registry
from layerlens.metrics.base import LayerMetric
from layerlens.metrics.collection import MetricSet
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result

NAMES = ["residual_norm", "block_influence", "angular_distance"]
SMALL: dict[str, Any] = {"batch_tokens": 128}


class Listening(Silent):
    """Stops after so many questions; keeps the progress."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.asked = 0
        self.progress: list[tuple[int, int]] = []
        self._stop_after = stop_after

    def on_progress(self, done: int, total: int, what: str) -> None:
        self.progress.append((done, total))

    def cancelled(self) -> bool:
        self.asked += 1
        return self.asked > self._stop_after


class Interrupted:
    """Texts whose reader is interrupted, the first time, before text ``at``."""

    def __init__(self, texts: list[str], at: int) -> None:
        self.texts, self.at, self.times = texts, at, 0

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        for number, text in enumerate(self.texts):
            if number == self.at and self.times == 1:
                raise KeyboardInterrupt
            yield text


def largest_difference(a: Result, b: Result) -> float:
    assert list(a.data.data_vars) == list(b.data.data_vars)
    largest = 0.0
    for name in a.data.data_vars:
        one, other = a.data[name].values, b.data[name].values
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        largest = max(largest, float(np.nan_to_num(np.abs(one - other)).max(initial=0)))
    return largest


def test_a_corpus_is_measured_as_its_texts_at_once(toy: LensModel, corpus: list[str]) -> None:
    at_once = ll.layer_metrics(toy, corpus, NAMES)
    result = ll.layer_metrics(toy, ll.texts(corpus), NAMES, **SMALL)
    assert result.checks.ok
    assert largest_difference(at_once, result) < 1e-6
    attrs = result.data.attrs
    assert attrs["texts"] == attrs["rows"] == len(corpus)
    assert attrs["tokens"] == at_once.data.attrs["tokens"]
    assert attrs["tokens_counted"] == at_once.data.attrs["tokens_counted"]
    assert attrs["shards"] > 3
    assert result.code == "ll.layer_metrics(model, ll.texts(texts), metrics=[" + (
        ", ".join(map(repr, NAMES)) + "], batch_tokens=128)"
    )
    assert attrs["text"] == "ll.texts(texts)"


def test_sums_do_not_depend_on_the_sharding(toy: LensModel, corpus: list[str]) -> None:
    one = ll.layer_metrics(toy, ll.texts(corpus), NAMES, **SMALL)
    other = ll.layer_metrics(toy, ll.texts(corpus), NAMES, batch_tokens=300)
    assert one.data.attrs["shards"] != other.data.attrs["shards"]
    assert largest_difference(one, other) < 1e-6


def test_progress_counts_tokens(toy: LensModel, corpus: list[str]) -> None:
    hearing = Listening()
    result = layer_metrics.run(toy, ll.texts(corpus), {"metrics": NAMES, **SMALL}, hearing)
    done = [now for now, _ in hearing.progress]
    assert done == sorted(done)
    assert hearing.progress[-1] == (result.data.attrs["tokens"],) * 2
    # Read in equal shares of the texts, a fair part of the way tells the whole.
    halfway = hearing.progress[len(done) // 2][1]
    assert abs(halfway / done[-1] - 1) < 0.2
    unknown = Listening()
    layer_metrics.run(toy, ll.texts(iter(corpus)), {"metrics": NAMES, **SMALL}, unknown)
    assert {total for _, total in unknown.progress} == {0}


def test_resumed_after_an_interrupt_it_is_as_if_never_stopped(
    toy: LensModel, corpus: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    whole = ll.layer_metrics(toy, ll.texts(corpus), NAMES, **SMALL)
    texts = Interrupted(corpus, 70)
    with pytest.raises(Cancelled) as stopped:
        ll.layer_metrics(toy, ll.texts(texts), NAMES, checkpoint=path, **SMALL)
    partial = stopped.value.partial
    assert isinstance(partial, Result)
    assert 0 < partial.data.attrs["tokens"] < whole.data.attrs["tokens"]
    assert np.isfinite(partial.data["block_influence"]).all()
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    resumed = ll.layer_metrics(toy, ll.texts(texts), NAMES, checkpoint=path, **SMALL)
    assert resumed.data.attrs["tokens_resumed"] == partial.data.attrs["tokens"]
    assert any("came from the checkpoint" in n for n in json.loads(resumed.data.attrs["notes"]))
    assert largest_difference(whole, resumed) == 0
    for name in ("texts", "tokens", "tokens_counted", "passes", "shards"):
        assert resumed.data.attrs[name] == whole.data.attrs[name]
    again = ll.layer_metrics(toy, ll.texts(corpus), NAMES, checkpoint=path, **SMALL)
    assert again.data.attrs["tokens_resumed"] == whole.data.attrs["tokens"]
    assert largest_difference(whole, again) == 0


@pytest.mark.parametrize("stop_after", [1, 20, 41])
def test_stopped_in_the_middle_of_a_layer(
    toy: LensModel, corpus: list[str], tmp_path: Path, stop_after: int
) -> None:
    """What the layers before the stop have added is not counted twice."""
    how = {"metrics": NAMES, "checkpoint": tmp_path / "kept", **SMALL}
    with pytest.raises(Cancelled):
        layer_metrics.run(toy, ll.texts(corpus), how, Listening(stop_after))
    resumed = ll.layer_metrics(toy, ll.texts(corpus), **how)
    whole = ll.layer_metrics(toy, ll.texts(corpus), NAMES, **SMALL)
    assert largest_difference(whole, resumed) == 0


def test_every_metric_can_be_resumed(toy: LensModel, corpus: list[str], tmp_path: Path) -> None:
    names = [
        name
        for name, kind in registry.every().items()
        if issubclass(kind, LayerMetric) and kind.missing(toy) is None
    ]
    how: dict[str, Any] = {"checkpoint": tmp_path / "kept", **SMALL}
    with pytest.raises(Cancelled):
        ll.layer_metrics(toy, ll.texts(Interrupted(corpus[:40], 30)), names, **how)
    resumed = ll.layer_metrics(toy, ll.texts(corpus[:40]), names, **how)
    assert resumed.data.attrs["tokens_resumed"] > 0
    whole = ll.layer_metrics(toy, ll.texts(corpus[:40]), names, **SMALL)
    assert largest_difference(whole, resumed) == 0


def test_checkpoints_of_other_settings_are_refused(
    toy: LensModel, corpus: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    ll.layer_metrics(toy, ll.texts(corpus), NAMES, checkpoint=path, **SMALL)

    def refused(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            ll.layer_metrics(*args, checkpoint=path, **options)

    refused(
        "batch_tokens = 128, and this call has 64", toy, ll.texts(corpus), NAMES, batch_tokens=64
    )
    refused("with metrics = ", toy, ll.texts(corpus), NAMES[:2], **SMALL)
    refused("skip_first = 1", toy, ll.texts(corpus), NAMES, skip_first=False, **SMALL)
    refused("length = None", toy, ll.texts(corpus, length=30), NAMES, **SMALL)
    refused("add_bos = None", toy, ll.texts(corpus), NAMES, add_bos=False, **SMALL)
    refused("made with other texts", toy, ll.texts(["owl", *corpus]), NAMES, **SMALL)
    refused("made with other texts", toy, ll.texts(corpus[:20]), NAMES, **SMALL)
    other = copy.copy(toy)
    other.hf = copy.deepcopy(toy.hf)
    with torch.no_grad():
        next(other.hf.parameters()).mul_(1.001)
    refused("with weights = ", other, ll.texts(corpus), NAMES, **SMALL)


def test_files_that_are_no_checkpoint(toy: LensModel, corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"something else")
    with pytest.raises(ResultError, match="not a checkpoint"):
        ll.layer_metrics(toy, ll.texts(corpus), NAMES, checkpoint=path)
    assert path.read_bytes() == b"something else"
    for wrong in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(InputError, match="expected the name of a file in a folder"):
            ll.layer_metrics(toy, ll.texts(corpus), NAMES, checkpoint=wrong)


def test_a_full_disk_does_not_end_the_run(
    toy: LensModel, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    with pytest.raises(Cancelled):
        ll.layer_metrics(toy, ll.texts(Interrupted(corpus, 70)), NAMES, checkpoint=path, **SMALL)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sweeps, "SAVE_SECONDS", 0)
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(os, "fsync", full)
        result = ll.layer_metrics(toy, ll.texts(corpus), NAMES, checkpoint=path, **SMALL)
    assert ["the disk is full" in str(warning.message) for warning in caught] == [True]
    assert any("not up to date" in note for note in json.loads(result.data.attrs["notes"]))
    whole = ll.layer_metrics(toy, ll.texts(corpus), NAMES, **SMALL)
    assert largest_difference(whole, result) == 0
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


@pytest.fixture
def fragile(toy: LensModel) -> LensModel:
    """The toy with one word whose embedding is not finite."""
    model = copy.copy(toy)
    model.hf = copy.deepcopy(toy.hf)
    embedding: Any = model.hf.get_input_embeddings()
    with torch.no_grad():
        embedding.weight[toy.token_id("wolf")] = torch.nan
    return model


def test_texts_that_break_the_model_are_left_out_and_counted(
    fragile: LensModel, toy: LensModel, corpus: list[str]
) -> None:
    mixed = list(corpus)
    for number in (3, 4, 77):
        mixed.insert(number, "owl wolf fox")
    result = ll.layer_metrics(fragile, ll.texts(mixed), NAMES, **SMALL)
    kept = [text for text in mixed if "wolf" not in text]
    sound = ll.layer_metrics(toy, ll.texts(kept), NAMES, **SMALL)
    for name in NAMES:  # the intervals differ: texts have other numbers
        np.testing.assert_allclose(result.data[name], sound.data[name], atol=1e-6)
    assert result.data.attrs["rows_not_finite"] == 3
    assert [check.name for check in result.checks if not check.ok] == ["finite"]
    notes = json.loads(result.data.attrs["notes"])
    assert any("3 rows (12 tokens) were left out" in n and "3, 4, 77" in n for n in notes)


def test_a_model_that_is_broken_throughout_is_an_error(fragile: LensModel) -> None:
    with pytest.raises(ActivationError, match="NaN or infinity"):
        ll.layer_metrics(fragile, ll.texts(["wolf owl"] * 50), NAMES, **SMALL)


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def handler(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What an interrupt does, whatever the parent of the tests has set (nohup ignores it)."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_shards_are_merged_waits(
    toy: LensModel, corpus: list[str], handler: Any
) -> None:
    class Slow(MetricSet):
        def merge(self, other: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            super().merge(other)

    made = Slow.make(toy, NAMES)
    sweep = sweeps.Sweep(toy, ll.texts(corpus), made, **SMALL)
    if handler is signal.SIG_IGN:
        sweep.run()
        assert sweep.shards > 1
    else:
        with pytest.raises(KeyboardInterrupt):
            sweep.run()
        assert sweep.shards == 1
    assert sweep.found.metrics.tokens > 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_padding_is_kept_small(toy: LensModel, corpus: list[str]) -> None:
    fed = real = 0
    for shard in shards(Rows(ll.texts(corpus), toy), 512):
        made = list(batches(toy, shard.rows, 128))
        assert all(tokens.ids.numel() <= 128 for tokens, _ in made)
        assert sorted(n for _, numbers in made for n in numbers) == [r.number for r in shard.rows]
        fed += sum(tokens.ids.numel() for tokens, _ in made)
        real += shard.tokens
    assert fed < 1.25 * real


def test_long_rows_count_their_tokens(toy: LensModel) -> None:
    long = " ".join(["owl", "fox", "bee"] * 100)
    result = ll.layer_metrics(toy, ll.texts([long, "owl fox"]), NAMES, **SMALL)
    assert result.data.attrs["texts"] == 2
    assert result.data.attrs["rows"] == 4
    assert result.data.attrs["texts_split"] == 1
    assert result.data.attrs["tokens"] == 300 + 3 + 3
    assert "1 of 2 texts were split into rows at 128 tokens" in result.data.attrs["notes"]


def test_what_is_refused(toy: LensModel, corpus: list[str]) -> None:
    many = ll.texts(corpus)
    for options, message in [
        ({"batch_tokens": 1}, "batch_tokens is 1"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": "dask"}, "workers is 'dask'"),
        ({"batch_size": 4}, "give batch_tokens for a corpus"),
    ]:
        with pytest.raises(InputError, match=message):
            ll.layer_metrics(toy, many, NAMES, **options)
    with pytest.raises(InputError, match="checkpoint is for a corpus"):
        ll.layer_metrics(toy, corpus, NAMES, checkpoint="kept")
    with pytest.raises(InputError, match="no text with a token"):
        ll.layer_metrics(toy, ll.texts(["", " "]), NAMES)


def test_memory_does_not_grow_with_the_corpus(toy: LensModel, corpus: list[str]) -> None:
    sizes = []
    for times in (1, 10):
        made = MetricSet.make(toy, NAMES)
        sweep = sweeps.Sweep(toy, ll.texts(text for _ in range(times) for text in corpus), made)
        sweep.run()
        sizes.append(sum(array.nbytes for array in sweep.found.metrics.state()[0].values()))
    assert sizes[0] == sizes[1]
