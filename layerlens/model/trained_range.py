"""What a small model was trained on: outside of it, its numbers mean nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEY = "trained_range"
"""Where it stands in a model's configuration."""


@dataclass(frozen=True)
class TrainedRange:
    """The texts that a model was trained on.

    Attributes
    ----------
    form
        What they look like, in words that follow "texts like".
    longest
        Tokens of the longest one.
    repeats
        Lengths of the shortest and longest stretch that was repeated in them, or None.
    pairs
        Of sums of two numbers the rule by which those of training were chosen, a name of
        `layerlens.model.toys.PAIRS`, or None.
    """

    form: str
    longest: int
    repeats: tuple[int, int] | None = None
    pairs: str | None = None

    @classmethod
    def of(cls, config: Any) -> TrainedRange | None:
        """Read it from a configuration; None where it has none."""
        kept = getattr(config, KEY, None)
        if kept is None:
            return None
        repeats = kept["repeats"]
        repeated = None if repeats is None else tuple(repeats)
        return cls(kept["form"], kept["longest"], repeated, kept.get("pairs"))

    def store(self, config: Any) -> None:
        """Write it into a configuration, so that it is saved with the model."""
        setattr(config, KEY, asdict(self))

    def remark(self, length: int) -> str | None:
        """What to say of a text of so many tokens; None if it is within the range."""
        if length <= self.longest:
            return None
        return (
            f"the text has {length} tokens, but this model was trained on at most {self.longest} "
            f"({self}): what it does beyond means nothing"
        )

    def __str__(self) -> str:
        return f"texts like {self.form}"
