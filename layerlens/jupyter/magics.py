"""Commands of a notebook: ``%%lens`` shows a text, ``%layerlens`` says what is in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

if TYPE_CHECKING:
    import pandas as pd

    from layerlens.model.lensmodel import LensModel
    from layerlens.views.base import View

Command = TypeVar("Command", bound=Callable[..., Any])

VIEWS = {
    "lens": "LensView",
    "attention": "AttentionView",
    "metrics": "MetricsView",
    "generation": "GenerationView",
    "explore": "explore",
}


def _options(command: Command) -> Command:
    """Say which options ``%%lens`` has, in the words that ``%%lens?`` shows."""
    view = argument("view", nargs="?", default="lens", choices=VIEWS, help="What is shown.")
    model = argument("--model", "-m", default="model", help="The variable with the model.")
    made: Command = magic_arguments()(view(model(command)))
    return made


@magics_class
class LayerLensMagics(Magics):
    """The commands, as ``%load_ext layerlens`` makes them known."""

    shell: InteractiveShell

    @_options
    @cell_magic
    def lens(self, line: str, cell: str) -> Any:
        """Show the text of the cell; where there is no model yet, the default one is loaded."""
        asked = parse_argstring(LayerLensMagics.lens, line)
        import layerlens as ll

        names = self.shell.user_ns
        if asked.model not in names and asked.model == "model":
            names["model"] = ll.load()
        model = names.get(asked.model)
        if not isinstance(model, ll.LensModel):
            raise UsageError(
                f"'{asked.model}' is no model of layerlens: run {asked.model} = ll.load(...), or "
                "name another variable with --model."
            )
        return getattr(ll, VIEWS[asked.view])(model, cell.removesuffix("\n"))

    @line_magic
    def layerlens(self, line: str) -> Any:
        """Say what is in memory (``status``), give it back (``free [NAME]``), or ``doctor``."""
        what, *rest = line.split() or ["status"]
        if what == "free" and len(rest) <= 1:
            return free(self.shell.user_ns, *rest)
        if what == "status" and not rest:
            return status(self.shell.user_ns)
        if what == "doctor" and not rest:
            import layerlens as ll

            return ll.doctor()
        raise UsageError(f"%layerlens knows status, free [NAME] and doctor, not '{line.strip()}'.")


def status(names: Mapping[str, Any]) -> pd.DataFrame:
    """Return the models and views that variables hold: what each is, its memory, its state."""
    import pandas as pd

    rows = [
        {"name": name, "what": repr(value).splitlines()[0], "MiB": mebibytes(value)}
        for name, value in _held(names)
    ]
    return pd.DataFrame(rows, columns=["name", "what", "MiB"]).set_index("name")


def free(names: dict[str, Any], name: str | None = None) -> str:
    """Close views and forget models, those of one variable or all; say what was given back.

    Raises
    ------
    UsageError
        The variable holds neither.
    """
    held = dict(_held(names))
    if name is not None and name not in held:
        known = ", ".join(held) or "none"
        raise UsageError(f"'{name}' holds no model or view of layerlens; these do: {known}.")
    gone = held if name is None else {name: held[name]}
    for value in gone.values():
        if not _is_model(value):
            value.close()
    for key in gone:
        del names[key]
    size = sum(mebibytes(value) for value in gone.values() if _is_model(value))
    said = ", ".join(gone) or "nothing"
    held.clear()
    gone.clear()
    _forget(names)
    return f"Forgotten: {said} ({size:.0f} MiB of weights, where nothing else holds them)."


def mebibytes(value: LensModel | View) -> float:
    """Return what a model's weights, or the arrays that a view shows, take in memory."""
    if _is_model(value):
        tensors = (*value.hf.parameters(), *value.hf.buffers())
        return float(sum(one.nbytes for one in tensors if not one.is_meta) / 2**20)
    stream = getattr(value, "_stream", None)
    frames = [] if stream is None else stream.sent
    return float(sum(len(part) for _, parts in frames for part in parts) / 2**20)


def _held(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The models and views that variables of the user hold; those of the history are not his."""
    from layerlens.views.base import View

    for name, value in list(names.items()):
        if not name.startswith("_") and (_is_model(value) or isinstance(value, View)):
            yield name, value


def _is_model(value: Any) -> bool:
    from layerlens.model.lensmodel import LensModel

    return isinstance(value, LensModel)


def _forget(names: dict[str, Any]) -> None:
    """Drop what IPython's history still holds of models and views, and empty torch's caches."""
    import torch

    from layerlens.views.base import View

    history = names.get("Out", {})
    for key in [k for k, v in history.items() if isinstance(v, View) or _is_model(v)]:
        del history[key]
    for key in [k for k, v in names.items() if k.startswith("_") and isinstance(v, View)]:
        names[key] = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
