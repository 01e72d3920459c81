"""The card itself: sections of sentences, tables and figures, as a page, Markdown or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.errors import ResultError
from layerlens.result.files import as_path, checked_path, write_bytes

if TYPE_CHECKING:
    from layerlens.result import Result

NOT_STATED = "Not stated by the author of this card."


@dataclass(frozen=True)
class Sheet:
    """A table: what it shows, the names of its columns, its rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass
class Part:
    """A section of a card.

    Attributes
    ----------
    title : str
        Its heading.
    lines : list of str
        Paragraphs.
    sheets : list of Sheet
        Tables.
    figures : list of (str, Result)
        A caption and what a figure is drawn from; pages have them, Markdown and JSON do not.
    """

    title: str
    lines: list[str] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    figures: list[tuple[str, Result]] = field(default_factory=list)


@dataclass
class Card:
    """What is known of a model, in the sections of a model card (Mitchell et al., 2019).

    Attributes
    ----------
    name : str
        The model's name.
    facts : dict
        What stands in the head of a model card on a hub: licence, library, size.
    parts : list of Part
        The sections, in order.
    """

    name: str
    facts: dict[str, Any]
    parts: list[Part]

    def part(self, title: str) -> Part:
        """Return the section with this title, a new last one if there is none."""
        found = next((part for part in self.parts if part.title == title), None)
        if found is None:
            found = Part(title)
            self.parts.append(found)
        return found

    def add(self, result: Result, caption: str, part: str = "Quantitative analyses") -> Card:
        """Put the figure of a result into a section; return the card."""
        self.part(part).figures.append((caption, result))
        return self

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write the card as one page, its figures to be handled, that makes no request."""
        from layerlens.cards.page import whole

        return write_bytes(checked_path(path, ".html", ".htm"), whole([self]).encode("utf-8"))

    def markdown(self, path: str | os.PathLike[str]) -> Path:
        """Write the card as a hub keeps it: YAML at the top, then Markdown; without figures."""
        return write_bytes(checked_path(path, ".md"), self.to_markdown().encode("utf-8"))

    def json(self, path: str | os.PathLike[str]) -> Path:
        """Write sentences and tables as JSON, which `Card.open` reads; without figures."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        return write_bytes(checked_path(path, ".json"), text.encode("utf-8"))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Card:
        """Read a card that `json` wrote.

        Raises
        ------
        ResultError
            It is no such file.
        """
        try:
            found = json.loads(as_path(path).read_text(encoding="utf-8"))
            parts = [
                Part(part["title"], part["lines"], [_sheet(one) for one in part["sheets"]])
                for part in found["parts"]
            ]
            return cls(found["name"], found["facts"], parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"'{path}' is no card that layerlens wrote: {error!r}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Return what `json` writes."""
        parts = [
            {
                "title": part.title,
                "lines": part.lines,
                "sheets": [
                    {**asdict(one), "columns": list(one.columns), "rows": list(map(list, one.rows))}
                    for one in part.sheets
                ],
            }
            for part in self.parts
        ]
        return {"name": self.name, "facts": self.facts, "parts": parts}

    def to_markdown(self) -> str:
        """Return what `markdown` writes."""
        from huggingface_hub import ModelCardData

        head = ModelCardData(**self.facts).to_yaml()
        lines = ["---", head, "---", "", f"# {self.name}", ""]
        for part in self.parts:
            lines += [f"## {part.title}", ""]
            for line in part.lines:
                lines += [line, ""]
            for sheet in part.sheets:
                lines += [*_markdown(sheet), ""]
        return "\n".join(lines)

    def beside(self, other: Card) -> Cards:
        """Return both cards side by side."""
        return Cards((self, other))

    def _repr_html_(self) -> str:
        from layerlens.cards.page import fragment

        return fragment([self])

    def __repr__(self) -> str:
        return f"Card of {self.name}: {', '.join(part.title for part in self.parts)}"


@dataclass(frozen=True)
class Cards:
    """Cards side by side, section by section."""

    cards: Sequence[Card]

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write them as one page."""
        from layerlens.cards.page import whole

        page = whole(list(self.cards)).encode("utf-8")
        return write_bytes(checked_path(path, ".html", ".htm"), page)

    def _repr_html_(self) -> str:
        from layerlens.cards.page import fragment

        return fragment(list(self.cards))


def written(value: Any) -> str:
    """Return an entry of a table as text; numbers in three digits."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _sheet(found: dict[str, Any]) -> Sheet:
    return Sheet(found["caption"], tuple(found["columns"]), tuple(map(tuple, found["rows"])))


def _markdown(sheet: Sheet) -> list[str]:
    def row(entries: Sequence[Any]) -> str:
        return f"| {' | '.join(written(one).replace('|', chr(92) + '|') for one in entries)} |"

    rule = f"|{' --- |' * len(sheet.columns)}"
    return [sheet.caption, "", row(sheet.columns), rule, *map(row, sheet.rows)]
