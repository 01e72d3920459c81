"""Shards on a Ray cluster: handed out, collected in their order, and redone when a worker dies."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from layerlens.corpus.identity import parts_of
from layerlens.corpus.rows import Shard
from layerlens.corpus.spread import Answer
from layerlens.corpus.worker import Worker
from layerlens.errors import InputError, LayerLensError
from layerlens.model.fingerprint import fingerprint

if TYPE_CHECKING:
    from layerlens.corpus.spread import Task
    from layerlens.model.lensmodel import LensModel

AHEAD = 2
"""Shards that a worker is given at once, so that it need not wait for the next."""

WINDOW = 4
"""For each worker, how many shards may be under way or waiting for an earlier one: this and no
more is held in memory."""

TRIES = 3
"""How often a shard is given out before it is held to kill its workers, and Ray is started."""

POLL_SECONDS = 0.2


class Cluster(Generic[Answer]):
    """Ray workers that have loaded a model; a context manager that lets go of them.

    A worker loads the model from where ``ll.load`` found it. A model that was given in memory is
    sent: its parameters lie once in Ray's object store on each machine, and once in each worker.
    The corpus is read here and nowhere else; workers get rows of token ids.

    Parameters
    ----------
    model
        Which is run.
    task
        What is done to the rows of each shard; see `layerlens.corpus.spread`.
    workers
        How many on this machine; ``"ray"``: as many as the cluster has processors (graphics
        cards, for a model on one), or this machine where no cluster is known.

    Attributes
    ----------
    restarts
        Workers that died and were replaced.

    Raises
    ------
    InputError
        When Ray is not installed, or the model cannot be sent.
    """

    def __init__(self, model: LensModel, task: Task[Answer], workers: int | str) -> None:
        self._ray = _ray()
        self._task = task
        self._recipe = model.recipe
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._weights = fingerprint(model)
        self._gpu = model.device.type == "cuda"
        self._asked = workers
        self._parts = None if self._recipe is not None else parts_of(model)
        self._started = False
        self._deaths = 0  # since a worker last did something
        self.workers: list[Any] = []
        self._idle: deque[Any] = deque()
        self._pending: dict[Any, tuple[Any, Shard | None]] = {}
        self.restarts = 0

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            start(self._asked if isinstance(self._asked, int) else None)
            self._started = True
        try:
            self._args = ray.put((self._recipe, self._parts, self._dtype, self._weights))
            self._sent = ray.put(self._task)
            count = self._count()
            self._most = WINDOW * count
            for _ in range(count):
                self._hire()
        except BaseException:
            self._close()
            raise
        return self

    def _count(self) -> int:
        if isinstance(self._asked, int):
            return self._asked
        kind = "GPU" if self._gpu else "CPU"
        found = int(self._ray.cluster_resources().get(kind, 0))
        if not found:
            raise InputError(f"The Ray cluster has no {kind}: give workers=None.")
        return found

    def _hire(self) -> None:
        """Start a worker and have it load the model."""
        resources = {"num_cpus": 1, "num_gpus": 1 if self._gpu else 0}
        worker = self._ray.remote(Worker).options(**resources).remote()
        self.workers.append(worker)
        self._pending[worker.load.remote(self._args, self._sent)] = (worker, None)

    def run(
        self, shards: Iterator[Shard], tick: Callable[[], None]
    ) -> Generator[tuple[Shard, Answer], None, None]:
        """Hand shards out to all workers.

        Yields
        ------
        shard, Answer
            In the order of the shards, each once.

        Raises
        ------
        LayerLensError
            When workers die over a shard again and again, or cannot load the model.
        """
        again: deque[Shard] = deque()
        ready: dict[int, tuple[Shard, Answer]] = {}
        tries: Counter[int] = Counter()  # of the shards handed out and not yielded
        turn: int | None = None
        ended = False
        while tries or not ended:
            while self._idle and (again or (not ended and len(tries) < self._most)):
                shard = again.popleft() if again else next(shards, None)
                if shard is None:
                    ended = True
                    break
                turn = shard.number if turn is None else turn
                tries[shard.number] += 1
                self._hand_out(shard)
            tick()
            for shard, found in self._collect():
                if found:
                    ready[shard.number] = (shard, *found)
                elif tries[shard.number] < TRIES:
                    again.append(shard)
                else:
                    raise LayerLensError(_deadly(shard))
            while turn in ready:
                yield ready.pop(turn)
                del tries[turn]
                turn += 1

    def _hand_out(self, shard: Shard) -> None:
        worker = self._idle.popleft()
        self._pending[worker.run.remote(shard.rows)] = (worker, shard)

    def _collect(self) -> list[tuple[Shard, tuple[()] | tuple[Answer]]]:
        """What has come back by now; nothing for a shard whose worker died."""
        ray = self._ray
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=POLL_SECONDS)
        found: list[tuple[Shard, tuple[()] | tuple[Answer]]] = []
        for ref in done:
            worker, shard = self._pending.pop(ref)
            answer: tuple[()] | tuple[Answer] = ()
            try:
                answer = (ray.get(ref),)
            except ray.exceptions.RayActorError:
                self._replace(worker)
            except ray.exceptions.RayTaskError as error:
                raise _said(error) from error
            else:
                self._deaths = 0
                self._idle.extend([worker] * (AHEAD if shard is None else 1))
            if shard is not None:
                found.append((shard, answer))
        return found

    def _replace(self, worker: Any) -> None:
        """Put a new worker in the place of a dead one, once."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        while worker in self._idle:
            self._idle.remove(worker)
        self.restarts += 1
        self._deaths += 1
        if self._deaths > TRIES * (len(self.workers) + 1):
            raise LayerLensError(
                "Workers die before they have measured anything, perhaps for want of memory: give "
                "fewer workers, or workers=None."
            )
        self._hire()

    def _close(self) -> None:
        for worker in self.workers:
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()


def start(workers: int | None) -> None:
    """Start Ray on this machine for so many workers; None: join the cluster that is known, if any.

    Raises
    ------
    LayerLensError
        When Ray does not come up. A busy machine is given more than one chance, as Ray itself
        waits for its parts for no more than 15 s each.
    """
    ray = _ray()
    # Ray would report how it is used to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    where = {} if workers is None else {"address": "local", "num_cpus": workers}
    for attempt in range(1, TRIES + 1):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **where)
            return
        except Exception as error:  # what Ray raises when it times out is no class of its own
            ray.shutdown()
            if attempt == TRIES:
                raise LayerLensError(
                    f"Ray did not start ({error}): look at its logs, or leave workers out."
                ) from error


def _deadly(shard: Shard) -> str:
    first, last = shard.rows[0].number, shard.rows[-1].number
    return (
        f"{TRIES} workers died over rows {first} to {last}, perhaps for want of memory: give "
        "fewer workers, or of layer_metrics a smaller batch_tokens."
    )


def _said(error: Any) -> LayerLensError:
    """The error of a worker as one of this process."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LayerLensError):
        return cause
    return LayerLensError(f"A worker failed: {type(cause).__name__}: {cause}")


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "workers= needs Ray: pip install 'jupyter-layerlens[ray]', or leave workers out to "
            "measure in this process."
        ) from None
    return ray
