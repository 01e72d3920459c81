"""One number that says how well a run answers, computed from its last state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError, LayerLensError
from layerlens.run.head_rows import LOGIT_BYTES

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

MetricFunction = Callable[[Tensor], Tensor]
"""From logits ``[n, vocabulary]`` float32 to ``[n]``."""

METRICS = {
    "logit_diff": ("logit difference", "logit"),
    "logit": ("logit", "logit"),
    "probability": ("probability", "1"),
    "logprob": ("log-probability", "nats"),
    "kl": ("KL divergence from the reference run", "nats"),
    "rank": ("rank", "1"),
}
"""Name to words and units of the metrics known by name."""


class Metric:
    """How well runs answer, from their states after the last block where the text is answered.

    Made by :func:`make_metric`.

    Attributes
    ----------
    name, long_name, units
        As shown; ``units`` is "logit", "1" or "nats". A function of one's own is never called
        like a metric known by name: it would be ``own logit``.
    answer, wrong
        Token ids; ``wrong`` is None except for ``logit_diff``.
    """

    def __init__(
        self,
        model: LensModel,
        name: str,
        *,
        answer: int,
        wrong: int | None = None,
        reference: Tensor | None = None,
        function: MetricFunction | None = None,
    ) -> None:
        self.name = name
        self.answer = answer
        self.wrong = wrong
        self.long_name, self.units = METRICS[name] if function is None else (name, "1")
        self._model = model
        self._reference = reference
        self._function = function
        linear = name in ("logit", "logit_diff")
        if model.remote is not None and not linear:
            raise InputError(
                f"{model.name} runs elsewhere, and all logits of every run would have to be sent: "
                "use metric='logit_diff' or 'logit'."
            )
        self._by_columns = linear and model.head_matrix() is not None

    @property
    def words(self) -> str:
        """What it measures, with its tokens."""
        answer = repr(self._model.token_string(self.answer))
        if self.wrong is not None:
            return f"logit of {answer} minus logit of {self._model.token_string(self.wrong)!r}"
        if self._function is not None or self.name == "kl":
            return self.long_name
        return f"{self.long_name} of {answer}"

    @property
    def smooth(self) -> bool:
        """Whether it has a gradient (a rank has none)."""
        return self.name != "rank"

    def __call__(self, final: Tensor) -> Tensor:
        """Measure runs.

        Parameters
        ----------
        final
            ``[n, d_model]``, states after the last block, of the position that is measured.

        Returns
        -------
        Tensor
            ``[n]`` float64. Only the columns of the head that are needed are computed where the
            head is one linear map; gradients flow where they are recorded.
        """
        if self._by_columns:
            return self._from_columns(final)
        rows = max(1, LOGIT_BYTES // (4 * self._model.d_vocab))
        parts = [self.of_logits(self._model.unembed(part)) for part in final.split(rows)]
        return torch.cat(parts) if parts else final.new_zeros(0, dtype=torch.float64)

    def _from_columns(self, final: Tensor) -> Tensor:
        tokens = [self.answer] if self.wrong is None else [self.answer, self.wrong]
        z = self._model.columns(final, tokens)
        return z[:, 0] if self.wrong is None else z[:, 0] - z[:, 1]

    def of_logits(self, logits: Tensor) -> Tensor:
        """Measure whole logits ``[n, vocabulary]``; returns ``[n]`` float64."""
        if self._function is not None:
            return self._call(logits)
        chosen = logits[:, self.answer]
        if self.name == "logit":
            return chosen.double()
        if self.name == "logit_diff":
            assert self.wrong is not None
            return chosen.double() - logits[:, self.wrong].double()
        if self.name == "rank":
            return 1.0 + (logits > chosen.unsqueeze(-1)).sum(-1).double()
        if self.name == "kl":
            assert self._reference is not None
            own = logits.double().log_softmax(-1)
            p = self._reference
            return torch.where(p > -torch.inf, p.exp() * (p - own), 0.0).sum(-1)
        logprob = chosen.double() - logits.double().logsumexp(-1)
        return logprob if self.name == "logprob" else logprob.exp()

    def _call(self, logits: Tensor) -> Tensor:
        assert self._function is not None
        try:
            found = self._function(logits)
        except Exception as error:  # whatever a function of one's own may raise
            raise InputError(
                f"The metric {self.name} was given logits {tuple(logits.shape)} and raised "
                f"{type(error).__name__}: {error}."
            ) from error
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"The metric {self.name} was given logits {tuple(logits.shape)} and returned "
                f"{shape}; expected a tensor [{len(logits)}], one number a row."
            )
        return found.double()

    def __repr__(self) -> str:
        return f"Metric({self.words})"


def make_metric(
    model: LensModel,
    metric: str | MetricFunction,
    *,
    final: Tensor,
    other: Tensor | None = None,
    logits: Tensor | None = None,
    answer: str | int | None = None,
    wrong: str | int | None = None,
) -> Metric:
    """Prepare a metric.

    Parameters
    ----------
    metric
        ``logit_diff``, ``logit``, ``probability``, ``logprob``, ``kl`` (of the reference run's
        distribution from the run's), ``rank`` (1 = best), or a function from logits
        ``[n, vocabulary]`` float32 to ``[n]``, larger for a better answer.
    final
        ``[d_model]``, the reference (clean) run's state after the last block, see
        :func:`layerlens.run.answer_place.answer_place` for where.
    other
        The same of the run that it is compared with.
    logits
        ``[vocabulary]`` float32, what the model itself gave in the reference run; None to compute
        them from ``final``, which reads the head's weights once more.
    answer
        Token as a string or id; None for the reference run's own top token.
    wrong
        For ``logit_diff``: None for the top token of ``other`` if it is not the answer, else
        for the reference run's runner-up.

    Raises
    ------
    InputError
        For an unknown metric, or an answer and a wrong answer that are the same token.
    LayerLensError
        If the reference run's logits are NaN or infinite.

    Examples
    --------
    >>> import torch, layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> measure = make_metric(model, "logit", final=torch.zeros(64), answer=3)
    >>> measure(torch.zeros(5, 64)).shape
    torch.Size([5])
    """
    if not callable(metric) and metric not in METRICS:
        raise nearest(str(metric), list(METRICS), "Metric")
    if logits is None:
        logits = model.unembed(final.unsqueeze(0))[0]
    if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
        raise LayerLensError(
            "The reference run's logits hold NaN or infinity; check the model's weights and dtype."
        )
    best = logits.topk(2).indices.tolist()
    right = best[0] if answer is None else model.token_id(answer)
    if callable(metric):
        return Metric(model, _own_name(metric), answer=right, function=metric)
    if metric == "kl":
        return Metric(model, metric, answer=right, reference=logits.double().log_softmax(-1))
    if metric != "logit_diff":
        return Metric(model, metric, answer=right)
    return Metric(model, metric, answer=right, wrong=_wrong(model, right, wrong, best, other))


def _own_name(function: MetricFunction) -> str:
    """What a user's function is called: never the name of a metric that it is not."""
    name = getattr(function, "__name__", "") or type(function).__name__
    if name == "<lambda>":
        return "own metric"
    return f"own {name}" if name in METRICS else name


def _wrong(
    model: LensModel, right: int, wrong: str | int | None, best: list[int], other: Tensor | None
) -> int:
    """The token that the answer is compared with."""
    if wrong is not None:
        found = model.token_id(wrong)
        if found == right:
            raise InputError(
                f"The answer and the wrong answer are the same token, "
                f"{model.token_string(right)!r}: name another one."
            )
        return found
    if other is not None:
        found = int(model.unembed(other.unsqueeze(0))[0].argmax())
        if found != right:
            return found
    return best[0] if best[0] != right else best[1]
