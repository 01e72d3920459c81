"""Several edits at once: checked, as JSON, as code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layerlens.errors import InputError
from layerlens.run.edits import Edit


def edits_to_json(edits: Iterable[Edit]) -> str:
    """Several edits as JSON text; see :meth:`Edit.to_dict`.

    Parameters
    ----------
    edits
        What to write down.

    Raises
    ------
    InputError
        If one of them is no edit, or holds what JSON has no word for.

    Examples
    --------
    >>> import layerlens as ll
    >>> ll.edits_to_json([ll.edit("z.1.0", "zero")])
    '[{"site": "z", "op": "zero", "layer": 1, "head": 0}]'
    """
    return json.dumps([each.to_dict() for each in as_edits(edits)], ensure_ascii=False)


def edits_from_json(text: str | Sequence[Mapping[str, Any]]) -> list[Edit]:
    """Edits from JSON text, or from the list of objects that it stands for.

    Parameters
    ----------
    text
        As :func:`edits_to_json` wrote it.

    Returns
    -------
    list of Edit

    Raises
    ------
    InputError
        If it is no list of edits.

    Examples
    --------
    >>> import layerlens as ll
    >>> ll.edits_from_json('[{"site": "z", "op": "zero", "layer": 1, "head": 0}]')
    [ll.edit('z.1.0', 'zero')]
    """
    try:
        given = json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError as error:
        raise InputError(f"The edits are not JSON ({error}): see ll.edits_to_json.") from error
    if not isinstance(given, Sequence):
        raise InputError("Edits in JSON are a list of objects: see ll.edits_to_json.")
    return [Edit.from_dict(item) for item in given]


def code_of(edits: Iterable[Edit]) -> str:
    """The Python of a list that holds these edits."""
    return f"[{', '.join(each.code for each in as_edits(edits))}]"


def as_edits(edits: Edit | Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit or several as a tuple; raises ``InputError`` for anything else."""
    if not isinstance(edits, Edit | Iterable):
        raise InputError(f"edits is {edits!r}: make each edit with ll.edit(site, op, ...).")
    found = (edits,) if isinstance(edits, Edit) else tuple(edits)
    for each in found:
        if not isinstance(each, Edit):
            raise InputError(f"edits holds {each!r}: make each edit with ll.edit(site, op, ...).")
    return found
