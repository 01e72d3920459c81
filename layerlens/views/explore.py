"""All views of one model and one prompt together, following one layer and one position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from layerlens.analyses.contract.contract import Analysis
from layerlens.analyses.contract.registry import get
from layerlens.errors import InputError, ResultError
from layerlens.model.abilities import ABILITIES
from layerlens.model.required import require_model
from layerlens.views.answer import AnswerView, CurvesView, GridView
from layerlens.views.answer_second import second_of
from layerlens.views.attention import AttentionView
from layerlens.views.kept import Kept
from layerlens.views.keywords import ExploreOptions
from layerlens.views.lens import LensView
from layerlens.views.linked import linked
from layerlens.views.metrics import MetricsView
from layerlens.views.other_kind import told
from layerlens.views.patch import PatchView
from layerlens.views.scatter import ScatterView

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.live import LiveView

BELOW = {"max_height": "480px", "overflow": "auto"}
"""With the lens above it, all is no higher than a screen and a half."""


class Explore(w.VBox):  # type: ignore[misc]
    """Lens, metrics, attention and patching, linked: the lens holds prompt and slider of all.

    Made by `explore`. Each view is an ordinary widget: observe, set and link it.

    Attributes
    ----------
    lens, metrics, patching : LensView, MetricsView, PatchView
    attention : AttentionView or None
        None where the model has no attention that could be read.
    also : dict
        Further analyses by name, each a `GridView` or a `CurvesView`.
    alone : dict
        Views that do not show `other`, by name, and why.
    """

    _made: Sequence[Any] = ()

    def __init__(
        self,
        model: LensModel,
        text: str,
        corrupt: str | None = None,
        *,
        other: Any = None,
        also: Sequence[str | Analysis] = (),
        options: ExploreOptions | Mapping[str, Mapping[str, Any]] | None = None,
        theme: str = "auto",
    ) -> None:
        asked: Mapping[str, Any] = options or {}
        more = _further(also)
        every = (*_VIEWS, *more)
        given: dict[str, Any] = {name: {"theme": theme, **asked.get(name, {})} for name in every}
        if unknown := [name for name in asked if name not in every]:
            raise InputError(f"explore has no '{unknown[0]}'; it has {', '.join(every)}.")
        require_model(model)
        self.alone = {} if other is None else _alone(model, more, given, other)
        for name in every:
            if other is not None and name not in self.alone:
                given[name].setdefault("other", other)
        self.also = {
            name: _answer(model, analysis, text, corrupt, given[name])
            for name, analysis in more.items()
        }
        self.lens = LensView(model, text, **given["lens"])
        self.metrics = MetricsView(model, text, **given["metrics"])
        self.attention: AttentionView | None = None
        if not ABILITIES["attention"](model):
            self.attention = AttentionView(model, text, **given["attention"])
        if corrupt is None:
            self.patching = PatchView.idle(model, text, "", **given["patching"])
        else:
            self.patching = PatchView(model, text, corrupt, **given["patching"])
        for view in self._views:
            view.linked = True
        for view in self._views[1:]:
            view.layout = BELOW
        links = [
            *linked(*((view, "layer") for view in self._views)),
            *linked(*((view, "position") for view in self._views)),
            *linked(*((view, name) for view in self._views if (name := self._prompt(view)))),
        ]
        titles = [name for name in _VIEWS[1:] if getattr(self, name) is not None]
        titles = [name.replace("_", " ").capitalize() for name in (*titles, *self.also)]
        below = w.Tab(self._views[1:], titles=titles)
        said = [w.HTML(_said(self.alone))] if self.alone else []
        self._made = [*links, *self._views, *said, below]
        super().__init__([self.lens, *said, below], layout={"width": "100%"})
        self._keeper = Kept(self._views)
        for view in self._views:
            view._keepers.append(self._keeper)

    @property
    def text(self) -> str:
        """The prompt of all views; that of the patch bench is its clean one."""
        return str(self.lens.text)

    @text.setter
    def text(self, text: str) -> None:
        self.lens.text = text

    @property
    def layer(self) -> int:
        """The layer that all show; -1 is the embedding, the last one the model's own output."""
        return int(self.lens.layer)

    @layer.setter
    def layer(self, layer: int) -> None:
        self.lens.layer = layer

    @property
    def _views(self) -> list[LiveView]:
        own = [view for name in _VIEWS if (view := getattr(self, name)) is not None]
        return [*own, *self.also.values()]

    @staticmethod
    def _prompt(view: LiveView) -> str:
        """Return the trait of a view that holds the prompt; "" for one that has no such text."""
        if isinstance(view, AnswerView):
            return "text" if view.names[:1] in (("text",), ("clean",)) else ""
        return "clean" if isinstance(view, PatchView) else "text"

    def _ipython_display_(self) -> None:
        """Show the widgets, and keep a picture of them in the notebook."""
        bundle = self._repr_mimebundle_()
        if bundle is not None:
            self._keeper.show(bundle if isinstance(bundle, tuple) else (bundle, {}))

    def close(self) -> None:
        """Stop what is under way, and close all that it is made of."""
        made, self._made = self._made, []
        for part in made:
            part.close()
        super().close()


