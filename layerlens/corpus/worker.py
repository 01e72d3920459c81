"""What runs in a worker process: one model, and the shards that it is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import LayerLensError

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.spread import Task


class Worker:
    """Lives in a process of its own; every call and answer goes through Ray."""

    def load(
        self,
        source: tuple[Mapping[str, Any] | None, tuple[Any, Any, Any] | None, str, str],
        task: Task[Any],
    ) -> None:
        """Make the model, and keep what is to be done.

        Parameters
        ----------
        source
            Arguments of ``ll.load``, None for a model that was given in memory; for that one class,
            config and parameters; name of the type of its weights; fingerprint that they must have.
        task
            What is done to each shard.

        Raises
        ------
        LayerLensError
            When the weights are not those of the model of the call.
        """
        import torch

        from layerlens.corpus.identity import build
        from layerlens.model.fingerprint import fingerprint
        from layerlens.model.lensmodel import LensModel
        from layerlens.model.load import load

        recipe, parts, dtype, weights = source
        if recipe is not None:
            self._model = load(**recipe, prove=False)
        elif parts is not None:
            hf = build(*parts, getattr(torch, dtype))
            self._model = LensModel.wrap(hf, prove=False)
        if fingerprint(self._model) != weights:
            raise LayerLensError(
                "A worker loaded other weights than the model of this call has, so it was changed "
                "after loading: hand it on as it is, with ll.load(model.hf, model.tokenizer)."
            )
        self._task = task

    def run(self, rows: Sequence[Row]) -> Any:
        """Return what the task makes of the rows of a shard."""
        return self._task(self._model, rows, lambda: None, lambda tokens: None)

    def pid(self) -> int:
        """Return the number of this process."""
        import os

        return os.getpid()
