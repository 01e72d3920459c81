"""A corpus on Ray workers: the same numbers, also when a worker is killed.

Ray and its workers take seconds to start, so one test starts them. In the others a worker stands in
this process, and all that it is given and says goes through Ray's own pickling.
"""

from __future__ import annotations

import builtins
import copy
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses.fitting import lens_quality
from layerlens.analyses.probing import examples
from layerlens.corpus import cluster as clusters
from layerlens.corpus.identity import build, parts_of
from layerlens.corpus.rows import Rows, shards
from layerlens.corpus.shard import MeasureRows
from layerlens.corpus.sweep import Sweep
from layerlens.corpus.worker import Worker
from layerlens.errors import InputError, LayerLensError
from layerlens.metrics.collection import MetricSet
from layerlens.model.fingerprint import fingerprint
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

ray = pytest.importorskip("ray")
pickled = pytest.importorskip("ray.cloudpickle")

NAMES = ["residual_norm", "block_influence"]


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[None]:
    clusters.start(2)
    yield
    ray.shutdown()


class Inline(clusters.Cluster[Any]):
    """A pool of one worker, in this process."""

    def __enter__(self) -> Inline:
        worker = Worker()
        source = (self._recipe, self._parts, self._dtype, self._weights)
        worker.load(*sent((source, self._task)))
        self._idle.append(worker)
        self._most = clusters.WINDOW
        return self

    def _hand_out(self, shard: Any) -> None:
        worker = self._idle.popleft()
        self._pending[shard.number] = (worker, shard)

    def _collect(self) -> list[Any]:
        if not self._pending:
            return []
        worker, shard = self._pending.popitem()[1]
        self._idle.append(worker)
        return [(shard, (sent(worker.run(sent(shard.rows))),))]

    def _close(self) -> None:
        pass


def sent(what: Any) -> Any:
    """What comes out of another process."""
    return pickle.loads(pickled.dumps(what))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "Cluster", Inline)


def swept(model: LensModel, texts: Any, **how: Any) -> Sweep:
    return Sweep(model, ll.texts(texts), MetricSet.make(model, NAMES), **how)


def require_same(one: Sweep, other: Sweep) -> None:
    ours, theirs = one.found.metrics, other.found.metrics
    assert (ours.texts, ours.tokens, ours.kept) == (theirs.texts, theirs.tokens, theirs.kept)
    assert (one.shards, one.found.passes) == (other.shards, other.found.passes)
    expected = theirs.values()
    for name, values in ours.values().items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("local_cluster")
