"""What a user wants changed while a model runs: one edit, its checks, JSON and code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from layerlens.errors import InputError
from layerlens.model.sites import SiteName, parse_site
from layerlens.run.edit_arguments import (
    Steps,
    heads_of,
    key_of,
    layers_of,
    neurons_of,
    require_op,
    steps_of,
    value_of,
)
from layerlens.run.values import as_position, decode, encode, literal


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """One change to make while a model runs, as the user wrote it; made by :func:`edit`.

    It names no model and no text: what it means in a run is found when it is used.

    Attributes
    ----------
    kind
        Kind of the site, such as ``"z"``.
    op
        The operation.
    value
        A number, a tensor, texts or a `Source`; None where the operation needs none.
    layers, heads, neurons
        Numbers, as given; None for all (layers: None for sites that exist once).
    position, key
        Positions in the prompt, as given; None for all.
    steps
        Numbers of generated tokens, ``"all"``, or None.
    """

    kind: str
    op: str
    value: Any = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    position: Any = None
    neurons: tuple[int, ...] | None = None
    key: Any = None
    steps: Steps = None

    @property
    def in_prompt(self) -> bool:
        """Whether it applies to positions of the prompt."""
        return self.steps is None or self.position is not None

    @property
    def always(self) -> bool:
        """Whether it applies to every position of the prompt and to every generated token."""
        return self.steps == "all" and self.position == slice(None)

    def to_dict(self) -> dict[str, Any]:
        """The arguments of :func:`edit` that make it again, fit for JSON.

        Tensors are nested lists with their dtype, slices and sources are small objects.

        Raises
        ------
        InputError
            If its source is another model: a model cannot be written down.
        """
        given = {
            "site": self.kind,
            "op": self.op,
            "value": encode(self.value),
            "layer": _one_or_list(self.layers),
            "head": _one_or_list(self.heads),
            "position": None if self.always else encode(self.position),
            "neuron": _one_or_list(self.neurons),
            "key": encode(self.key),
            "steps": None if self.always else _one_or_list(self.steps),
            "always": self.always or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Edit:
        """Make an edit from what :meth:`to_dict` gave, or from arguments of :func:`edit`.

        Raises
        ------
        InputError
            For an argument that :func:`edit` does not have, or one that does not fit.
        """
        if not isinstance(given, Mapping):
            raise InputError(f"An edit in JSON is an object, not {given!r}: see Edit.to_dict.")
        unknown = sorted(set(given) - _ARGUMENTS)
        if unknown or not {"site", "op"} <= set(given):
            wrong = f"'{unknown[0]}' is not known" if unknown else "'site' or 'op' is missing"
            raise InputError(f"{wrong} in an edit: it has {', '.join(sorted(_ARGUMENTS))}.")
        return edit(**{name: decode(value) for name, value in given.items()})

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @property
    def code(self) -> str:
        """The Python that makes it again."""
        site, layer, head = self.kind, self.layers, self.heads
        if layer is not None and len(layer) == 1:
            site, layer = f"{site}.{layer[0]}", None
            if head is not None and len(head) == 1:
                site, head = f"{site}.{head[0]}", None
        arguments = [literal(site), literal(self.op)]
        if self.value is not None:
            arguments.append(literal(self.value))
        named = {"layer": _span(layer), "head": _one_or_list(head)}
        if not self.always:
            named["position"] = self.position
        named |= {"neuron": _one_or_list(self.neurons), "key": self.key}
        if not self.always:
            named["steps"] = _one_or_list(self.steps)
        named["always"] = self.always or None
        arguments += [f"{name}={literal(item)}" for name, item in named.items() if item is not None]
        return f"ll.edit({', '.join(arguments)})"

    def __repr__(self) -> str:
        return self.code


_ARGUMENTS = frozenset(
    {"site", "op", "value", "layer", "head", "position", "neuron", "key", "steps", "always"}
)


def edit(
    site: SiteName,
    op: str,
    value: Any = None,
    *,
    layer: int | Iterable[int] | None = None,
    head: int | Iterable[int] | None = None,
    position: Any = None,
    neuron: int | Iterable[int] | None = None,
    key: Any = None,
    steps: int | Iterable[int] | Literal["all"] | None = None,
    always: bool = False,
) -> Edit:
    """Say what to change while a model runs.

    Nothing runs yet: give the edit to :func:`layerlens.run`, :func:`layerlens.logit_lens`,
    ``model.generate``, ``model.edited`` or any analysis that takes ``edits=``. Several edits
    at one site apply in the order in which they are listed; across sites the model's own
    order decides, so that an edit sees what edits below it have done.

    Parameters
    ----------
    site
        Any name of a site: ``"z.7.3"`` (layer 7, head 3), ``"resid_post"`` with ``layer=``,
        ``"blocks.5.hook_mlp_out"``. ``q`` and ``k`` are those before the rotary embedding,
        ``rot_q`` and ``rot_k`` those after it, of which the scores are made; ``k``, ``rot_k`` and
        ``v`` have key-value heads.
    op
        - ``"set"``, ``"add"``, ``"scale"``: put ``value`` there, add it, multiply with it.
        - ``"zero"``: put zeros there.
        - ``"mean"``: put the mean over all positions of reference texts there (``value``: a
          text, a list of texts, or a floating tensor of activations, whose leading axes are
          averaged).
        - ``"resample"``: put the activation of another text there (``value``: a text or a
          :func:`source`), at the same positions.
        - ``"project_out"``: remove what lies along a direction ``[width]`` or in the span of
          several ``[n, width]``.
        - ``"freeze"``: hold at the value of the unedited run of the same text.
        - ``"block"``: cut attention from the queries at ``position`` to the keys at ``key``
          (site ``attn_scores``); the other weights share what is freed.
    value
        A number; a list, array or tensor that broadcasts to ``[position, width]``
        (``[position, head, width]`` where several heads are meant; ``pattern`` and
        ``attn_scores`` have keys for width), used in the model's dtype; or a
        :func:`source`, the activation of another run. A tensor that requires a gradient is
        kept, not copied, so that gradients reach it inside ``model.edited``.
    layer
        A number (negative from the end), or several: a window of layers.
    head
        A number or several; None for all.
    position
        Positions of the prompt: an index (negative from the end), a slice, a list of these,
        or the text of a token or span. None for every one, unless ``steps`` is given.
    neuron
        Entries of the last axis: a number or several; None for all.
    key
        Key positions of ``pattern`` and ``attn_scores``, written like ``position``; None for
        every key that the query can see.
    steps
        Generated tokens to apply at: numbers (0 is the first one, when it is fed back), or
        ``"all"``. With ``steps`` alone the prompt is left as it is; with ``position`` too,
        the edit applies at both.
    always
        At every position of the prompt and at every generated token.

    Returns
    -------
    Edit
        Frozen; ``.code`` writes the call again, ``.to_dict()`` is fit for JSON.

    Raises
    ------
    InputError
        If the arguments do not fit each other. What depends on the model or the text
        (layers, heads, shapes, positions) is checked when the edit is used.

    Notes
    -----
    A pattern is taken as it is given: its rows are not made to sum to 1 again, and numbers are
    written only where a query can see the key. Where ``pattern`` or ``attn_scores`` are edited,
    the heads' outputs of that layer are computed as pattern times v, which may differ in rounding
    from the kernel that the model itself uses. ``k``, ``rot_k`` and ``v`` of earlier tokens are
    edited again whenever they are read from a cache, so generating with and without one is the
    same. In families with attention code of their own the queries and keys that the scores are
    made of can be read and not edited.

    Examples
    --------
    >>> from layerlens.run.edits import edit
    >>> edit("z.7.3", "zero", position=4)
    ll.edit('z.7.3', 'zero', position=4)
    >>> edit("mlp_out", "scale", 0.5, layer=range(3, 6), always=True)
    ll.edit('mlp_out', 'scale', 0.5, layer=range(3, 6), always=True)
    """
    parsed = parse_site(site)
    require_op(op, parsed.kind)
    if always and (position is not None or steps is not None):
        raise InputError("always=True means every position and step: leave out position and steps.")
    if op == "freeze" and (always or steps is not None):
        raise InputError(
            "freeze holds values of the unedited run of the prompt; generated tokens have none, so "
            "leave out steps and always."
        )
    return Edit(
        kind=parsed.kind,
        op=op,
        value=value_of(op, value, parsed.kind),
        layers=layers_of(parsed.kind, parsed.layer, layer),
        heads=heads_of(parsed.kind, parsed.head, head),
        position=slice(None) if always else as_position(position),
        neurons=neurons_of(parsed.kind, neuron),
        key=key_of(parsed.kind, key),
        steps="all" if always else steps_of(steps),
    )


def _one_or_list(found: Sequence[int] | str | None) -> int | list[int] | str | None:
    if found is None or isinstance(found, str):
        return found
    return found[0] if len(found) == 1 else list(found)


def _span(found: tuple[int, ...] | None) -> Any:
    """A window of layers as a range, where it is one."""
    if found is None or len(found) < 3:
        return _one_or_list(found)
    window = range(found[0], found[-1] + 1)
    return window if tuple(window) == found else list(found)
