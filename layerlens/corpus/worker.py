"""What runs in a worker process: one model, and the shards that it is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import LayerLensError

if TYPE_CHECKING:
    import numpy as np

    from layerlens.corpus.rows import Row

State = tuple[dict[str, "np.ndarray"], str]
"""What metrics have seen, as :meth:`MetricSet.state` gives it."""


class Worker:
    """Lives in a process of its own; every call and answer goes through Ray.

    Parameters
    ----------
    batch_tokens
        Most tokens in one pass.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens

    def load(
        self,
        source: tuple[Mapping[str, Any] | None, tuple[Any, Any, Any] | None, str, str],
        empty: State,
    ) -> None:
        """Make the model and the metrics.

        Parameters
        ----------
        source
            Arguments of ``ll.load``, None for a model that was given in memory; for that one class,
            config and parameters; name of the type of its weights; fingerprint that they must have.
        empty
            Metrics that have seen nothing.

        Raises
        ------
        LayerLensError
            When the weights are not those of the model of the call.
        """
        import torch

        from layerlens.corpus.identity import build
        from layerlens.metrics.collection import MetricSet
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
        self._metrics = MetricSet.from_state(*empty)

    def measure(self, rows: Sequence[Row]) -> tuple[State, tuple[Any, ...]]:
        """Measure the rows of a shard.

        Returns
        -------
        state
            What the metrics have seen.
        rest
            The other fields of :class:`layerlens.corpus.shard.Measured`, in their order.
        """
        from layerlens.corpus.shard import measure_rows

        found = measure_rows(self._model, rows, self._metrics, self._batch_tokens)
        rest = (found.passes, found.broken, found.tokens, found.reason)
        return found.metrics.state(), rest

    def pid(self) -> int:
        """Return the number of this process."""
        import os

        return os.getpid()