_VIEWS = ("lens", "metrics", "attention", "patching")


def _further(also: Sequence[str | Analysis]) -> dict[str, Analysis]:
    """Return the analyses that get a tab each, by name."""
    if isinstance(also, str | Analysis):
        also = [also]
    found = [get(one) for one in also]
    for analysis in found:
        if analysis.about.view in ("lens", "metrics", "attention", "patch"):
            raise InputError(f"explore shows {analysis.name} already: leave it out of also.")
    return {analysis.name: analysis for analysis in found}


def _alone(
    model: LensModel, more: Mapping[str, Analysis], given: Mapping[str, Any], other: Any
) -> dict[str, str]:
    """Return the views that cannot show a second side, by name, and why."""
    found = {"patching": "The patch bench compares two prompts of one model already."}
    kind, _ = told(other)
    if kind != "model":
        what = "edits" if kind == "edits" else "a text"
        found["metrics"] = f"Metrics of layers lie beside those of a second model, not of {what}."
    if kind == "edits":
        found["attention"] = "Attention lies beside that of a second text or model, not of edits."
    for name, analysis in more.items():
        if "other" in analysis.options:
            continue
        try:
            second_of(model, analysis, given[name], other, "")
        except (InputError, ResultError) as error:
            found[name] = str(error)
    return found


def _said(alone: Mapping[str, str]) -> str:
    """Return the line that says which tabs show the first side alone."""
    lines = " ".join(f"{name.replace('_', ' ')}: {why}" for name, why in alone.items())
    return f"Without what lies beside – {escape(lines)}"


def _answer(
    model: LensModel, analysis: Analysis, text: str, corrupt: str | None, keywords: Any
) -> AnswerView:
    """Return the view of one more analysis, with the prompts for its texts of these names."""
    prompts = {"text": text, "clean": text, "corrupt": corrupt}
    texts = {name: prompts[name] for name in analysis.inputs if prompts.get(name) is not None}
    kinds: dict[str, type[AnswerView]] = {"grid": GridView, "scatter": ScatterView}
    kind = kinds.get(analysis.about.view, CurvesView)
    return kind(model, analysis, **{**texts, **keywords})


def explore(
    model: LensModel,
    text: str,
    corrupt: str | None = None,
    *,
    other: Any = None,
    also: Sequence[str | Analysis] = (),
    options: ExploreOptions | Mapping[str, Mapping[str, Any]] | None = None,
    theme: str = "auto",
) -> Explore:
    """Look at one prompt with every view, all of them at the same layer and position.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    text : str
        The prompt.
    corrupt : str, optional
        A second prompt of as many tokens, for patching. Without it the patch bench waits until
        one is typed.
    other : LensModel, text or edits, optional
        What lies beside in every view that can show two: a second model, a second text, or edits
        (``ll.edit``) of this text's run. The others show the first alone, and say why.
    also : sequence of str or Analysis
        Further analyses, one more tab each: ``["ablate_sweep"]``. One that takes a text gets the
        prompt, one that compares two gets both; others take theirs from `options`.
    options : mapping, optional
        Keywords for each view: ``{"lens": {...}, "metrics": {...}, "attention": {...},
        "patching": {...}}``, and for each analysis of `also` by its name.
    theme : {"auto", "light", "dark"}
        Of all views.

    Returns
    -------
    Explore
        A widget with ``lens``, ``metrics``, ``attention`` and ``patching``, and with ``also``.

    Raises
    ------
    InputError
        The text is no string, `options` names something else, or an analysis of `also` is not
        known or lacks a text.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> together = ll.explore(model, "cat dog owl cat", "cat fox owl cat")
    >>> together.layer = 1
    >>> together.lens.wait().data.sizes["position"]
    5
    >>> together.close()
    """
    if not isinstance(text, str) or not isinstance(corrupt, str | None):
        raise InputError("explore takes a text, and a second one for patching, as strings.")
    return Explore(model, text, corrupt, other=other, also=also, options=options, theme=theme)
