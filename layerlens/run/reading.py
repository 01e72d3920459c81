"""Sites read in calls of a model that are not ours, such as those of ``generate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from layerlens.errors import SiteError
from layerlens.run.forward import OnSite, read_taps
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site


@contextmanager
def reading(model: LensModel, sites: Sequence[Site], batch: int, on_site: OnSite) -> Iterator[None]:
    """Hand over sites in every call of ``model.hf`` on this thread.

    The hooks of a call are made when it begins. Edits of ``model.edited`` that began before do
    the same earlier, so a site that is changed is handed over after the change.

    Parameters
    ----------
    sites
        Outside the attention function: states of the stream, outputs of sublayers, ``normalized``.
    batch
        Rows of each call.
    on_site
        As :func:`layerlens.run.forward.forward` calls it; the tensor holds what the call was
        given, which is the newest position alone once a cache is filled.

    Raises
    ------
    SiteError
        If a site does not exist in this model, or did not fire exactly once in a call.
    """
    gate = Gate()
    fired: Counter[Site] = Counter()
    depth = model.passes

    def hand_over(site: Site, tensor: Tensor) -> None:
        fired[site] += 1
        with gate.closed():
            on_site(site, tensor)

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Passes of our own inside a call (a source that is recorded) are not part of it.
        if gate.ours and model.passes <= depth:
            fired.clear()
            read_taps(model, sites, batch, hand_over, gate, call)

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not gate.ours or model.passes > depth:
            return
        call.close()
        wrong = [site for site in sites if fired[site] != 1]
        if wrong and output is not None:
            raise SiteError(
                f"{wrong[0]} fired {fired[wrong[0]]} times in one call of the model instead of "
                "once; what was read cannot be trusted."
            )

    with ExitStack() as stack, ExitStack() as call:
        stack.callback(model.hf.register_forward_pre_hook(entering, with_kwargs=True).remove)
        stack.callback(model.hf.register_forward_hook(leaving, always_call=True).remove)
        yield
