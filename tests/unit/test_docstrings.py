"""Every example in a docstring runs, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerlens as ll
from layerlens.model.lensmodel import LensModel

PACKAGE = Path(ll.__file__).parent
MODULES = [
    ".".join(("layerlens", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
ERRORS = {name for name in ll.__all__ if inspect.isclass(getattr(ll, name))
          and issubclass(getattr(ll, name), BaseException)}  # fmt: skip
CALLED = sorted(
    name for name in set(ll.__all__) - ERRORS if callable(getattr(ll, name))
    and not inspect.isclass(getattr(ll, name))
)  # fmt: skip
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@cache
def toy() -> LensModel:
    return ll.load("toy:induction")


def documented(name: str) -> str:
    """The docstring of a public name; of a callable package, that of its call too."""
    found = getattr(ll, name)
    call = type(found).__call__.__doc__ if inspect.ismodule(found) else ""
    return f"{inspect.getdoc(found)}\n{inspect.cleandoc(call or '')}"


def examples_of(module: str) -> list[doctest.DocTest]:
    """All examples of a module; analyses are objects, which doctest does not find by itself."""
    loaded = importlib.import_module(module)
    found = doctest.DocTestFinder(exclude_empty=True).find(loaded, module)
    own = [one for one in vars(loaded).values() if getattr(one, "about", None) is not None]
    parser = doctest.DocTestParser()
    for analysis in own:
        if analysis.__module__ == module and analysis.__doc__:
            found.append(parser.get_doctest(analysis.__doc__, {}, analysis.name, module, 0))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples_of(module)
    assert tests, "an example that nothing runs"
    for test in tests:
        known: dict[str, Any] = vars(importlib.import_module(module))
        test.globs = {**known, "ll": ll, "np": np, "model": toy()}
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        failed, _ = runner.run(test, out=said.append)
        assert not failed, "".join(said)
        assert not any(example.options.get(doctest.SKIP) for example in test.examples)


@pytest.mark.parametrize("name", CALLED)
def test_what_can_be_called_says_how(name: str) -> None:
    text = documented(name)
    parameters = [
        p for p in inspect.signature(getattr(ll, name)).parameters if p not in ("args", "kwargs")
    ]
    assert re.search(r"^Examples\n-+\n", text, re.M), "no example"
    assert not parameters or re.search(r"^Parameters\n-+\n", text, re.M), "no parameters"
    summary = text.lstrip().partition("\n\n")[0]
    assert summary.rstrip().endswith((".", "?", ")")), summary
