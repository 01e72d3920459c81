"""Which experts a mixture of experts chooses for each token, as its own routers say it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import ModelError
from layerlens.run.forward import forward
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_PROBE = 5  # tokens of the pass in which routers are looked for


@dataclass(frozen=True)
class Router:
    """Where a block says which experts it chose.

    Attributes
    ----------
    path
        Of the module.
    side
        ``"output"``: it gives the choice, ``"input"``: it is given it (the experts themselves).
    n_experts
        How many there are to choose from; experts that every token passes are none of them.
    n_chosen
        How many each token gets.
    experts
        Path of the module that is given the choice, where there is one beside it; "" else.
    """

    path: str
    side: str
    n_experts: int
    n_chosen: int
    experts: str = ""


@dataclass(frozen=True)
class Choice:
    """What a router chose for each row (a token, padding among them).

    Attributes
    ----------
    experts
        ``[row, choice]`` int64.
    weights
        ``[row, choice]`` float32: what each expert's output is multiplied with.
    width
        Experts to choose from, as the scores beside it say; 0 where there are none.
    """

    experts: Tensor
    weights: Tensor
    width: int = 0


OnChoice = Callable[[int, Choice], None]


def find_routers(model: LensModel) -> dict[int, Router]:
    """The router of each block that has one, seen in a short pass.

    A router is known by what it gives: for each token the numbers of a few experts and as many
    weights; or (Llama 4) a score for every expert that is 0 for all but the few best; or (JetMoE)
    all choices of all tokens sorted by expert, and how many each expert gets. Where the attention
    chooses experts, too, the router beside it is meant.

    Raises
    ------
    ModelError
        No block has one.
    """
    seen: dict[int, list[tuple[str, str, Choice]]] = {}
    blocks = {block.path: layer for layer, block in enumerate(model.anatomy.blocks)}
    gate = Gate()
    with ExitStack() as stack:
        for path, layer in blocks.items():
            for name, module in model.hf.get_submodule(path).named_modules():
                if name:
                    look = _look(seen.setdefault(layer, []), f"{path}.{name}", gate)
                    handle = module.register_forward_hook(look, with_kwargs=True)
                    stack.callback(handle.remove)
        ids = [index % model.d_vocab_in for index in range(_PROBE)]
        forward(model, model.tokens([ids]), [], lambda site, value: None, logits=None)
    found = {
        layer: _router(calls, model.anatomy.blocks[layer].mixer)
        for layer, calls in seen.items()
        if calls
    }
    if not found:
        raise ModelError(
            f"No module in the blocks of {model.name} says which experts each token goes to, so "
            "its routers cannot be read; ll.layer_metrics works here."
        )
    return found


@contextmanager
def watch_routers(
    model: LensModel, routers: dict[int, Router], tokens: Tokens, on_choice: OnChoice
) -> Iterator[dict[int, Tensor]]:
    """Hand over what each router chooses in the passes inside, layer by layer.

    Yields
    ------
    dict
        Layer to what its experts were given, ``[row, choice]``, where that can be seen beside
        the router.
    """
    gate, rows = Gate(), tokens.ids.numel()
    given: dict[int, Tensor] = {}

    def choosing(layer: int, side: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not gate.open:
                return
            values = output if side == "output" else (args, kwargs)
            choice = choice_in(values, rows)
            if choice is None:
                raise ModelError(
                    f"The router of layer {layer} of {model.name} gave no choice of experts in "
                    "this pass, as it had in a shorter one."
                )
            on_choice(layer, choice)

        return hook

    def taking(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            choice = choice_in((args, kwargs), rows)
            if gate.open and choice is not None:
                given[layer] = choice.experts

        return hook

    with ExitStack() as stack:
        for layer, router in routers.items():
            module = model.hf.get_submodule(router.path)
            hook = choosing(layer, router.side)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            if router.experts:
                module = model.hf.get_submodule(router.experts)
                handle = module.register_forward_hook(taking(layer), with_kwargs=True)
                stack.callback(handle.remove)
        yield given


def choice_in(values: Any, rows: int) -> Choice | None:
    """The choice among the tensors that a module gave or was given; None for no choice."""
    flat = [value.reshape(-1, value.shape[-1]) for value in _tensors(values) if value.dim() > 1]
    flat = [value for value in flat if len(value) == rows]
    numbers = [v for v in flat if not v.is_floating_point() and v.dtype != torch.bool]
    scores = [value for value in flat if value.is_floating_point()]
    for experts in numbers:
        for weights in scores:
            if weights.shape == experts.shape:
                wider = [s.shape[1] for s in scores if s.shape[1] > experts.shape[1]]
                width = wider[0] if len(wider) == 1 else 0
                return Choice(experts.cpu().long(), weights.cpu().float(), width)
    if len(scores) == 2 and (scattered := _scattered(scores)):
        return scattered
    return _sorted_by_expert(values, rows)


def _sorted_by_expert(values: Any, rows: int) -> Choice | None:
    """A choice that is said for all rows at once.

    Slots ``row * choices + choice`` in the order of the experts that they go to, a weight for
    each in that order, and a list of how many slots each expert gets.
    """
    if not isinstance(values, tuple):
        return None
    sizes = next((v for v in values if isinstance(v, list) and v and type(v[0]) is int), [])
    number, rest = divmod(sum(sizes), rows)
    if rest or not number:
        return None
    lines = [v for v in values if isinstance(v, Tensor) and v.shape == (number * rows,)]
    every = torch.arange(number * rows)
    slots = [v.cpu() for v in lines if not v.is_floating_point()]
    slots = [v for v in slots if torch.equal(v.sort().values, every)]
    weights = [v.cpu().float() for v in lines if v.is_floating_point()]
    if not slots or len(weights) != 1:
        return None
    places = slots[0].argsort()
    experts = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Choice(
        experts[places].view(rows, number), weights[0][places].view(rows, number), len(sizes)
    )


def _scattered(scores: list[Tensor]) -> Choice | None:
    """A choice that is said by zeros: scores ``[row, expert]`` that only the best ones keep."""
    for kept, every in (scores, scores[::-1]):
        if kept.shape != every.shape:
            return None
        counts = {int(count) for count in (kept != 0).sum(-1)}
        number = min(counts)
        if len(counts) == 1 and 0 < number < kept.shape[1]:
            best = every.float().topk(number, dim=-1).indices
            weights = kept.gather(-1, best)
            if bool((weights != 0).all()):
                return Choice(best.cpu(), weights.cpu().float(), kept.shape[1])
    return None


def _look(calls: list[tuple[str, str, Choice]], path: str, gate: Gate) -> Callable[..., None]:
    """A hook that notes whether a choice passes a module."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for side, values in (("output", output), ("input", (args, kwargs))):
            choice = choice_in(values, _PROBE) if gate.open else None
            if choice is None:
                continue
            width = choice.width if side == "output" else 0
            width = width or int(getattr(module, "num_experts", 0))
            if width > int(choice.experts.max()):
                calls.append((path, side, Choice(choice.experts, choice.weights, width)))
                return

    return hook


def _router(calls: list[tuple[str, str, Choice]], mixer: str | None) -> Router:
    """The router among the modules that a choice passes: one that gives it, else the first.

    What mixes positions is left out where something else chooses as well.
    """
    calls = [call for call in calls if not call[0].startswith(f"{mixer}.")] or calls
    path, side, choice = next((c for c in calls if c[1] == "output"), calls[0])
    experts = [other for other, way, _ in calls if way == "input" and other != path]
    width, number = choice.width, choice.experts.shape[1]
    return Router(path, side, width, number, experts[0] if experts else "")


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
