"""The pages that are made from the package itself: the reference, the tables, the notebooks."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from textwrap import indent

from sphinx.ext.napoleon import Config, NumpyDocstring

import layerlens
from layerlens.index import INDEX

ROOMS = {
    "model": "Models",
    "run": "Runs and edits",
    "views": "Views",
    "result": "Results",
    "export": "Pages",
    "cards": "Cards",
    "corpus": "Many texts",
    "ask": "Tables, costs and checks",
    "errors": "Errors",
}
"""Rooms of the package with a title of their own; the others have the name of their room."""

ASK = frozenset({"analyses", "metrics", "contract", "glossary", "checkup"})
"""Rooms with one or two public names each, which share a page."""

SHOWN = {"solution": "hide-cell", "claim": "remove-cell"}
"""How the site shows the cells that a chapter has tagged."""


def write(docs: Path) -> None:
    """Write all of them anew beneath ``docs/made`` and ``docs/notebooks``."""
    made = docs / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    _reference(made)
    _tables(made)
    _notebooks(docs.parent / "notebooks", docs / "notebooks")


def _notebooks(source: Path, copies: Path) -> None:
    """The guide as it is; of the course's chapters solutions are folded, and claims left out."""
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(source, copies, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in (copies / "course").glob("*.ipynb"):
        chapter = json.loads(path.read_text())
        for cell in chapter["cells"]:
            tags = cell["metadata"].setdefault("tags", [])
            tags += [SHOWN[tag] for tag in tags if tag in SHOWN]
        path.write_text(json.dumps(chapter))


def _reference(made: Path) -> None:
    """One page a room, with every public name that lives there."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for name in sorted(layerlens.__all__, key=str.lower):
        rooms[_room(name)].append(name)
    for room, names in rooms.items():
        (made / f"api_{room}.md").write_text(_page(room, names))
    order = [room for room in ROOMS if room in rooms]
    order += sorted(set(rooms) - set(order))
    entries = "\n".join(f"api_{room}" for room in order)
    (made / "reference.md").write_text(
        "# Reference\n\nEvery public name of `import layerlens as ll`, by the room that it lives "
        "in. In a notebook, `?ll.logit_lens` says the same.\n\n"
        f"```{{toctree}}\n:maxdepth: 2\n\n{entries}\n```\n"
    )


def _room(name: str) -> str:
    module = layerlens._PLACES.get(name, f"layerlens.{name}").partition(":")[0]
    _, room, *below = module.split(".")
    room = below[0] if room == "analyses" and below else room
    return "ask" if room in ASK else room


def _page(room: str, names: list[str]) -> str:
    lines = [f"# {ROOMS.get(room, room.capitalize())}", ""]
    if (Path(layerlens.__file__).parent / "analyses" / room).is_dir():
        lines += [(import_module(f"layerlens.analyses.{room}").__doc__ or "").strip(), ""]
    for name in names:
        lines += [f"## {name}", "", "```{eval-rst}", _entry(name), "```", ""]
    return "\n".join(lines)


def _entry(name: str) -> str:
    """What Sphinx is to write about a public name."""
    value = getattr(layerlens, name)
    if inspect.isclass(value):
        return f".. autoclass:: layerlens.{name}\n   :members:"
    if not inspect.ismodule(value):
        return f".. autofunction:: layerlens.{name}"
    # A package that is called, such as `ll.run`: its call is a method of the package's own type.
    call = type(value).__call__
    _, *others = inspect.signature(call).parameters.values()
    signature = inspect.signature(call).replace(
        parameters=[one.replace(annotation=one.empty) for one in others],
        return_annotation=inspect.Signature.empty,
    )
    text = str(NumpyDocstring(inspect.getdoc(call) or "", Config(napoleon_use_rtype=False)))
    return f".. py:function:: layerlens.{name}{signature}\n\n{indent(text, '   ')}"


def _tables(made: Path) -> None:
    """What there is to ask, from the index that `ll.analyses()` and `ll.metrics()` read."""
    index = json.loads(INDEX.read_text())
    for kind, about in (
        ("analyses", "Each is called as `ll.NAME(model, ...)`, and takes `ll.estimate`."),
        ("metrics", "Names for `ll.layer_metrics(model, texts, metrics=[...])`."),
    ):
        rows = index[kind]
        lines = [f"# All {kind}", "", about, "", f"There are {len(rows)}.", ""]
        for name, row in rows.items():
            lines += [f"## `{name}`", "", _cell(row["question"]), ""]
            rest = (key for key in row if key != "question" and row[key])
            lines += [f"- *{key}*: {_cell(row[key])}" for key in rest]
            lines.append("")
        (made / f"{kind}.md").write_text("\n".join(lines))


def _cell(text: str) -> str:
    """Plain text, whatever it holds, as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>$|^~#])", r"\\\1", str(text))
