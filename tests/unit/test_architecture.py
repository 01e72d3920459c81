"""The house rules that a reader relies on, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import layerlens

PACKAGE = Path(layerlens.__file__).parent

#: Data flows this way: a room imports only from rooms before it. Imports inside functions
#: are the stated exceptions: conveniences of an object that lead on to a later room.
ROOMS = [
    "errors",
    "glossary",
    "model",
    "run",
    "metrics",
    "result",
    "corpus",
    "figures",
    "export",
    "analyses",
    "views",
    "cards",
    "course",
    "jupyter",
]
#: Inside ``analyses/`` a room imports only from rooms of a line before its own.
QUESTIONS = [
    {"texts"},
    {"contract"},
    {"answers", "contributions", "measuring"},
    {"sweeps"},
    {"lenses"},
    {"probing"},
    {
        "attention",
        "depth",
        "embedding",
        "grafting",
        "information",
        "neurons",
        "numbers",
        "patching",
        "relevance",
        "removal",
        "sensitivity",
        "steering",
    },
    {"features", "tracing"},
    {"circuits"},
]
FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


@cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file."""
    return ast.parse(path.read_text())


def imported(path: Path, *, types: bool = False) -> list[list[str]]:
    """Places in this package that a file imports when it is itself imported, in parts.

    With ``types`` also what only a type checker imports.
    """
    places = []
    body = list(tree(path).body)
    if types:
        body += [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    for node in body:
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "layerlens":
                names = [f"layerlens.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        places += [name.split(".")[1:] for name in names if name.startswith("layerlens.")]
    return places


def test_imports_point_one_way() -> None:
    wrong = []
    for path in FILES:
        here = ROOMS.index(path.relative_to(PACKAGE).parts[0])
        later = [room for room, *_ in imported(path) if ROOMS.index(room) > here]
        wrong += [f"{path} imports from {room}, which lies further on" for room in later]
    assert wrong == []


def test_questions_build_on_each_other_one_way() -> None:
    rank = {room: line for line, rooms in enumerate(QUESTIONS) for room in rooms}
    wrong = []
    for path in (PACKAGE / "analyses").glob("*/*.py"):
        here = path.parent.name
        rooms = {place[1] for place in imported(path) if place[0] == "analyses" and len(place) > 1}
        late = [room for room in rooms if room != here and rank[room] >= rank[here]]
        wrong += [f"{path} imports from {room}, which is not before {here}" for room in late]
    assert wrong == []


@pytest.mark.parametrize("room", ["run", "metrics", "analyses"])
def test_no_file_needs_one_that_needs_it(room: str) -> None:
    files = (PACKAGE / room).rglob("*.py")
    needs = {
        path.relative_to(PACKAGE).with_suffix("").parts: map(tuple, imported(path, types=True))
        for path in files
    }
    TopologicalSorter(needs).prepare()  # raises, with the circle


def test_analyses_feed_only_what_the_contract_made_of_a_text() -> None:
    """A text that became tokens elsewhere has lost ``add_bos`` on the way."""
    paths = [p for p in (PACKAGE / "analyses").rglob("*.py") if p.parent.name != "contract"]
    found = {str(path): lines for path in paths if (lines := tokens_made_in(path))}
    assert found == {}, "take job.tokens(text)"


def tokens_made_in(path: Path) -> list[int]:
    """Lines in which a file makes tokens of a text by itself."""
    wrong = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr == "tokens":
            owner = function.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            wrong += [node.lineno] if name.lstrip("_") != "job" else []
        elif isinstance(function, ast.Name) and function.id in ("record", "run_layers", "encode"):
            wrong.append(node.lineno)
    return wrong


def test_files_stay_readable() -> None:
    lines = {str(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in lines.items() if n > 500} == {}


@pytest.mark.parametrize("module", ["layerlens", "layerlens.jupyter"])
def test_importing_is_light(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'matplotlib', 'transformers', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve_and_are_documented() -> None:
    for name in layerlens.__all__:
        assert getattr(layerlens, name).__doc__, name


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        layerlens.laod  # noqa: B018
