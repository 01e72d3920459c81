"""A card, or several side by side, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import chain

from layerlens.cards.card import Card, Part, Sheet, written
from layerlens.export.html import POLICY

_STYLE = """
.ll-card { color-scheme: light dark; font: 14px/1.5 system-ui, sans-serif; max-width: 1100px; }
.ll-card .ll-row { display: grid; gap: 28px; }
.ll-card .ll-row { grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
.ll-card h2 { margin: 0 0 4px; font-size: 20px; }
.ll-card h3 { margin: 20px 0 4px; padding-top: 10px; border-top: 1px solid #8886; font-size: 15px; }
.ll-card p { margin: 4px 0; }
.ll-card .ll-sheet { max-height: 420px; overflow: auto; margin: 8px 0; }
.ll-card table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
.ll-card caption { text-align: left; padding: 2px 0 4px; opacity: .8; }
.ll-card :is(th, td) { padding: 2px 12px 2px 0; text-align: left; }
.ll-card :is(th, td) { border-bottom: 1px solid #8883; }
.ll-card figure { margin: 10px 0; }
.ll-card figcaption { font-size: 12.5px; opacity: .8; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ margin: 24px; }}</style>
</head>
<body><main>{content}</main></body>
</html>
"""


def whole(cards: Sequence[Card]) -> str:
    """Return a page of its own."""
    title = ", ".join(card.name for card in cards)
    return _PAGE.format(policy=POLICY, title=escape(title), content=fragment(cards))


def fragment(cards: Sequence[Card]) -> str:
    """Return a piece of any page: each section of the cards beside the same of the others."""
    heads = "".join(f"<h2>{escape(card.name)}</h2>" for card in cards)
    titles = dict.fromkeys(part.title for part in chain(*(card.parts for card in cards)))
    rows = []
    for title in titles:
        cells = "".join(
            f"<div>{''.join(map(_part, (p for p in card.parts if p.title == title)))}</div>"
            for card in cards
        )
        rows.append(f'<section><h3>{escape(title)}</h3><div class="ll-row">{cells}</div></section>')
    return (
        f'<div class="ll-card"><style>{_STYLE}</style><div class="ll-row">{heads}</div>'
        f"{''.join(rows)}</div>"
    )


def _part(part: Part) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in part.lines)
    figures = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{result.embed().html}</figure>"
        for caption, result in part.figures
    )
    return lines + "".join(map(_table, part.sheets)) + figures


def _table(sheet: Sheet) -> str:
    def row(entries: Sequence[object], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(written(e))}</{tag}>' for e in entries)}</tr>"

    body = "".join(row(entries, "td") for entries in sheet.rows)
    return (
        f'<div class="ll-sheet" tabindex="0"><table><caption>{escape(sheet.caption)}</caption>'
        f"<thead>{row(sheet.columns, 'th')}</thead><tbody>{body}</tbody></table></div>"
    )
