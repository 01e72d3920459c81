"""What editors and type checkers are told of the keywords of a view."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import layerlens as ll
from layerlens.views.keywords import (
    AttentionKeywords,
    GenerationKeywords,
    LensKeywords,
    MetricsKeywords,
    PatchKeywords,
)

KEYWORDS: dict[type, Any] = {
    ll.AttentionView: AttentionKeywords,
    ll.GenerationView: GenerationKeywords,
    ll.LensView: LensKeywords,
    ll.PatchView: PatchKeywords,
    ll.MetricsView: MetricsKeywords,
}
NAMED = {"other", "label"}
"""Keywords that an ``__init__`` names itself."""


@pytest.mark.parametrize("view", KEYWORDS, ids=lambda view: view.__name__)
def test_a_signature_and_its_type_name_the_same_keywords(view: type) -> None:
    parameters = inspect.signature(view).parameters.values()
    only = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - NAMED
    assert only == set(KEYWORDS[view].__annotations__)
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters)
    assert all(p.default is not inspect.Parameter.empty for p in parameters if p.name in only)


@pytest.mark.parametrize("jedi", [True, False])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ll.LensView(model, 'x', trac", "tracked="),
        ("ll.PatchView(model, 'x', 'y', answ", "answer="),
        ("ll.MetricsView(model, 'x', skip_", "skip_first="),
        ("ll.explore(model, 'x', corr", "corrupt="),
        ("ll.logit_lens(model, 'x', top_", "top_k="),
    ],
)
def test_a_shell_completes_keywords(code: str, expected: str, jedi: bool) -> None:
    shell = InteractiveShell()
    shell.user_ns["ll"] = ll
    shell.Completer.use_jedi = jedi
    with provisionalcompleter():
        found = [one.text for one in shell.Completer.completions(code, len(code))]
    assert expected in found
