"""What an analysis says of itself: in the table of analyses, in its results and in its view."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Dose:
    """A number that an answer depends on, for a slider in its view.

    Parameters
    ----------
    option
        The option of the analysis that it is.
    values
        What the slider goes through.
    label
        What it is, in words.
    dim
        The axis of the answer along which its values lie already; "" where each has to be asked.
    """

    option: str
    values: tuple[float, ...]
    label: str
    dim: str = ""


@dataclass(frozen=True)
class About:
    """What the table of analyses, and the view of an answer, say of one.

    Parameters
    ----------
    name, question, source, cost, view
        See `layerlens.analyses.contract.contract.analysis`.
    lead
        One sentence: how to read the picture.
    opens
        Whether a cell of the answer can be opened.
    doses
        Sliders of its view.
    finds
        What is found by a token in its view: "neurons that write a token"; "" for nothing.
    """

    name: str
    question: str
    source: str
    cost: str
    view: str
    lead: str = ""
    opens: bool = False
    doses: tuple[Dose, ...] = ()
    finds: str = ""

    def shown(self) -> dict[str, str]:
        """As attributes of a result."""
        words = {name: getattr(self, name) for name in ("question", "source", "cost", "view")}
        more = {
            "lead": self.lead,
            "opens": "cell" if self.opens else "",
            "finds": self.finds,
            "doses": json.dumps([asdict(dose) for dose in self.doses]) if self.doses else "",
        }
        return words | {name: said for name, said in more.items() if said}
