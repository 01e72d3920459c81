"""``python -m layerlens.demo [folder]``: the first look without a notebook.

Writes ``lens.html`` and ``lens.png`` and prints the best prediction after every block.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import layerlens as ll

if TYPE_CHECKING:
    from layerlens.result import Result

TEXT = "The capital of France is"


def by_layer(lens: Result) -> str:
    """Name the best next token after the text at every residual point, one line a point."""
    table = lens.to_pandas()
    best = table[table["position"] == table["position"].max()]
    lines = [
        f"  {point:>8}  {probability:7.2%}  {token!r}"
        for point, probability, token in zip(
            best["point"], best["probability"], best["top_token"], strict=True
        )
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the logit lens on one sentence and write the files."""
    parser = argparse.ArgumentParser(prog="python -m layerlens.demo", description=__doc__)
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--text", default=TEXT)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)

    model = ll.load()
    lens = ll.logit_lens(model, given.text)
    files = lens.html(given.folder / "lens.html"), lens.png(given.folder / "lens.png")
    print(f"{model.name}: the best next token after {given.text!r}, point by point")
    print(by_layer(lens))
    print(lens.checks)
    print("Written:", *(path.resolve() for path in files))


if __name__ == "__main__":
    main()
