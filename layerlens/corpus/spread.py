"""One task over many rows: shard by shard in this process, or spread over Ray workers.

A task is what an analysis does to the rows of a shard. Its answers come back in the order of the
shards, each once, whoever made them; merged in that order they are to the bit those of one process.
It is sent to workers, so it holds options and no model: that is what it is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row, Shard
    from layerlens.model.lensmodel import LensModel

Answer = TypeVar("Answer")
Made = TypeVar("Made", covariant=True)

Workers = int | str | None
"""None: this process; so many Ray workers on this machine; ``"ray"``: as many as there is room."""


class Task(Protocol[Made]):
    """What is done to the rows of a shard."""

    def __call__(
        self,
        model: LensModel,
        rows: Sequence[Row],
        tick: Callable[[], None],
        on_pass: Callable[[int], None],
        /,
    ) -> Made:
        """Do it; ``tick`` may raise to stop, ``on_pass`` is told the tokens of each pass."""


class Spread(Generic[Answer]):
    """A task over shards.

    Parameters
    ----------
    model
        Which is run.
    task
        What is done to each shard.
    workers
        Who does it.

    Attributes
    ----------
    restarts
        Workers that were lost and replaced.

    Raises
    ------
    InputError
        When ``workers`` is none of what it may be.

    Examples
    --------
    >>> import layerlens as ll
    >>> from layerlens.corpus.rows import Row, shards
    >>> def count(model, rows, tick, on_pass):
    ...     return sum(len(row.ids) for row in rows)
    >>> cut = shards([Row(0, [1, 2, 3]), Row(1, [4]), Row(2, [5, 6])], tokens=4)
    >>> [found for _, found in Spread(ll.load("toy:induction"), count, None).run(cut)]
    [4, 2]
    """

    def __init__(self, model: LensModel, task: Task[Answer], workers: Workers) -> None:
        self._model, self._task, self._workers = model, task, checked(workers)
        self.restarts = 0

    def run(
        self,
        shards: Iterator[Shard],
        tick: Callable[[], None] = lambda: None,
        on_pass: Callable[[int], None] = lambda tokens: None,
    ) -> Generator[tuple[Shard, Answer], None, None]:
        """Yield each shard with what came of it, in their order.

        Parameters
        ----------
        shards
            Read as there is room for them.
        tick
            Called often; may raise to stop.
        on_pass
            Told the tokens of each pass that is made in this process.

        Raises
        ------
        InputError
            When Ray is not installed, or the model cannot be sent.
        LayerLensError
            When workers die over a shard again and again, or cannot load the model.
        """
        if self._workers is None:
            for shard in shards:
                yield shard, self._task(self._model, shard.rows, tick, on_pass)
            return
        from layerlens.corpus.cluster import Cluster

        with Cluster(self._model, self._task, self._workers) as ray:
            for pair in ray.run(shards, tick):
                self.restarts = ray.restarts
                yield pair

    @property
    def remarks(self) -> list[str]:
        """Sentences on what happened, for the reader of the result."""
        if not self.restarts:
            return []
        return [f"{self.restarts} workers were lost; their shards were measured again"]


def checked(workers: Workers) -> Workers:
    """Who works, as it was asked.

    Raises
    ------
    InputError
        When it is none of ``Workers``.
    """
    number = isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1
    if workers is not None and workers != "ray" and not number:
        raise InputError(f"workers is {workers!r}; expected None, a number of workers or 'ray'.")
    return workers
