"""What each layer of each run gives for all inputs: of a torch network, or of a model's texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.information.text_states import pooled, require_pool
from layerlens.analyses.sweeps.clean_pass import passes
from layerlens.corpus.texts import Texts
from layerlens.errors import ActivationError, InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.model.runs import Runs
    from layerlens.model.text import Tokens

BATCH = 1024
"""Inputs in one call of a torch network."""


class Inputs:
    """The inputs of a call, and what layers give for them.

    Parameters
    ----------
    given
        Texts in any form that ``model.tokens`` takes, or for a torch network an array.
    pool
        One state a text: ``last`` or ``mean``.

    Attributes
    ----------
    rows
        ``[n, width]`` float64, the entries of each input; None for texts, between which there is
        no distance.

    Raises
    ------
    InputError
        These are no inputs, or fewer than two.
    """

    def __init__(self, job: Job, runs: Runs, given: Any, pool: str) -> None:
        self.job, self.runs, self.pool = job, runs, pool
        self.rows: np.ndarray | None = None
        self.given = given
        if runs.texts:
            tokens = self._tokens(0)
            require_pool(pool, False, tokens)
            self.count = len(tokens.ids)
        else:
            self.array = _array(given)
            self.count = len(self.array)
            self.rows = self.array.reshape(self.count, -1).double().cpu().numpy()
        if self.count < 2:
            raise InputError("There is a single input, which says nothing: give many.")

    def _tokens(self, run: int) -> Tokens:
        return self.job.tokens(self.given, self.runs.model(run))

    def layers(self, run: int) -> Iterator[np.ndarray]:
        """The states ``[n, d]`` float64 after each layer of a run.

        Raises
        ------
        ActivationError
            One of them is not finite.
        """
        found = self._read_texts(run) if self.runs.texts else self._read(run, self.array)
        for point, states in zip(self.runs.points, found, strict=True):
            if not np.isfinite(states).all():
                raise ActivationError(
                    f"Layer {point!r} of run {self.runs.labels[run]!r} gives NaN or infinity: "
                    "check its weights."
                )
            yield states

    def _read(self, run: int, array: Tensor) -> list[np.ndarray]:
        parts = []
        for start in range(0, len(array), BATCH):
            self.job.tick()
            parts.append(self.runs.outputs(run, array[start : start + BATCH]))
        return [torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True)]

    def _read_texts(self, run: int, first: bool = False) -> np.ndarray:
        model, tokens = self.runs.model(run), self._tokens(run)
        states = np.empty((len(self.runs.points), self.count, model.d_model))
        with model.running():
            for one in passes(model, tokens, False, 1 if first else None, self.job.tick):
                states[:, one.batch.numbers] = pooled(one, self.pool)
                if first:
                    return states[:, :1]
        return states

    def alone(self, run: int) -> list[np.ndarray]:
        """The states of the first input by itself, ``[1, d]`` after each layer."""
        if self.runs.texts:
            return list(self._read_texts(run, first=True))
        return self._read(run, self.array[:1])

    def labels(self, given: Any) -> np.ndarray:
        """The number of each input's label, from 0.

        Raises
        ------
        InputError
            There is not one for each, or all are the same.
        """
        if given is None and isinstance(self.given, Texts):
            given = [item.label for item in self.given.items()]
        known = list(np.asarray(given).tolist()) if hasattr(given, "tolist") else given
        if not isinstance(known, list | tuple) or len(known) != self.count or None in known:
            raise InputError(
                f"labels has to have one label for each of the {self.count} inputs, as a list or "
                "an array, or as ll.texts(..., label=) has them."
            )
        place = {label: number for number, label in enumerate(dict.fromkeys(known))}
        if len(place) < 2:
            raise InputError("All inputs have one label, which nothing can tell apart.")
        return np.array([place[label] for label in known])


def _array(given: Any) -> Tensor:
    """The inputs of a torch network."""
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"inputs is {type(given).__name__}; expected an array or tensor with a row for each "
            "input, as the network is called with."
        ) from error
    if found.dim() < 1:
        raise InputError("inputs is one number; expected a row for each input.")
    return found
