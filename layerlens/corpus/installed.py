"""Texts that every machine with Python has: the descriptions of installed packages."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

DOMAIN = "descriptions of installed Python packages: English prose, lists and code"
"""What these texts are, for whoever reads a number that was found on them."""


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
