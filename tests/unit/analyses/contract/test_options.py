"""What options are is said once, and every analysis says it of all of its own."""

from __future__ import annotations

import inspect
import pydoc
import re

import pytest

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.options import TEXTS, described


def said(documentation: str) -> dict[str, str]:
    """Option to its text."""
    _, _, rest = documentation.partition("Parameters\n----------\n")
    section = re.split(r"^\w+\n-+$", rest, maxsplit=1, flags=re.M)[0]
    found = {}
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", section, flags=re.M):
        found |= dict.fromkeys(names.split(", "), text.strip())
    return found


@pytest.mark.parametrize("name", registry.names())
def test_every_option_of_an_analysis_is_described(name: str) -> None:
    asked = registry.get(name)
    texts = said(asked.__doc__ or "")
    missing = asked.options.keys() - {"add_bos"} - texts.keys()
    assert not missing
    assert all(texts.values())


def test_help_shows_the_text_of_an_option_that_is_only_named() -> None:
    written = " ".join(inspect.cleandoc(TEXTS["memory_limit"]).split())
    assert written not in inspect.getsource(inspect.getmodule(ll.causal_trace._function))
    assert written in pydoc.render_doc(ll.causal_trace)


def test_an_own_text_stays() -> None:
    written = (
        "What?\n\nParameters\n----------\nverify\n    Of one's own.\nmethod\n\nNotes\n-----\nx"
    )
    found = said(described(written, "made"))
    assert found["verify"] == "Of one's own."
    assert found["method"].startswith("How edited runs are computed")
    assert described(written, "made").endswith("\n\nNotes\n-----\nx")


def test_an_option_without_any_text_is_told() -> None:
    with pytest.raises(RuntimeError, match="The option unheard of made has no description"):
        described("What?\n\nParameters\n----------\nunheard\n", "made")
