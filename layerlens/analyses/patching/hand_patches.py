"""One pair of texts and a metric, ready for patches that are picked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric, make_metric
from layerlens.analyses.patching.pair_runs import recovered
from layerlens.analyses.texts.text_pair import Pair, make_pair
from layerlens.errors import InputError
from layerlens.model.sites import HEADS, Site
from layerlens.run.answer_place import answer_place
from layerlens.run.base import wanted_logits
from layerlens.run.edits import Edit, edit
from layerlens.run.record import run
from layerlens.run.values import source

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Place:
    """Where in a run: a layer, and a position or None for all."""

    layer: int
    position: int | None = None


@dataclass(frozen=True)
class Patch:
    """One activation of the other run, put into the run that is patched.

    Attributes
    ----------
    site
        Kind of the site, in both runs; ``q`` and ``k`` are before the rotary embedding, ``rot_q``
        and ``rot_k`` after it.
    to, source
        Where it goes, and where it is taken from.
    head
        One head of a site that has heads (key-value heads for ``k``, ``rot_k`` and ``v``); None for
        all.
    """

    site: str
    to: Place
    source: Place
    head: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run answers.

    Attributes
    ----------
    probabilities
        ``[vocabulary]`` float32, of the next token.
    metric, recovered
        As in a patching sweep; `recovered` is NaN where the two runs hardly differ.
    """

    probabilities: np.ndarray
    metric: float
    recovered: float


class Bench:
    """A pair of texts whose one run is patched with activations of the other.

    Parameters
    ----------
    model
        From :func:`layerlens.load`.
    clean, corrupt
        One text each.
    metric, answer, wrong, direction, align
        As in :func:`layerlens.patch_sweep`.
    texts
        How the two texts are written in code, by ``clean`` and ``corrupt``; by default as token
        ids.

    Attributes
    ----------
    pair, metric
        Resolved.
    ends
        The metric of the clean and of the corrupted run.
    before
        How the run that is patched answers by itself.

    Raises
    ------
    InputError
        As :func:`layerlens.patch_sweep`.

    Examples
    --------
    >>> model = ll.load("toy:induction")
    >>> bench = Bench(model, model.tokens("cat dog owl cat"), model.tokens("cat fox owl cat"))
    >>> bench.after([Patch("resid_pre", Place(0, 2), Place(0, 2))]).recovered
    1.0
    """

    def __init__(
        self,
        model: LensModel,
        clean: Tokens,
        corrupt: Tokens,
        *,
        metric: Any = "logit_diff",
        answer: str | int | None = None,
        wrong: str | int | None = None,
        direction: str = "denoise",
        align: Any = None,
        texts: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.pair: Pair = make_pair(clean, corrupt, align, direction)
        self._last = Site("resid_post", model.n_layers - 1)
        self._texts = texts or {}
        runs = [self._run(tokens, ()) for tokens in (self.pair.clean, self.pair.corrupt)]
        finals = [final for final, _ in runs]
        with model.running():
            self.metric: Metric = make_metric(
                model,
                metric,
                final=finals[0],
                other=finals[1],
                answer=None if answer is None else model.token_id(answer, self.pair.clean),
                wrong=None if wrong is None else model.token_id(wrong, self.pair.clean),
            )
        clean_end, corrupt_end = map(self._measure, finals)
        self.ends: tuple[float, float] = clean_end, corrupt_end
        self.before: Outcome = self._outcome(*runs[1 if direction == "denoise" else 0])

    def _run(self, tokens: Tokens, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
        """State after the last block, and logits, both where the text is answered."""
        at = answer_place(self.model, tokens)
        wanted = wanted_logits(self.model)
        with self.model.running():
            trace = run(self.model, tokens, edits, sites=[self._last], logits=wanted)
            final = trace[self._last][0, at]
            own = trace.logits
            logits = self.model.unembed(final) if own is None else own[0, at - tokens.ids.shape[1]]
        return final, logits

    def _outcome(self, final: Tensor, logits: Tensor) -> Outcome:
        value = self._measure(final)
        with self.model.running():
            chances = logits.float().softmax(-1).cpu().numpy()
        share = recovered(np.array([value]), *self.ends, self.pair.direction)
        return Outcome(chances, value, float(share[0]))

    def _measure(self, final: Tensor) -> float:
        with self.model.running():
            return float(self.metric(final.unsqueeze(0))[0])

    def edits(self, patches: Sequence[Patch]) -> list[Edit]:
        """The patches as edits of the run that is patched.

        Raises
        ------
        InputError
            A place does not exist, or one side names a position and the other all of them.
        """
        return [self._edit(patch) for patch in patches]

    def _edit(self, patch: Patch) -> Edit:
        if (patch.to.position is None) != (patch.source.position is None):
            raise InputError("A patch goes from one position to one, or from all to all.")
        if patch.head is not None and patch.site not in HEADS:
            raise InputError(f"{patch.site} has no heads; only {', '.join(HEADS)} have.")
        head = "" if patch.head is None else f".{patch.head}"
        same = patch.to.layer == patch.source.layer
        origin = None if same else f"{patch.site}.{patch.source.layer}{head}"
        to, come = self._positions(patch)
        name = f"{patch.site}.{patch.to.layer}{head}"
        return edit(name, "set", source(self._text("source"), origin, come), position=to)

    def _positions(self, patch: Patch) -> tuple[Any, Any]:
        """Where it goes and where it comes from, as an edit says it."""
        lengths = [tokens.ids.shape[1] for tokens in (self.pair.base, self.pair.source)]
        if patch.to.position is not None and patch.source.position is not None:
            for which, position, length in zip(
                ("goes to", "comes from"), (patch.to.position, patch.source.position), lengths,
                strict=True,
            ):  # fmt: skip
                if not 0 <= position < length:
                    raise InputError(
                        f"A patch {which} position {position}; that text has {length} tokens, "
                        "counted from 0."
                    )
            return patch.to.position, patch.source.position
        if self.pair.partner == tuple(range(lengths[1])):
            return None, None
        both = [(here, there) for here, there in enumerate(self.pair.partner) if there is not None]
        return [here for here, _ in both], [there for _, there in both]

    def after(self, patches: Sequence[Patch]) -> Outcome:
        """How the patched run answers."""
        return self._outcome(*self._run(self.pair.base, self.edits(patches)))

    def code(self, patches: Sequence[Patch]) -> str:
        """The Python that makes the patched run again."""
        edits = ",\n    ".join(each.code for each in self.edits(patches))
        listed = f"[\n    {edits},\n]" if edits else "[]"
        return f"ll.run(model, {self._text('base')!r}, edits={listed})"

    def _text(self, which: str) -> Any:
        """The text of the run that is patched (``base``) or of the other (``source``)."""
        denoise = self.pair.direction == "denoise"
        name = "corrupt" if (which == "base") == denoise else "clean"
        tokens: Tokens = getattr(self.pair, which)
        return self._texts.get(name, tokens.ids[0].tolist())
