"""What a view of metrics measures: what is not known yet, of its model and of a second one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.measuring.joined_metrics import Frame, beside, joined
from layerlens.analyses.measuring.layer_metrics import chosen
from layerlens.errors import Cancelled, InputError
from layerlens.metrics import registry
from layerlens.model.required import require_model
from layerlens.result import Result
from layerlens.result.beside_words import about_other
from layerlens.result.layers import metrics_in, variables_in
from layerlens.views.metrics_listen import MetricsListener
from layerlens.views.metrics_memory import Memory
from layerlens.views.one_run import Run, superseded
from layerlens.views.second_lane import SecondLaneView
from layerlens.views.worker import Task, lane_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.listen import RunListener


class MeasuringView(SecondLaneView):
    """Base of `MetricsView`."""

    other: LensModel | Result | None = None
    _label = ""
    _memory: Memory
    _other_memory: Memory

    def _set_other(self, model: LensModel, other: LensModel | Result | None, label: str) -> None:
        if isinstance(other, Result):
            if other.analysis != self.ANALYSIS:
                raise InputError(f"other= is a result of {other.analysis}, not of layer_metrics.")
            name = str(other.data.attrs.get("model", ""))
        elif other is not None:
            require_model(other, "other (or a result of ll.layer_metrics)")
            name, self._second_lane = other.name, lane_of(other)
        else:
            return
        self.other = other
        self._label = label or (f"{name} (other)" if name == model.name else name)

    def _model_attrs(self) -> dict[str, Any]:
        return {} if self.model is None else {"n_heads": self.model.n_heads}

    def code_of(self, run: Run) -> str:
        """Return the call that answers the question of a run."""
        code = super().code_of(run)
        if self.other is None or isinstance(self.other, Result):
            return code
        return f"{code}\n{code.replace('(model, ', '(other, ', 1)}  # {self._label}"

    # Measuring, on the worker's thread

    def _listener(self, run: Run, task: Task) -> RunListener:
        return MetricsListener(self, run, task)

    def _answer(self, model: LensModel, run: Run, listener: RunListener) -> Result:
        names, remarks = chosen(model, run.resolved["metrics"])
        options = run.resolved.get("metric_options") or {}
        registry.named([*names, *options])
        frame, attrs = Frame.of(model, names, options), self._attrs_of(run)
        attrs |= {"metrics": json.dumps(names), "notes": json.dumps([*attrs["notes"], *remarks])}
        attrs |= {"skip_first": int(run.resolved.get("skip_first", True)), **self._model_attrs()}
        if self.other is not None:
            also, about = self._other_frame(names, options)
            frame, attrs = frame.beside(also), attrs | about
        if isinstance(listener, MetricsListener):
            listener.begin(frame, attrs)
        return self._measure(model, run, names, listener, self._memory, remarks)

    def _measure(
        self,
        model: LensModel,
        run: Run,
        names: Sequence[str],
        listener: RunListener,
        memory: Memory,
        remarks: Sequence[str] = (),
    ) -> Result:
        """Measure what is not known yet; show and return all."""
        options = run.resolved.get("metric_options") or {}
        memory.open(run)
        for known in memory.results(names, options):
            data = known.data
            listener.on_emit({}, {name: data[name].values for name in variables_in(data)})
        if lacking := memory.lacking(names, options):
            own = {name: given for name, given in options.items() if name in lacking}
            asked = {**run.resolved, "metrics": lacking, "metric_options": own or None}
            try:
                found = self.analysis.run(model, run.inputs, asked, listener)
            except Exception as stop:
                part = getattr(stop, "partial", None)
                if part is not None or isinstance(stop, Cancelled):
                    whole = self._partly(run, names, memory, part, remarks)
                    stop.partial = whole  # type: ignore[attr-defined]
                raise
            memory.keep(lacking, options, found)
        return self._whole(run, joined(memory.results(names, options), names, remarks))

    def _partly(
        self, run: Run, names: Sequence[str], memory: Memory, part: Any, remarks: Sequence[str]
    ) -> Result | None:
        known = memory.results(names, run.resolved.get("metric_options") or {})
        parts = [*known, *([part] if part is not None else [])]
        return self._whole(run, joined(parts, names, remarks)) if parts else None

    def _whole(self, run: Run, result: Result) -> Result:
        """Say in a result how all of it was asked for, not only what was measured last."""
        from layerlens.analyses.contract import options as opts

        known = self.analysis.options
        options = opts.plain(opts.complete(run.resolved, known, self.ANALYSIS))
        attrs = {"options": json.dumps(options, ensure_ascii=False), **self._model_attrs()}
        data = result.data.assign_attrs(attrs)
        return Result(self.ANALYSIS, data, result.checks, self.code_of(run), self.model)

    # The second model

    def _other_frame(
        self, names: Sequence[str], options: Mapping[str, Any]
    ) -> tuple[Frame, dict[str, Any]]:
        """Return the arrays of the second model, and what is known of it."""
        other = self.other
        if isinstance(other, Result):
            data = self._given_result(other, names).data
            return Frame.of_data(data), about_other(data.attrs, self._label)
        if other is None:
            return Frame({}, {}, {}), {}
        attrs = {
            "model": other.name,
            "load": other.load_code,
            "model_type": other.anatomy.family,
            "dtype": str(other.dtype).removeprefix("torch."),
            "n_layers": other.n_layers,
            "n_heads": other.n_heads,
        }
        able = [name for name in names if not registry.get(name).missing(other)]
        return Frame.of(other, able, options), about_other(attrs, self._label)

    @staticmethod
    def _given_result(other: Result, names: Sequence[str]) -> Result:
        """Return the part of a result that has a counterpart in the picture."""
        held = metrics_in(other.data)
        return joined([other], [name for name in names if name in held])

    def _finished(self, run: Run, result: Result, listener: RunListener) -> None:
        if run is not self._run or self.other is None or not isinstance(listener, MetricsListener):
            super()._finished(run, result, listener)
            return
        names = metrics_in(result.data)
        if isinstance(self.other, Result):
            other = self._given_result(self.other, names).data
            values = {name: other[name].values for name in variables_in(other)}
            listener.second(listener.task).on_emit({}, values)
            super()._finished(run, beside(result, other, self._label), listener)
            return
        with self._lock:
            if run is self._run:
                self._result = result
            self._go_on(
                run,
                lambda view, task: view._compute_other(run, result, listener, task),
            )

    def _compute_other(self, run: Run, result: Result, first: MetricsListener, task: Task) -> None:
        if run is not self._run or self.other is None or isinstance(self.other, Result):
            run.end(error=superseded())
            return
        names = metrics_in(result.data)
        able = [name for name in names if not registry.get(name).missing(self.other)]
        if not able:
            raise InputError(f"{self._label} has not what any of these metrics reads.")
        try:
            found = self._measure(self.other, run, able, first.second(task), self._other_memory)
        except Cancelled as stop:
            if isinstance(stop.partial, Result):
                stop.partial = beside(result, stop.partial.data, self._label)
            else:
                stop.partial = result
            first.done = max(first.done, 1)  # the first model is measured, if only from memory
            self._stopped(run, stop, first)
            return
        both = beside(result, found.data, self._label)
        super()._finished(run, both, first)

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self.other = None
        self._memory, self._other_memory = Memory(), Memory()
