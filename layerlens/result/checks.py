"""Checks: what was verified for a result, with its numbers."""

from __future__ import annotations

import html
import json
import math
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One comparison with an identity, or with the model itself.

    Attributes
    ----------
    name : str
        Short name.
    error : float
        The largest deviation found, in the unit that `what` states; NaN if there was none to find.
    limit : float
        The largest deviation that is accepted.
    ok : bool
        Whether the check passed.
    what : str
        What was compared with what, as a sentence.
    """

    name: str
    error: float
    limit: float
    ok: bool
    what: str


class Checks(list[Check]):
    """The checks of one result; a list that prints as a table."""

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self)

    def __repr__(self) -> str:
        if not self:
            return "no checks"
        rows = [("check", "error", "limit", "", "what was compared"), *map(_cells, self)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = []
        for name, error, limit, ok, what in rows:
            cells = [name.ljust(widths[0]), error.rjust(widths[1]), limit.rjust(widths[2])]
            lines.append("  ".join([*cells, ok.ljust(widths[3]), what]).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th>{t}</th>" for t in ("check", "error", "limit", "", "what was compared")
        )
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(check)) + "</tr>"
            for check in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def records(self) -> list[dict[str, Any]]:
        """Return the checks as plain dictionaries that fit into JSON (None for NaN, infinity)."""
        return [
            {
                "name": check.name,
                "error": _finite(check.error),
                "limit": _finite(check.limit),
                "ok": bool(check.ok),
                "what": check.what,
            }
            for check in self
        ]

    def to_json(self) -> str:
        """Return the checks as JSON text, every number exactly as it is (NaN included)."""
        return json.dumps([check._asdict() for check in self])

    @classmethod
    def from_json(cls, text: str) -> Checks:
        """Return the checks that `to_json` wrote."""
        return cls(Check(**record) for record in json.loads(text))


def _cells(check: Check) -> tuple[str, str, str, str, str]:
    ok = "ok" if check.ok else "not ok"
    return check.name, f"{check.error:.2g}", f"{check.limit:.2g}", ok, check.what


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