def test_two_workers_agree_with_one_process_although_one_is_killed(
    toy: LensModel, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[clusters.Cluster] = []
    enter = clusters.Cluster.__enter__

    def watched(pool: clusters.Cluster) -> clusters.Cluster:
        pools.append(pool)
        return enter(pool)

    monkeypatch.setattr(clusters.Cluster, "__enter__", watched)
    sweep = swept(toy, corpus * 3, batch_tokens=64, workers="ray")
    seen: list[int] = []
    victim: list[int] = []
    merged: list[int] = []

    def kill() -> None:
        """Called while both workers have shards."""
        if victim and not seen:
            os.kill(victim[0], signal.SIGKILL)
            seen.append(victim[0])

    def note() -> None:
        merged.append(sweep.shards)
        if not victim:
            assert len(pools[0].workers) == 2
            victim.append(ray.get(pools[0].workers[0].pid.remote()))

    sweep.run(kill, note)
    assert seen and seen != [os.getpid()]
    assert sweep.restarts == 1
    assert any("1 workers were lost" in remark for remark in sweep.remarks)
    assert merged == list(range(1, sweep.shards + 1))
    alone = swept(toy, corpus * 3, batch_tokens=64)
    alone.run()
    require_same(sweep, alone)


@pytest.mark.usefixtures("inline")
def test_a_model_in_memory_is_sent_and_the_result_is_the_same() -> None:
    model = LensModel.wrap(tiny_model("gpt2", seed=3).to(torch.bfloat16), prove=False)
    texts = np.random.default_rng(0).integers(0, model.d_vocab, (12, 9)).tolist()
    result = ll.layer_metrics(model, ll.texts(texts), NAMES, batch_tokens=32, workers=1)
    here = ll.layer_metrics(model, ll.texts(texts), NAMES, batch_tokens=32)
    for name in NAMES:
        np.testing.assert_allclose(result.data[name], here.data[name], rtol=1e-6)
    assert result.checks.ok
    assert "workers=1" in result.code


CALLS: dict[str, Callable[..., Any]] = {
    "layer_metrics": lambda m, t, **how: ll.layer_metrics(
        m, ll.texts(t), ["cka"], batch_tokens=64, **how
    ),
    "probe": lambda m, t, **how: ll.probe(m, t, firsts(t), folds=3, untrained=False, **how),
    "probe of each token": lambda m, t, **how: ll.probe(
        m, t, [[None, *(word[0] < "f" for word in text.split())] for text in t],
        position="each", folds=3, kind="mean_difference", **how,
    ),
    "layer_mix": lambda m, t, **how: ll.layer_mix(m, t, firsts(t), folds=3, **how),
    "state_map": lambda m, t, **how: ll.state_map(m, t, firsts(t), **how),
    "aligned_pairs": lambda m, t, **how: ll.aligned_pairs(
        m, t, [text.split()[0] + " owl" for text in t], untrained=False, **how
    ),
    "lens_quality": lambda m, t, **how: ll.lens_quality(
        m, t, lens=ll.fit_lens(m, t[:8], kind="bias"), transfer=True, **how
    ),
}  # fmt: skip


def firsts(texts: list[str]) -> list[str]:
    return ["early" if text < "f" else "late" for text in texts]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("inline")
def test_workers_give_what_one_process_gives_to_the_bit(
    name: str, toy: LensModel, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[int] = []
    hand_out = Inline._hand_out

    def counted(pool: Inline, shard: Any) -> None:
        handed.append(shard.number)
        hand_out(pool, shard)

    monkeypatch.setattr(Inline, "_hand_out", counted)
    monkeypatch.setattr(examples, "BATCH_TOKENS", 64)
    monkeypatch.setattr(lens_quality, "BATCH_TOKENS", 64)
    there, here = CALLS[name](toy, corpus[:60], workers=1), CALLS[name](toy, corpus[:60])
    assert handed[:2] == [0, 1], "more than one shard, or nothing is merged"
    assert there.checks.ok
    assert "workers=1" in there.code
    for variable, values in here.data.data_vars.items():
        np.testing.assert_array_equal(there.data[variable], values, err_msg=str(variable))


def test_analyses_without_workers_refuse_them(toy: LensModel, corpus: list[str]) -> None:
    with pytest.raises(InputError, match="'workers' is not known"):
        ll.fit_lens(toy, corpus, workers=2)
    with pytest.raises(InputError, match="expected None, a number of workers or 'ray'"):
        ll.probe(toy, corpus, firsts(corpus), workers=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mamba"])
def test_a_model_is_built_again_from_its_parts(family: str) -> None:
    hf = tiny_model(family, seed=1)
    model = LensModel.wrap(hf, prove=False)
    assert model.recipe is None
    built = build(*parts_of(model), model.dtype)
    assert fingerprint(LensModel.wrap(built, prove=False)) == fingerprint(model)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        torch.testing.assert_close(built(ids).logits, hf(ids).logits, rtol=0, atol=0)


def test_a_model_that_was_changed_after_loading_is_noticed(toy: LensModel) -> None:
    assert toy.recipe is not None
    assert toy.recipe["source"] == "toy:induction"
    task = MeasureRows(MetricSet.make(toy, NAMES), 64)
    Worker().load((toy.recipe, None, "float32", fingerprint(toy)), task)
    changed = copy.copy(toy)
    changed.hf = copy.deepcopy(toy.hf)
    with torch.no_grad():
        next(changed.hf.parameters())[0] += 1
    with pytest.raises(LayerLensError, match="changed after loading"):
        Worker().load((toy.recipe, None, "float32", fingerprint(changed)), task)


def test_a_shard_that_kills_every_worker_is_given_up(toy: LensModel, corpus: list[str]) -> None:
    class Deadly(clusters.Cluster[Any]):
        """A pool whose workers die at each shard."""

        def _hire(self) -> None:
            self.workers.append(object())
            self._idle.extend(self.workers[-1:])

        def _hand_out(self, shard: Any) -> None:
            self._pending[shard.number] = (self._idle.popleft(), shard)

        def _collect(self) -> list[Any]:
            (worker, shard) = self._pending.popitem()[1]
            self._replace(worker)
            return [(shard, ())]

    pool = Deadly(toy, MeasureRows(MetricSet.make(toy, NAMES), 64), 1)
    pool._most = 1
    pool._hire()
    with pytest.raises(LayerLensError, match="3 workers died over rows 0 to"):
        list(pool.run(shards(Rows(ll.texts(corpus), toy), 64), lambda: None))
    assert pool.restarts == 3


def test_without_ray(toy: LensModel, corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'jupyter-layerlens\[ray\]'"):
        ll.layer_metrics(toy, ll.texts(corpus), NAMES, workers=2)


def test_ray_that_does_not_start_is_tried_again(
    toy: LensModel, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict[str, Any]] = []

    def fails(**options: Any) -> None:
        tried.append(options)
        raise RuntimeError("timed out")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(LayerLensError, match=r"Ray did not start \(timed out\)"):
        ll.layer_metrics(toy, ll.texts(corpus), NAMES, workers=2)
    assert [options["num_cpus"] for options in tried] == [2] * clusters.TRIES


def test_models_that_cannot_be_sent() -> None:
    model = LensModel.wrap(tiny_model("llama"), prove=False)
    model.hf.is_quantized = True
    with pytest.raises(InputError, match="load it by its name or folder"):
        parts_of(model)
