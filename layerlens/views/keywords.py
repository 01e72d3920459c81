"""The keywords of the views, for editors to complete and type checkers to check."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from layerlens.run.edits import Edit
    from layerlens.views.question import QuestionView

_CONSTANT = frozenset({"view"})


class _Common(TypedDict, total=False):
    """What every view takes."""

    title: str
    theme: Literal["auto", "light", "dark"]
    cell_width: int
    layer: int
    options: Mapping[str, Any]
    add_bos: bool | None


class _Keywords(_Common, total=False):
    """What every view of the positions of a text takes."""

    position: int


class LensKeywords(_Keywords, total=False):
    """Keywords of `LensView`: options of ``ll.logit_lens``, and how it looks."""

    top_k: int
    points: str | Sequence[str]
    tracked: int | str | Sequence[str | int]
    positions: Any
    edits: Edit | Iterable[Edit]
    row: int
    lens: Any
    against: str
    through: int
    pins: Sequence[Mapping[str, int]]
    color: Literal["probability", "entropy", "rank", "kl", "tracked"]
    transposed: bool
    compare: Literal["alone", "beside", "change", "kl"]
    scale: Literal["linear", "log"]
    memory_limit: int


class GenerationKeywords(_Common, total=False):
    """Keywords of `GenerationView`: options of ``ll.generation_lens``, and how it looks."""

    max_new_tokens: int
    lens: Any
    points: str | Sequence[str]
    top_k: int
    edits: Edit | Iterable[Edit]
    temperature: float
    seed: int
    begin: str | int | Sequence[str | int]
    stop: str | Sequence[str]
    rule: Literal["margin", "confidence", "entropy", "state", "patience"]
    threshold: float
    min_layers: int
    verify: int
    row: int
    step: int
    before: Sequence[Mapping[str, Any]]
    pins: Sequence[Mapping[str, int]]
    color: Literal["written", "probability", "entropy", "margin", "rank", "kl"]
    transposed: bool
    memory_limit: int


class PatchKeywords(_Keywords, total=False):
    """Keywords of `PatchView`: options of ``ll.patch_sweep``, and how it looks."""

    answer: Any
    wrong: Any
    site: str
    by: Literal["position", "head"] | None
    metric: Any
    direction: Literal["denoise", "noise"]
    layers: Any
    positions: Any
    heads: Any
    neurons: Any
    window: int
    align: Any
    method: str
    verify: int
    estimate_first: bool
    head: int
    edits: Sequence[Mapping[str, Any]]
    history: Sequence[Mapping[str, Any]]
    memory_limit: int


class MetricsKeywords(_Keywords, total=False):
    """Keywords of `MetricsView`: options of ``ll.layer_metrics``, and how it looks."""

    skip_first: bool
    batch_size: int | None
    batch_tokens: int | None
    metric_options: Mapping[str, Mapping[str, Any]] | None
    workers: Any
    checkpoint: Any
    text: str
    head: int
    hidden: Sequence[str]
    focus: str
    scale: Literal["linear", "log"]
    overlay: bool


class AttentionKeywords(_Keywords, total=False):
    """Keywords of `AttentionView`: options of ``ll.attention``, and how it looks."""

    layers: Any
    weighting: str | Sequence[str]
    memory_limit: int
    head: int
    query: int
    key: int
    pins: Sequence[Mapping[str, Any]]
    shown: Sequence[int]
    reduce: Literal["one", "mean", "max"]
    mode: Literal["lines", "matrix", "both"]
    mask_sinks: bool
    compare: Literal["first", "second", "beside", "difference"]
    lead_open: bool
    part: str


class ExploreOptions(TypedDict, total=False):
    """Keywords of each view of `explore`."""

    lens: LensKeywords
    metrics: MetricsKeywords
    attention: AttentionKeywords
    patching: PatchKeywords


class KeywordSignature:
    """The ``__signature__`` of a view: what its ``__init__`` names, its options and its traits."""

    def __get__(self, view: object, owner: type[QuestionView]) -> inspect.Signature:
        from layerlens.analyses.contract.registry import get

        kind = inspect.Parameter
        _, *given = inspect.signature(owner.__init__).parameters.values()
        named = [p for p in given if p.kind is not kind.VAR_KEYWORD]
        taken = {p.name for p in named} | _CONSTANT
        traits = owner.class_traits()
        options = get(owner.ANALYSIS).options if owner.ANALYSIS else {}
        shown = {name: traits[name].default() for name in owner._keywords()}
        # A trait that has the name of an option is given as the option.
        defaults = {**options, **{name: shown[name] for name in shown if name not in options}}
        keywords = [
            kind(name, kind.KEYWORD_ONLY, default=default)
            for name, default in defaults.items()
            if name not in taken
        ]
        return inspect.Signature([*named, *keywords])
