"""What an analysis talks to while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.calling import tokens_of
from layerlens.analyses.contract.listeners import Listener
from layerlens.analyses.contract.parts import Coords, Parts, Variable, Where
from layerlens.analyses.contract.split import Split, split_labelled, split_texts
from layerlens.corpus.texts import Texts
from layerlens.errors import Cancelled, InputError
from layerlens.result.fitted import as_arrays

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.result import Check


class Job:
    """What an analysis talks to while it runs.

    Parameters
    ----------
    variables
        What the analysis may declare.
    listener
        Who hears of it.
    batched
        Whether every variable gets an axis of texts.
    model
        The model that was asked.
    fed
        What the analysis is handed, by the name of each text; ``ll.texts`` themselves where
        these were given, for what is said of each text.
    add_bos
        How texts become tokens in this call.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        listener: Listener,
        *,
        batched: bool,
        model: LensModel,
        fed: Mapping[str, Tokens | Texts],
        add_bos: bool | None = None,
    ) -> None:
        self.batched = batched
        self._model = model
        self._fed = fed
        self._add_bos = add_bos
        self.parts: Parts | None = None
        self.checks: list[Check] = []
        self.notes: dict[str, Any] = {}
        self.remarks: list[str] = []
        self.arrays: dict[str, Tensor] = {}
        self.scores: dict[str, dict[str, float]] = {}
        self.facts: dict[str, Any] = {}
        self._variables = variables
        self._listener = listener

    def tokens(
        self, text: Any, model: LensModel | None = None, *, like: Tokens | None = None
    ) -> Tokens:
        """The tokens of a further text, read as the texts of this call were (``add_bos``).

        Every text that an analysis feeds comes from here or from its own ``tokens``, so that no
        option of the call is lost on the way.

        Parameters
        ----------
        text
            In any form that ``model.tokens`` takes, or ``ll.texts``.
        model
            Another model that is to read it, with its own tokenizer.
        like
            What the text was made from; to text that a chat template made, no BOS is added.
        """
        add_bos = False if self._add_bos is None and like and like.chat else self._add_bos
        return tokens_of(model or self._model, text, add_bos)

    def labels(self, of: str | None = None, *, needed: bool = True) -> list[Any]:
        """The label of each text, as ``ll.texts(..., label=)`` has them.

        Parameters
        ----------
        of
            Name of the input; None for the first.
        needed
            Whether there must be labels; else, where no text has one, the list is empty.

        Raises
        ------
        InputError
            When the texts have none, or some of them.
        """
        found = [label for label, _ in self._marks(of)]
        if not needed and all(label is None for label in found):
            return []
        if any(label is None for label in found) or not found:
            raise InputError(
                "These texts have no labels: give ll.texts(texts, label=[...]) with one for each, "
                "or the name of a field that holds them."
            )
        return found

    def groups(self, of: str | None = None) -> list[Any] | None:
        """The group of each text, as ``ll.texts(..., group=)`` has them; None where none has one.

        Raises
        ------
        InputError
            When some texts have one.
        """
        found = [group for _, group in self._marks(of)]
        if all(group is None for group in found):
            return None
        if any(group is None for group in found):
            raise InputError("Some texts have no group, but others have: give each one.")
        return found

    def split(self, seed: int, test: float = 0.2, of: str | None = None) -> Split:
        """Set texts apart to test on, by their groups where they have some.

        The result says how: ``split_by``, ``split_seed``, ``split_test``, and the numbers of texts
        on either side.

        Parameters
        ----------
        seed
            Of the draw.
        test
            Share of the texts (or groups) to set apart.
        of
            Name of the input; None for the first.

        Raises
        ------
        InputError
            When the share does not fit, or leaves a side empty.
        """
        found = split_texts([group for _, group in self._marks(of)], seed, test)
        self._note_split(found, seed, test)
        return found

    def halves(self, seed: int, of: str | None = None) -> Split:
        """Deal labelled texts into halves, with each label in both, as `split` sets texts apart.

        Parameters
        ----------
        seed
            Of the draw.
        of
            Name of the input; None for the first.

        Raises
        ------
        InputError
            When texts lack labels, or a group has all texts of one.
        """
        labels = self.labels(of)
        found = split_labelled(self.groups(of) or [None] * len(labels), labels, seed)
        self._note_split(found, seed, 0.5)
        return found

    def _note_split(self, found: Split, seed: int, test: float) -> None:
        self.note(
            split_by=found.by,
            split_seed=seed,
            split_test=test,
            split_train_texts=len(found.train),
            split_test_texts=len(found.test),
        )

    def _marks(self, of: str | None) -> list[tuple[Any, Any]]:
        """Label and group of each text."""
        texts = self._fed[next(iter(self._fed)) if of is None else of]
        if isinstance(texts, Texts):
            if texts.labelled_by:
                self.note(labelled_by=texts.labelled_by)
                self.remark(
                    f"labels are silver: {texts.labelled_by} gave them, and some of them are wrong"
                )
            return [(item.label, item.group) for item in texts.items()]
        return [(None, None)] * len(texts.ids)

    def learned(
        self,
        arrays: Mapping[str, Any],
        scores: Mapping[str, Mapping[str, float]] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over what was learned so far; the last one of each name counts.

        Parameters
        ----------
        arrays
            Name to tensor or NumPy array; copied.
        scores
            Side (``train``, ``test``) to names of measures to values.
        facts
            What stands among the options of the :class:`layerlens.Fitted` beside those of the
            call, or in their place: which layer a default stood for.
        """
        self.arrays |= as_arrays(arrays)
        self.facts |= facts or {}
        for side, measures in (scores or {}).items():
            found = {name: float(value) for name, value in measures.items()}
            self.scores.setdefault(side, {}).update(found)

    @property
    def begun(self) -> bool:
        """Whether any part was handed over, or anything learned."""
        return self.parts is not None and (self.parts.begun or bool(self.arrays))

    def declare(
        self,
        sizes: Mapping[str, int],
        coords: Coords,
        only: Sequence[str] | None = None,
        hidden: Sequence[str] = (),
        variables: Mapping[str, Variable] | None = None,
    ) -> None:
        """State the length of each axis and its coordinates, once, before the first part.

        Variables with an axis that is not declared are left out of the result. For several
        texts, ``sizes`` holds ``batch`` too. Where options decide which variables there are,
        ``only`` names them in their order, and ``hidden`` those that no picture shows then. Where
        they are another analysis', they are given as ``variables``.
        """
        if variables is not None:
            self._variables = variables
        names = self._variables if only is None else only
        chosen = {name: self._variables[name] for name in names}
        chosen |= {name: replace(chosen[name], hidden=True) for name in hidden}
        self.parts = Parts(chosen, sizes, coords, batched=self.batched)
        self._listener.on_declare(dict(sizes), dict(coords), dict(self.parts.variables))

    def shorten(self, axis: str, length: int) -> None:
        """Leave off the end of an axis whose length is known only now, such as a written text's."""
        if self.parts is None:
            raise RuntimeError("declare() comes before shorten()")
        self.parts.shorten(axis, length)
        self._listener.on_shorten(axis, length)

    def label(self, coords: Coords) -> None:
        """Put in coordinates that were not known before, such as tokens that were written."""
        if self.parts is None:
            raise RuntimeError("declare() comes before label()")
        self.parts.coords.update(coords)
        self._listener.on_label(coords)

    def describe(self, name: str, **about: str) -> None:
        """Give a variable other ``units`` or another ``long_name``, as the options ask for."""
        if self.parts is None:
            raise RuntimeError("declare() comes before describe()")
        self.parts.variables[name] = replace(self.parts.variables[name], **about)  # type: ignore[arg-type]

    def emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Hand over a finished part.

        Parameters
        ----------
        where
            Axis name to index or slice; axes that are not named are whole.
        arrays
            Variable name to values, shaped by its axes without those given by an index.
        """
        if self.parts is None:
            raise RuntimeError("declare() comes before emit()")
        self.parts.put(where, arrays)
        self._listener.on_emit(where, arrays)

    def missing(self, name: str) -> float:
        """Return the value that stands where a variable has none."""
        return self._variables[name].fill

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Say that ``done`` of ``total`` steps are finished."""
        self._listener.on_progress(done, total, what)

    def check(self, name: str, error: float, limit: float, what: str) -> None:
        """Record a comparison; it is good when ``error`` is at most ``limit``."""
        from layerlens.result import Check

        found = Check(name, float(error), float(limit), bool(error <= limit), what)
        self.checks.append(found)
        self._listener.on_check(found)

    def tick(self) -> None:
        """Stop here, with :class:`Cancelled`, when someone asked for it."""
        if self._listener.cancelled():
            raise Cancelled("The analysis was stopped.")

    def note(self, **notes: Any) -> None:
        """Add to the attributes of the result."""
        self.notes.update(notes)
        self._listener.on_note(notes)

    def remark(self, sentence: str) -> None:
        """Tell the reader of the result something; it stands among its ``notes``."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)
