"""What a call of ``ll.fit_lens`` asks for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.lenses.fitting.judge import UNIFORM
from layerlens.analyses.lenses.fitting.kl_steps import STEP_TOKENS
from layerlens.analyses.lenses.fitting.plan import FitPlan, plan_fit
from layerlens.analyses.lenses.jacobian.prompt import REDUCTIONS
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.lenses.readers import LOGIT
from layerlens.errors import InputError, ModelError
from layerlens.model.abilities import ABILITIES
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted

DEFAULT_LIMIT = 1_000_000_000
LADDER = (LOGIT, "bias", "ridge", "tuned")
"""Each lens begins where the one before it ends."""
JACOBIAN = "jacobian"
KINDS = (*LADDER[1:], JACOBIAN)
SKIPPED = {JACOBIAN: 16}
"""Positions that are left out of each text where nothing is said; 4 for the other kinds."""


def learned_kind(kind: str, tracked: Sequence[str | int]) -> str:
    """The kind of ``Fitted`` that a call learns."""
    return f"{kind}_tokens" if tracked else f"{kind}_lens"


@dataclass(frozen=True)
class Asked:
    """The options of ``ll.fit_lens`` for one model; see there.

    Raises
    ------
    InputError
        One does not fit.
    ModelError
        The model lacks what this kind of lens needs.
    """

    model: LensModel
    kind: str
    points: str | Sequence[str]
    steps: int
    rank: int | None
    positions_skipped: int | None
    ridge: float | None
    test: float
    test_tokens: int
    reduction: str
    tracked: Sequence[str | int]
    controls: int
    seed: int
    resume: Fitted | str | os.PathLike[str] | None
    memory_limit: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise nearest(self.kind, KINDS, "Kind of lens")
        if self.reduction not in REDUCTIONS:
            raise nearest(self.reduction, REDUCTIONS, "Reduction")
        self._require("steps", self.steps, 1)
        self._require("test_tokens", self.test_tokens, 1)
        self._require("positions_skipped", self.skipped, 0)
        self._require("controls", self.controls, 0)
        if self.rank is not None and not 0 <= self.rank <= self.model.d_model:
            raise InputError(
                f"rank is {self.rank}; expected 0 to {self.model.d_model}, or None for any."
            )
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise InputError(f"ridge is {self.ridge}; expected a number above 0, or None.")
        if not self.chosen:
            raise InputError(
                "The last state needs no map: ask for points before it, such as 'post' of a model "
                "with several layers, or 'embed'."
            )
        needed = {"tuned": ("gradients",), JACOBIAN: ("gradients", "causal")}.get(self.kind, ())
        if lack := next(filter(None, (ABILITIES[name](self.model) for name in needed)), ""):
            raise ModelError(
                f"A {self.kind} lens cannot be fitted on {self.model.name}, which {lack}; "
                "kind='ridge' can."
            )

    @staticmethod
    def _require(name: str, value: int, least: int) -> None:
        if value < least:
            raise InputError(f"{name} is {value}; expected a number from {least}.")

    @property
    def skipped(self) -> int:
        """Positions at the beginning of each text that do not count."""
        if self.positions_skipped is None:
            return SKIPPED.get(self.kind, 4)
        return self.positions_skipped

    @cached_property
    def chosen(self) -> list[Point]:
        """The points that get a map."""
        last = f"{self.model.n_layers - 1}_post"
        return [point for point in lens_points(self.model, self.points) if point.label != last]

    @property
    def learns(self) -> str:
        """What is learned, as ``Fitted.kind`` says it."""
        return learned_kind(self.kind, self.tracked)

    @cached_property
    def tracked_ids(self) -> list[int]:
        """The tokens that a Jacobian lens is fitted for alone, each once."""
        given = self.tracked
        names = (given,) if isinstance(given, str | int) else given
        return list(dict.fromkeys(self.model.token_id(name) for name in names))

    @property
    def rows(self) -> int:
        """Rows of the matrix of each point of a Jacobian lens."""
        tracked = len(self.tracked_ids)
        return tracked + self.controls if tracked else self.model.d_model

    @property
    def lenses(self) -> tuple[str, ...]:
        """Those that are judged: simpler ones, the lens itself, and the control."""
        if self.kind == JACOBIAN:
            return (LOGIT, JACOBIAN, UNIFORM)
        return (*LADDER[: LADDER.index(self.kind) + 1], UNIFORM)

    def plan(self, taught: int, judged: int) -> FitPlan:
        """How much is fitted at once, for so many tokens to fit on and to judge by."""
        held = min(taught, self.steps * STEP_TOKENS) if self.kind == "tuned" else 0
        sums = 0 if self.kind == "bias" else 1 if self.ridge is not None else 2
        return plan_fit(
            self.model, len(self.chosen), self.memory_limit, sums=sums, taught=held, judged=judged
        )
