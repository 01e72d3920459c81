"""From layers being measured to their view: one picture, filled by one model or by two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.analyses.measuring.joined_metrics import Frame
from layerlens.export.metrics_meta import metrics_meta_of
from layerlens.export.pack import plain_wire
from layerlens.result.layers import OTHER
from layerlens.views.frames import Stream
from layerlens.views.listen import RunListener

if TYPE_CHECKING:
    import numpy as np

    from layerlens.analyses.contract.parts import Variable
    from layerlens.model.text import Tokens
    from layerlens.views.metrics import MetricsView
    from layerlens.views.one_run import Run
    from layerlens.views.worker import Task


class MetricsListener(RunListener):
    """What ``layer_metrics`` calls while it runs for a view.

    Unlike other analyses it may run several times for one picture (for metrics that are new, for
    a second model), so the picture is begun by the view and not by the analysis.
    """

    unit = "step"

    def __init__(self, view: MetricsView, run: Run, task: Task) -> None:
        super().__init__(view, run, task)
        self.task = task
        self._frame: Frame | None = None
        self._attrs: dict[str, Any] = {}

    def begin(self, frame: Frame, attrs: Mapping[str, Any]) -> None:
        """Prepare meta and frames of a picture that holds the arrays of `frame`."""
        view, model = self._view, self._view.model
        if model is None:
            return
        self._frame, self._attrs = frame, dict(attrs)
        wires = {name: plain_wire(name, v.dtype) for name, v in frame.variables.items()}
        stream = Stream(
            self._run.number,
            frame.variables,
            max(model.d_vocab, model.d_vocab_in),
            model.token_string,
            view._send_frame,
            wires,
        )
        stream.declare(frame.sizes, frame.coords)
        self.stream = stream

    def second(self, task: Task) -> Other:
        """Return the listener of a second model, which fills the same picture."""
        return Other(self, task)

    @property
    def meta(self) -> dict[str, Any]:
        """What the view shows around the numbers; made with the first of them."""
        if self._meta is None and self._frame is not None:
            blank = self._frame.blank({**self._attrs, **self._fed()})
            self._meta = dict(metrics_meta_of(blank, (), self._run.number, ended=False))
        return self._meta or {}

    def _fed(self) -> dict[str, Any]:
        tokens = self._run.tokens.get("text")
        if tokens is None:
            return {}
        return {"texts": len(tokens.lengths), "tokens": sum(tokens.lengths)}

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Keep what is fed; a corpus is not there yet."""
        if tokens:
            self._run.tokens = dict(tokens)
        else:
            self.unit = "token"

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Nothing: the view has begun the picture."""

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the status line, at most ten times a second."""
        self.done = done
        self._progress = {"done": done, "total": total, "what": what, "unit": self.unit}
        self._tell_progress(at_once=done >= total > 0)


class Other(MetricsListener):
    """Fills the second model's arrays of a picture that the first one's listener has begun."""

    def __init__(self, first: MetricsListener, task: Task) -> None:
        super().__init__(first._view, first._run, task)
        self.stream = first.stream
        self._meta = first.meta

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Leave what the first model was fed."""
        if not tokens:
            self.unit = "token"

    def on_emit(self, where: Mapping[str, int | slice], arrays: Mapping[str, np.ndarray]) -> None:
        """Pass a finished part on, under the names of a second model."""
        super().on_emit(
            {OTHER + axis: place for axis, place in where.items()},
            {OTHER + name: values for name, values in arrays.items()},
        )

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the status line, and say whose it is."""
        label = str(self.meta["other"]["label"])
        super().on_progress(done, total, f"{label}, {what}" if what else label)
