"""Fitted lenses of the model that ``ll.load()`` gives: fitted once here, kept in the cache.

Run ``python -m layerlens.analyses.lenses.default_lens`` to fit the ridge and the bias lens, or
name kinds. They are fitted on texts that this machine has, the descriptions of its installed
packages; nothing is downloaded. Afterwards ``lens="ridge"`` opens what was fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerlens.corpus.installed import DOMAIN, installed_texts
from layerlens.corpus.texts import Texts, texts
from layerlens.errors import InputError, LayerLensError
from layerlens.model import default
from layerlens.model.cache import cache_root

if TYPE_CHECKING:
    from layerlens.result.fitted import Fitted

COMMAND = "python -m layerlens.analyses.lenses.default_lens"
KINDS = ("bias", "ridge", "tuned")
USUAL = ("bias", "ridge")
"""Kinds that the command fits when none is named: a tuned lens takes many times as long."""
LENGTH = 128
"""Tokens of each text."""

Say = Callable[[str], None]


def place(kind: str) -> Path:
    """Where a lens of the default model is, or will be."""
    return cache_root() / f"{default.NAME}-1-lenses" / f"{kind}.safetensors"


def find(kind: str) -> Path:
    """The file of a lens of the default model.

    Raises
    ------
    InputError
        It was never fitted; names the command that does.
    """
    found = place(kind)
    if not found.is_file():
        raise InputError(
            f"There is no {kind} lens of the default model in {found.parent} yet: fit it once with "
            f"`{COMMAND} {kind}`, or give what ll.fit_lens(model, texts, kind={kind!r}) returns."
        )
    return found


def corpus() -> Texts:
    """The texts that they are fitted on: one row of each installed package's description."""
    return texts(installed_texts(), length=LENGTH, long="cut")


def fit(kinds: Sequence[str] = USUAL, *, force: bool = False, say: Say = print) -> list[Fitted]:
    """Fit lenses of the default model and keep them; say before what it will take.

    Parameters
    ----------
    kinds
        Which.
    force
        Also those that are there already.
    say
        Gets one line of text for each step.

    Raises
    ------
    ModelError
        The default model was never fetched.
    """
    from layerlens.analyses.lenses.fitting.fit_lens import fit_lens
    from layerlens.model.load import load
    from layerlens.result.fitted import open_fitted

    model, given, found = load(), corpus(), []
    say(f"Texts: {DOMAIN} ({sum(1 for _ in given)} of them, {LENGTH} tokens each).")
    for kind in kinds:
        path = place(kind)
        if path.is_file() and not force:
            say(f"The {kind} lens is already in {path}")
            found.append(open_fitted(path))
            continue
        say(f"The {kind} lens: {fit_lens.estimate(model, given, kind=kind)}")
        lens: Fitted = fit_lens(model, given, kind=kind)  # type: ignore[assignment]
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"The {kind} lens is ready in {lens.save(path)}")
        found.append(lens)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line: kinds to fit, ``--force``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Fit lenses of the default model.")
    parser.add_argument(
        "kinds", nargs="*", help=f"of {', '.join(KINDS)}; else {' and '.join(USUAL)}"
    )
    parser.add_argument("--force", action="store_true", help="fit again even if it is there")
    options = parser.parse_args(arguments)
    if wrong := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"{wrong[0]} is no kind of lens: expected {', '.join(KINDS)}")
    try:
        fit(options.kinds or USUAL, force=options.force)
    except LayerLensError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
