"""Weights of a shipped toy at several steps of its training, in one file.

``toy:modular@300`` is the toy as it was after 300 steps; ``ll.Runs("toy:modular")`` holds all of
them. They are kept in float16 and loaded in the dtype of the toy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.model.toys import PREFIX, get_toy, toy_folder

if TYPE_CHECKING:
    from torch import Tensor

FILE = "checkpoints.safetensors"
AT = "@"
"""Stands between the name of a toy and a step."""


def store(states: Mapping[int, Mapping[str, Tensor]], folder: Path) -> None:
    """Write the weights at each step, ``{step: state_dict}``, into the folder of a toy."""
    from safetensors.torch import save_file

    tensors = {
        f"{step}/{name}": weight.contiguous()
        for step, weights in states.items()
        for name, weight in weights.items()
    }
    save_file(tensors, folder / FILE, metadata={"steps": json.dumps(list(states))})


@cache
def steps_of(name: str) -> tuple[int, ...]:
    """Steps of which a toy ships the weights; none for most.

    Raises
    ------
    InputError
        There is no such toy.
    """
    from safetensors import safe_open

    path = toy_folder(name) / FILE
    if not path.is_file():
        return ()
    with safe_open(path, "pt") as file:
        return tuple(json.loads(file.metadata()["steps"]))


def split_step(source: str) -> tuple[str, int | None]:
    """The toy and the step that ``toy:modular@300`` names; None for the trained toy.

    Raises
    ------
    InputError
        The toy ships no weights of this step.

    Examples
    --------
    >>> split_step("toy:modular@0"), split_step("toy:modular")
    (('toy:modular', 0), ('toy:modular', None))
    """
    name, at, said = source.partition(AT)
    if not at:
        return name, None
    known = steps_of(name)
    if not said.isdigit() or int(said) not in known:
        ships = f"steps {', '.join(map(str, known))}" if known else "only the trained model"
        raise InputError(f"There is no {source!r}: {name!r} ships {ships}.")
    return name, int(said)


def put_in(hf: Any, name: str, step: int) -> None:
    """Put the weights of a step into the model of a toy."""
    from safetensors import safe_open

    with safe_open(toy_folder(name) / FILE, "pt") as file:
        front = f"{step}/"
        names = [key for key in file.keys() if key.startswith(front)]  # noqa: SIM118
        state = {key.removeprefix(front): file.get_tensor(key) for key in names}
    hf.load_state_dict(state)  # copies into the weights, whatever their dtype


def sources(source: str) -> dict[int, str]:
    """What to load for each step of a toy's training, by the step.

    Raises
    ------
    InputError
        It is no toy, or one without checkpoints.

    Examples
    --------
    >>> list(sources("toy:modular").values())[:2]
    ['toy:modular@0', 'toy:modular@50']
    """
    known = steps_of(get_toy(source).name)
    if not known:
        raise InputError(
            f"{source!r} ships no checkpoints: give ll.Runs a mapping from each step to its model."
        )
    name = PREFIX + source.removeprefix(PREFIX)
    return {step: f"{name}{AT}{step}" for step in known}
