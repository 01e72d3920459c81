"""How steady a fitted Jacobian is: what its users have to know before they read it."""

from __future__ import annotations

from layerlens.result.fitted import Fitted

STEADY = 0.9
"""Cosine of two halves of the texts from which a matrix is called steady."""
_HALVES = "halves_cosine/"


def steadiness(lens: Fitted) -> str:
    """Say of how many texts a Jacobian lens is, and from which depth on halves of them agree."""
    scores = lens.scores.get("train", {})
    prompts = int(scores.get("prompts", 0))
    halves = {
        name.removeprefix(_HALVES): value
        for name, value in scores.items()
        if name.startswith(_HALVES)
    }
    of = f"The Jacobian lens is a mean over {prompts} text{'s' * (prompts != 1)}"
    if not halves:
        return f"{of}; how steady it is is not known."
    unsteady = [label for label, value in halves.items() if value < STEADY]
    if not unsteady:
        return f"{of}, two halves of which agree at every point (cosine {STEADY} or more)."
    low = min(halves.values())
    return (
        f"{of}, which do not agree up to {unsteady[-1]}: there two halves of them have a cosine "
        f"below {STEADY}, down to {low:.2f}. Give more texts before it is read there."
    )
