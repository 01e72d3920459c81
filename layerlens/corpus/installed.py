"""Texts that every machine with Python has: descriptions and docstrings of installed packages."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions

DOMAIN = "descriptions of installed Python packages: English prose, lists and code"
"""What these texts are, for whoever reads a number that was found on them."""
SHORTEST = 40
"""Characters of a docstring that says more than "See above"."""


def installed_texts(
    least: int = 600, most: int = 4000, packages: Iterable[Distribution] | None = None
) -> list[str]:
    """The beginning of the description of each installed package, in the order of their names.

    The same packages in the same versions give the same texts.

    Parameters
    ----------
    least
        Characters that a description has to have.
    most
        Characters that are taken of each.
    packages
        Instead of all that are installed.

    Examples
    --------
    >>> all(600 <= len(text) <= 1000 for text in installed_texts(most=1000))
    True
    """
    found: dict[str, str] = {}
    for package in distributions() if packages is None else packages:
        about = package.metadata
        text = str(about.get_payload() or about.get("Description") or "").strip()  # type: ignore[attr-defined]
        if len(text) >= least:
            found.setdefault(str(about["Name"]).casefold(), text[:most])
    return [found[name] for name in sorted(found)]


def installed_docs(
    least: int = 600, most: int = 400_000, packages: Iterable[Distribution] | None = None
) -> list[str]:
    """What the modules of installed packages say of themselves: a text for each, its docstrings.

    They come in the order of the packages' names, and of their files. The same packages in the
    same versions give the same texts; tests and what is no Python of today are left out.

    Parameters
    ----------
    least
        Characters that a module's docstrings have to have together.
    most
        Characters that are taken of the modules of each package.
    packages
        Instead of all that are installed.

    Examples
    --------
    >>> from importlib.metadata import distribution
    >>> texts = installed_docs(most=5000, packages=[distribution("packaging")])
    >>> all(len(text) >= 600 for text in texts), 0 < sum(map(len, texts)) <= 5000
    (True, True)
    """
    found: dict[str, list[str]] = {}
    for package in distributions() if packages is None else packages:
        name = str(package.metadata["Name"]).casefold()
        if name not in found:
            found[name] = list(_modules(package, least, most))
    return [text for name in sorted(found) for text in found[name]]


def _modules(package: Distribution, least: int, most: int) -> Iterator[str]:
    """The docstrings of each module, until so many characters were given."""
    for file in sorted(package.files or ()):
        if file.suffix != ".py" or {"test", "tests", "testing"} & set(file.parts):
            continue
        try:
            text = "\n\n".join(docstrings(file.read_text(encoding="utf-8")))
        except (OSError, SyntaxError, ValueError):
            continue  # listed and not there, or written for another Python
        if len(text) >= least and most >= least:
            yield text[:most]
            most -= len(text)


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of a module, of its classes and its functions, that are no mere remark.

    Raises
    ------
    SyntaxError
        The source is no Python of this version.
    ValueError
        It holds a null byte.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes in others' strings
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > SHORTEST:
                yield text
