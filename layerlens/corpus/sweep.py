"""Measure a corpus shard by shard, keep what is done, and go on where an earlier call stopped."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from layerlens.corpus import checkpoint as files
from layerlens.corpus.identity import settings_of
from layerlens.corpus.rows import SHARD_BATCHES, Rows, Shard, shards
from layerlens.corpus.shard import Measured, MeasureRows
from layerlens.corpus.spread import Spread, Workers
from layerlens.errors import ActivationError, InputError, ResultError

if TYPE_CHECKING:
    import os
    from types import FrameType

    from layerlens.corpus.texts import Texts
    from layerlens.metrics.collection import MetricSet
    from layerlens.model.lensmodel import LensModel

BATCH_TOKENS = 2048
SAVE_SECONDS = 30.0
"""How often a checkpoint is written."""


class Sweep:
    """One call over a corpus.

    Parameters
    ----------
    model, texts
        What is measured, and over what.
    metrics
        Empty ones; they are not changed.
    batch_tokens
        Most tokens in one pass, padding included.
    workers
        None for this process, a number of Ray workers on this machine, or ``"ray"`` for as many
        as the cluster has room for.
    checkpoint
        File to go on from and to keep what is done in.

    Attributes
    ----------
    found
        What was measured so far: always whole shards, the first ones.
    resumed
        Tokens that came from the checkpoint.
    remarks
        What a reader of the result should know.
    """

    def __init__(
        self,
        model: LensModel,
        texts: Texts,
        metrics: MetricSet,
        *,
        batch_tokens: int | None = None,
        workers: Workers = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model, self.texts = model, texts
        self.batch_tokens = _batch_tokens(batch_tokens)
        self._spread = Spread(model, MeasureRows(metrics.empty(), self.batch_tokens), workers)
        self.rows = Rows(texts, model, self.batch_tokens)
        self.found = Measured(metrics.empty())
        self.resumed = self.shards = 0
        self._total = self._under_way = 0
        self._progress: Callable[[int, int], None] = lambda done, total: None
        self._digest = hashlib.blake2b(digest_size=16)
        self._path = files.checked(checkpoint)
        self._settings = {} if self._path is None else self._all_settings(metrics)
        self._saved = time.monotonic()
        self._unsaved = ""

    def _all_settings(self, metrics: MetricSet) -> dict[str, Any]:
        """Everything that the numbers depend on, but the texts: these are known by their hash."""
        about = json.loads(metrics.state()[1])
        return {
            **settings_of(self.model),
            "metrics": about["metrics"],
            "skip_first": about["skip_first"],
            "batch_tokens": self.batch_tokens,
            "add_bos": self.texts.add_bos,
            **asdict(self.texts.reading),
        }

    def run(
        self,
        tick: Callable[[], None] = lambda: None,
        on_shard: Callable[[], None] = lambda: None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Measure what is not measured yet.

        Parameters
        ----------
        tick
            Called often; may raise to stop.
        on_shard
            Called when one more shard is in ``found``.
        on_progress
            Called with the tokens done, and those of the whole corpus as the share of it that was
            read suggests; 0 where its size is not known.

        Raises
        ------
        InputError
            When the checkpoint is of other settings or texts, or no text has a token.
        ActivationError
            When no text of the first shard has finite activations.
        """
        self._progress = on_progress
        remaining = self._read()
        self._resume(remaining, tick)
        try:
            with closing(self._spread.run(remaining, tick, self._on_pass)) as measured:
                for shard, part in measured:
                    self._take(shard, part)
                    self._tell()
                    on_shard()
        finally:
            if self.shards and self._path is not None:
                self._save()
        if not self.rows.counts.texts:
            raise InputError("The corpus has no text with a token: check its field and its limit.")

    def _read(self) -> Iterator[Shard]:
        """Read shard by shard, and reckon from each how long the corpus is."""
        read = 0
        for shard in shards(self.rows, SHARD_BATCHES * self.batch_tokens):
            read += shard.tokens
            self._total = round(read / shard.share) if shard.share else 0
            yield shard

    def _on_pass(self, tokens: int) -> None:
        self._under_way += tokens
        self._tell()

    def _tell(self) -> None:
        # Rows that are measured twice to find a broken one must not lead beyond the end.
        done = self.tokens + self._under_way
        self._progress(min(done, self._total or done), self._total)

    def _take(self, shard: Shard, part: Measured) -> None:
        if not self.shards and len(part.broken) == len(shard.rows):
            raise ActivationError(part.reason)
        with _whole():
            self.found.merge(part)
            self._digest.update(shard.content())
            self.shards = shard.number + 1
            self._under_way = 0
        if self._path is not None and time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _resume(self, remaining: Iterator[Shard], tick: Callable[[], None]) -> None:
        """Pass over the shards that the checkpoint holds, which have to be the same."""
        saved = None if self._path is None else files.read(self._path, self._settings)
        if saved is None:
            return
        while self.shards < saved.shards and (shard := next(remaining, None)) is not None:
            tick()
            self._digest.update(shard.content())
            self.shards = shard.number + 1
            self.resumed += shard.tokens
        if self._digest.hexdigest() != saved.digest:
            raise InputError(
                f"The checkpoint '{self._path}' was made with other texts: the first "
                f"{self.resumed:,} tokens differ; call with the same texts, or give another file."
            )
        self.found = saved.found
        self._tell()

    def _save(self) -> None:
        """Write the checkpoint; a disk that is full must not end a long run."""
        if self._path is None:
            return
        saved = files.Saved(self.shards, self._digest.hexdigest(), self.found)
        try:
            files.write(self._path, self._settings, saved)
            self._unsaved = ""
        except ResultError as error:
            if not self._unsaved:
                warnings.warn(f"The run goes on, but {error}", UserWarning, stacklevel=2)
            self._unsaved = str(error)
        self._saved = time.monotonic()

    @property
    def restarts(self) -> int:
        """Workers that were lost and replaced."""
        return self._spread.restarts

    @property
    def tokens(self) -> int:
        """Tokens done, those of broken rows included."""
        return self.found.metrics.tokens + self.found.tokens

    @property
    def remarks(self) -> list[str]:
        """Sentences on what was done, for the reader of the result."""
        said = self.rows.remarks()
        if self.found.broken:
            some = ", ".join(map(str, self.found.broken[:8]))
            more = ", ..." if len(self.found.broken) > 8 else ""
            said.append(
                f"{len(self.found.broken)} rows ({self.found.tokens} tokens) were left out, "
                f"because their activations hold NaN or infinity: numbers {some}{more}"
            )
        if self.resumed:
            said.append(f"{self.resumed} tokens came from the checkpoint '{self._path}'")
        said += self._spread.remarks
        if self._unsaved:
            said.append(f"the checkpoint is not up to date: {self._unsaved}")
        return said


@contextmanager
def _whole() -> Iterator[None]:
    """Put off an interrupt until the end of the block; then it does what it would have done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        signal.raise_signal(signal.SIGINT)


def _batch_tokens(asked: int | None) -> int:
    if asked is None:
        return BATCH_TOKENS
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 2:
        raise InputError(f"batch_tokens is {asked!r}; expected a number from 2, or None.")
    return asked
