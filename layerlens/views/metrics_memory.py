"""What was measured of the same texts already, so that one more metric costs only itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.options import plain
from layerlens.analyses.measuring.joined_metrics import joined
from layerlens.views.one_run import Run

if TYPE_CHECKING:
    from layerlens.result import Result

OWN = ("metrics", "metric_options")
"""Options that are a metric's own affair; any other change makes all numbers new."""


class Memory:
    """Results of one model over one set of texts, by metric."""

    def __init__(self) -> None:
        self._question: Run | None = None
        self._held: dict[str, tuple[Any, Result]] = {}

    def open(self, run: Run) -> None:
        """Forget everything unless `run` asks about the same texts in the same way."""
        options = {name: value for name, value in run.resolved.items() if name not in OWN}
        if self._question is None or not self._question.same_question(run.inputs, options):
            self._question = Run(0, run.inputs, options)
            self._held = {}

    def lacking(self, names: Iterable[str], options: Mapping[str, Any]) -> list[str]:
        """Return those of some metrics that have to be measured with these options."""
        return [name for name in names if not self._has(name, options)]

    def results(self, names: Iterable[str], options: Mapping[str, Any]) -> list[Result]:
        """Return the results that hold those of some metrics that are known."""
        known = [self._held[name][1] for name in names if self._has(name, options)]
        return list({id(result): result for result in known}.values())

    def keep(self, names: Sequence[str], options: Mapping[str, Any], result: Result) -> None:
        """Remember some metrics of a result; each alone, so that what is replaced is let go."""
        for name in names:
            self._held[name] = (plain(options.get(name, {})), joined([result], [name]))

    def forget(self) -> None:
        """Forget everything."""
        self._question, self._held = None, {}

    def _has(self, name: str, options: Mapping[str, Any]) -> bool:
        return name in self._held and self._held[name][0] == plain(options.get(name, {}))
