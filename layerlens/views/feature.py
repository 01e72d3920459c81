"""The page of a feature of a dictionary, live: look it up, steer with it, write down what it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import traitlets as t

from layerlens.analyses.contract.cells import Place
from layerlens.analyses.features.page.page_cell import STRENGTH
from layerlens.errors import InputError
from layerlens.export.feature_meta import with_feature
from layerlens.result.select import one_text
from layerlens.views.answer import AnswerView
from layerlens.views.answer_cell import Stoppable
from layerlens.views.base import Reply
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result
    from layerlens.views.one_run import Run


class FeatureView(AnswerView):
    """The page of one feature, and of any other that is chosen by its number or by a token.

    Its strongest examples and some of each strength, how often it is on, the tokens that it raises
    and lowers, the features nearest to it, and a slider that adds it while the model writes: what
    comes stands beside what the model writes by itself.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    *texts, start, **keywords
        Texts, the dictionary, the number and options of `layerlens.feature`; traits as in
        `GridView`, and of its own: ``strength`` of the slider, and ``meanings``, what someone wrote
        of features, by their numbers: a dict, or the path of a file of `save_meanings`.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named.
    InputError
        ``meanings`` are no words by number. What is wrong with texts or options does not raise: it
        is said in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> view = ll.FeatureView(model, texts, sae, 3, meanings={3: "the second owl"})
    >>> int(view.wait().data.features), view.show(5).number
    (128, 5)
    """

    PICTURE = (*AnswerView.PICTURE, "strength", "meanings")
    LATEST = AnswerView.LATEST | {"steer"}

    view = t.Unicode("feature").tag(sync=True)
    strength = t.Float(1.0, help="How much of the feature is added to the text.").tag(sync=True)
    meanings = t.Dict(help="What someone wrote of features, by number.").tag(sync=True)

    def __init__(
        self, model: LensModel, /, *texts: Any, start: bool = False, **keywords: Any
    ) -> None:
        if keywords.pop("other", None) is not None:
            raise InputError(
                "A dictionary belongs to one model: show the page of another beside it in a cell "
                "of its own."
            )
        super().__init__(model, "feature", *texts, start=start, **keywords)

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        if "meanings" in keywords:
            keywords["meanings"] = _meanings(keywords["meanings"])
        super()._open(model, inputs, keywords)
        if self._lane is not None:
            self._answers["steer"] = (self._steer, self._lane)

    @property
    def number(self) -> int:
        """Of the feature that is asked for."""
        shown = self._shown_meta.get("feature", {}).get("number", 0)
        return int(self.options.get("number", 0 if self.live else shown))

    def show(self, number: int) -> Self:
        """Ask for the page of another feature; returns at once."""
        return self.run(number=number)

    @t.validate("meanings")
    def _valid_meanings(self, proposal: Any) -> dict[str, str]:
        return _meanings(proposal["value"])

    def save_meanings(self, path: str | os.PathLike[str]) -> Path:
        """Write what was written of features as JSON, with the model and the dictionary it is of.

        Raises
        ------
        InputError
            There is no page yet, so it is not known of what the features are.
        """
        meta = self._shown_meta
        if "feature" not in meta:
            raise InputError("There is no page yet to say of what dictionary; call view.wait().")
        about = {name: meta["feature"][name] for name in ("site", "layers")}
        content = {"model": meta["model"], **about, "meanings": self.meanings}
        path = Path(path)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def _steer(self, params: dict[str, Any], task: Task) -> Reply:
        """Answer the request ``steer``: what is written at a strength."""
        run, shown = self._pictured, self._partial or self._result
        if self.model is None or run is None or shown is None or run is not self._run:
            raise InputError("There is no page of this feature yet to steer by.")
        strength = params.get("strength")
        if not isinstance(strength, int | float) or not math.isfinite(strength):
            raise InputError(f"The strength is a number, not {strength!r}.")
        data = one_text(shown.data, self._index)
        answer = {str(name): array.values for name, array in data.data_vars.items()}
        place = Place("steered_token", {STRENGTH: float(strength)}, math.nan, answer=answer)
        opened = self.analysis.open(self.model, run.inputs, run.resolved, place, Stoppable(task))
        return opened.to_dict(), []

    def _asked(self) -> dict[str, Any]:
        return {**super()._asked(), "options": {"number": self.number}}

    def _meta_of_blank(self, run: Run, blank: xr.Dataset) -> dict[str, Any]:
        return dict(with_feature(super()._meta_of_blank(run, blank), blank))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        return dict(with_feature(super()._meta_of(result, data, run, about), data))

    def _caption(self) -> str:
        return f"feature {self.number}"

    def __repr__(self) -> str:
        """Name the feature; its texts may be thousands."""
        name = self._shown_meta.get("model", "") if self.model is None else self.model.name
        return f"{type(self).__name__}(number={self.number}, model={name!r})"

    def _figure_options(self) -> dict[str, Any]:
        """Return what the figure draws: the text at this strength, and what the feature means."""
        base: Mapping[str, Any] = super(AnswerView, self)._figure_options()
        number = self._shown_meta.get("feature", {}).get("number", -1)
        return {**base, "strength": self.strength, "meaning": self.meanings.get(str(number), "")}


def _meanings(given: Any) -> dict[str, str]:
    """What was written of features by number, from a dict or a file."""
    if isinstance(given, str | os.PathLike):
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
            given = content["meanings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{given} holds no meanings of features ({error}); expected what "
                "view.save_meanings(path) wrote."
            ) from error
    known = isinstance(given, Mapping) and all(
        str(number).isdecimal() and isinstance(words, str) for number, words in given.items()
    )
    if not known:
        raise InputError(f"meanings is {given!r}; expected numbers of features with words.")
    return {str(number): words for number, words in given.items() if words.strip()}
