"""``python -m layerlens.course.make DIR``: the copies, the key and the rubric of the chapters.

Writes ``student/``, ``solution/``, ``key.json`` and ``rubric.md``. Each chapter is run, since the
truth of its questions is computed and not written down.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from layerlens.course import asked
from layerlens.course.copies import Cell, Notebook, points, solution, student, text
from layerlens.errors import InputError
from layerlens.result.files import write_bytes

Row = dict[str, Any]
"""Of a question: ``id``, ``kind``, ``ask``, ``truth``, ``tolerance``, ``unit``, ``points``."""


class Chapter(NamedTuple):
    """A chapter that has run.

    Attributes
    ----------
    name : str
        Of its file.
    source : dict
        The notebook as parsed JSON.
    key : list of dict
        Its questions in their order, each with every right answer.
    """

    name: str
    source: Notebook
    key: list[Row]

    def student(self) -> Notebook:
        """Return the copy for students."""
        return student(self.source)

    def solution(self) -> Notebook:
        """Return the copy in which all is solved and answered."""
        return solution(self.source, {row["id"]: row["truth"][0] for row in self.key})


def read(path: Path) -> Notebook:
    """Return a notebook as parsed JSON."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def ran(path: Path, show: Callable[[Any], object] = lambda value: None) -> Chapter:
    """Run a chapter from its first cell to its last, in this process, and compute its truths.

    Parameters
    ----------
    path : Path
        The source.
    show : callable
        Is called with what each cell ends with, as a notebook shows it.

    Raises
    ------
    InputError
        A cell raised; the error says which one, and what.
    """
    source, names = read(path), {"__name__": "__main__"}
    for number, cell in enumerate(source["cells"]):
        if cell["cell_type"] == "code":
            try:
                show(_run(cell, names))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                raise InputError(f"Cell {number} of '{path.name}' raised {said}") from error
    return Chapter(path.stem, source, list(_key(source)))


def _run(cell: Cell, names: dict[str, Any]) -> Any:
    """Run a cell and return what its last line is, if that is an expression without a semicolon."""
    code = text(cell)
    parsed = ast.parse(code)
    last = parsed.body[-1] if parsed.body else None
    if not isinstance(last, ast.Expr) or code.rstrip().endswith(";"):
        exec(compile(parsed, cell["id"], "exec"), names)
        return None
    parsed.body.pop()
    exec(compile(parsed, cell["id"], "exec"), names)
    return eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)


def _key(source: Notebook) -> Iterator[Row]:
    for key, prediction in asked.questions().items():
        question = prediction.asked
        yield {
            **{name: getattr(question, name) for name in ("id", "kind", "ask")},
            "truth": prediction.known(),
            "tolerance": question.tolerance,
            "unit": question.unit,
            "points": sum(points(cell) for cell in source["cells"] if f'"{key}"' in text(cell)),
        }


def rubric(chapters: list[Chapter]) -> str:
    """Return in Markdown what is asked in each chapter, what is right, and how much it counts."""
    lines = ["# Rubric", "", "A prediction is there to be made, right or wrong; it has no points."]
    for chapter in chapters:
        total = sum(row["points"] for row in chapter.key)
        lines += ["", f"## {chapter.name}: {total} points", ""]
        lines += [
            "| question | asks | right | within | points |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [f"| {' | '.join(_cell(each) for each in _told(row))} |" for row in chapter.key]
    return "\n".join(lines) + "\n"


def _told(row: Row) -> tuple[str, str, str, str, str]:
    right = " or ".join(_answer(row["kind"], one) for one in row["truth"])
    if row["kind"] == "text":
        right = f"read by you; for example: {right}"
    within = "" if row["tolerance"] is None else f"{row['tolerance']:g} {row['unit']}".rstrip()
    return row["id"], row["ask"], right, within, str(row["points"])


def _answer(kind: str, value: Any) -> str:
    if isinstance(value, list):
        between = "." if kind == "head" else ", "
        return between.join(_answer(kind, one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(told: str) -> str:
    return told.replace("|", "\\|").replace("\n", " ")


def make(folder: Path, sources: list[Path]) -> list[Chapter]:
    """Run chapters and write their copies, the key and the rubric into a folder."""
    chapters = []
    for path in sources:
        with asked.apart(), contextlib.redirect_stdout(io.StringIO()):
            chapters.append(ran(path))
    for chapter in chapters:
        for kind, notebook in (("student", chapter.student()), ("solution", chapter.solution())):
            _write(folder / kind / f"{chapter.name}.ipynb", _json(notebook))
    _write(folder / "key.json", _json({chapter.name: chapter.key for chapter in chapters}))
    _write(folder / "rubric.md", rubric(chapters))
    return chapters


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, written: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, written.encode("utf-8"))


def main(arguments: list[str] | None = None) -> None:
    """Make the copies of all chapters, or of those that are named."""
    from layerlens.course.places import chapters

    known = {path.stem: path for path in chapters()}
    parser = argparse.ArgumentParser(prog="python -m layerlens.course.make", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("chapter", nargs="*", choices=[[], *known], help="all, if none is named")
    given = parser.parse_args(arguments)
    made = make(given.folder, [known[name] for name in given.chapter or known])
    for chapter in made:
        print(f"{chapter.name}: {len(chapter.key)} questions")
    print("Written:", given.folder.resolve())


if __name__ == "__main__":
    main()
