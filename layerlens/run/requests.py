"""Passes of a model that runs elsewhere: each one request, by nnsight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from layerlens.errors import LayerLensError, ModelError, SiteError
from layerlens.model.anatomy import Tap
from layerlens.model.gguf import first_line
from layerlens.model.sites import Site
from layerlens.run import serving
from layerlens.run.changes import Change
from layerlens.run.serving import HeadPath, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerlens.model.remote import RemoteModel
    from layerlens.model.text import Tokens

START = "start of block "
"""Name of a state that is kept for the sum between the sublayers."""


def remote_forward(
    model: RemoteModel,
    tokens: Tokens,
    sites: Iterable[Site],
    on_site: Callable[[Site, Tensor], None],
    *,
    logits: Literal["all", "last"] | None,
    changes: Sequence[Change],
) -> Tensor | None:
    """One pass as one request; see :func:`layerlens.run.forward.forward`."""
    wanted = list(sites)
    steps = steps_of(model, wanted, changes)
    inputs = model.feed.arguments(model.twin_hf, tokens, last_only=logits != "all")
    by_name = {str(site): site for site in wanted}
    found = _asked(model, inputs, steps, list(by_name), len(tokens.ids))
    for step in steps:
        if step.name in by_name:
            on_site(by_name[step.name], found[step.name])
    if logits is None:
        return None
    return found["logits"] if logits == "all" else found["logits"][:, -1:]


def _asked(
    model: RemoteModel, inputs: dict[str, Any], steps: list[Step], names: list[str], batch: int
) -> dict[str, Tensor]:
    import nnsight

    nn, how, walk, kept = model.nn, model.remote, serving.walk, serving.kept
    found: Any = None
    with model.asking(), nn.trace(remote=how, **inputs):
        passed = walk(nn, steps, batch)
        passed["logits"] = nn.output.logits.detach()
        found = nnsight.save(kept(passed, [*names, "logits"]))
    return dict(found)


def remote_cells(
    model: RemoteModel, batches: Sequence[tuple[Tokens, Sequence[Change]]], at: int
) -> list[Tensor]:
    """Last states at a position of many edited passes, ``[row, d_model]`` each, as one request.

    Parameters
    ----------
    batches
        What is fed in each pass, and what is changed there.
    """
    import nnsight

    last = Site("resid_post", model.n_layers - 1)
    runs = [
        (
            model.feed.arguments(model.twin_hf, tokens, last_only=True),
            steps_of(model, [last], changes),
            len(tokens.ids),
        )
        for tokens, changes in batches
    ]
    nn, how, walk, name = model.nn, model.remote, serving.walk, str(last)
    finals: Any = None
    with model.asking(), nn.session(remote=how):
        finals = nnsight.save([])
        for inputs, steps, batch in runs:
            with nn.trace(**inputs):
                passed = walk(nn, steps, batch)
                finals.append(passed[name][:, at].cpu())
    return list(finals)


def remote_answers(model: RemoteModel, states: Tensor, tokens: Sequence[int] | None) -> Tensor:
    """Logits of states ``[n, d_model]``, of some tokens or of all, as one request."""
    import nnsight

    nn, how, answers, head = model.nn, model.remote, serving.answers, head_of(model)
    inputs = model.feed.arguments(model.twin_hf, model.probe(1), last_only=True)
    found: Any = None
    with model.asking(), nn.trace(remote=how, **inputs):
        found = nnsight.save(answers(nn, head, states, tokens))
    return torch.as_tensor(found)


def remote_lens(
    model: RemoteModel,
    tokens: Tokens,
    points: Sequence[Site],
    rows: tuple[Tensor, Tensor],
    chosen: Tensor,
    top_k: int,
    changes: Sequence[Change],
    *,
    memory: int,
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """What a lens keeps of each point and of the last state, as one request.

    Parameters
    ----------
    rows
        Texts and positions that are looked at, ``[n]`` each.
    chosen, top_k, memory
        See :func:`layerlens.run.serving.reduce_rows`.

    Returns
    -------
    rows, logits
        Of each point, the last state's at the end; the model's own logits at the last position.
    """
    import nnsight

    last = Site("resid_post", model.n_layers - 1)
    names = [str(site) for site in (*points, last)]
    steps = steps_of(model, [*points, last], changes)
    inputs = model.feed.arguments(model.twin_hf, tokens, last_only=True)
    nn, how, head, batch = model.nn, model.remote, head_of(model), len(tokens.ids)
    walk, reduce_rows = serving.walk, serving.reduce_rows
    text, place = rows
    found: Any = None
    with model.asking(), nn.trace(remote=how, **inputs):
        passed = walk(nn, steps, batch)
        own = nn.output.logits[:, -1:].detach().cpu()
        states = [passed[name][text, place] for name in names]
        found = nnsight.save((reduce_rows(nn, head, states, chosen, top_k, memory), own))
    return found[0], found[1]


def head_of(model: RemoteModel) -> HeadPath:
    """How states become logits there.

    Raises
    ------
    ModelError
        The model has no head, or one that answers once for all positions or adds a tensor.
    """
    head = model.anatomy.head
    if head is None or head.pool is not None or head.offset is not None:
        raise ModelError(
            f"What leads to the answers of {model.name} is no chain of modules that gives one at "
            "each position, so they cannot be computed where it is: load it with ll.load."
        )
    return HeadPath(head.chain, head.head, head.scale_in, head.operations, head.widens)


def steps_of(model: RemoteModel, sites: Sequence[Site], changes: Sequence[Change]) -> list[Step]:
    """What has to be done for some sites and changes, in the order in which they pass.

    Raises
    ------
    SiteError
        One of them is no input or output of one module.
    """
    steps: dict[tuple[Any, ...], Step] = {}
    by_site: dict[Site, list[Change]] = {site: [] for site in sites}
    for change in changes:
        by_site.setdefault(change.site.whole, []).append(change)
    for site, own in by_site.items():
        kept = str(site) if site in sites else ""
        if site.head is not None:
            raise SiteError(f"{site} comes with all heads from elsewhere: ask for {site.whole}.")
        if site.kind == "resid_mid" and own:
            start, step = _between(model, site, own, kept)
            steps[model.order(start.path, start.side), 2, start.name] = start
            steps[model.order(step.path, step.side), 3, kept] = step
            continue
        tap = _tap(model, site)
        heads = model.anatomy.blocks[site.block].n_heads if site.kind == "z" else 0
        step = Step(tap.module, tap.side, tap.scale, heads, tuple(own), kept)
        steps[model.order(tap.module, tap.side), 1, str(site)] = step
    return [steps[key] for key in sorted(steps)]


def _between(
    model: RemoteModel, site: Site, changes: Sequence[Change], name: str
) -> tuple[Step, Step]:
    """The state between sublayers, which no module holds: changed by what the first one adds."""
    block = model.anatomy.blocks[site.block]
    tap = _tap(model, Site("attn_out", site.block))
    if block.mid_norm is not None or block.pre_norm is not None:
        raise SiteError(
            f"{site} of a remote model with norms on its stream cannot be edited: edit attn_out or "
            "resid_post."
        )
    begin = START + str(site.block)
    start = Step(block.path, "input", name=begin)
    return start, Step(tap.module, tap.side, tap.scale, 0, tuple(changes), name, begin)


def _tap(model: RemoteModel, site: Site) -> Tap:
    tap = model.anatomy.tap(site)
    if tap.vector:
        raise SiteError(
            f"{site} of a remote model cannot be read: {tap.vector}, with which it is multiplied, "
            "is not sent along; load the model with ll.load."
        )
    if tap.plus or tap.columns is not None:
        raise SiteError(
            f"{site} is no input or output of one module here, which is all that is seen of a "
            "model that runs elsewhere: load it with ll.load."
        )
    return tap


def explained(error: Exception, model: RemoteModel) -> LayerLensError:
    """What went wrong with a request, in one sentence."""
    if isinstance(error, LayerLensError):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = lines[-1].strip() if lines else first_line(error)
    return ModelError(
        f"{model.name} did not answer a request ({type(error).__name__}: {said.rstrip('.')}): see "
        "whether it is running there (nnsight.status()), and whether your key is set."
    )
