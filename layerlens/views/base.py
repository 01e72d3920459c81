"""What every widget shares: bundle, strict keywords, requests and replies, a fallback picture."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import anywidget
import traitlets as t

from layerlens.errors import InputError, LayerLensError
from layerlens.views import bundle
from layerlens.views.outbox import Outbox
from layerlens.views.worker import Lane, Task, desk, new_owner

MAX_REQUESTS = 64
"""Requests of one widget that may wait; more are refused, so that a flood cannot pile up."""

Reply = tuple[Any, list[bytes]]
Answer = Callable[[dict[str, Any], Task], Reply]

READ_ONLY = {"sync": True, "echo_update": False}


def sentence(error: BaseException) -> str:
    """Return what to tell the user of an error."""
    if isinstance(error, LayerLensError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class View(anywidget.AnyWidget):
    """Base of all widgets.

    A subclass names its requests in `_answers` (method name to function and lane) and its
    messages in `_messages` (kind to function). Handlers may run on any thread: they put work into
    a lane and return.

    Raises
    ------
    TypeError
        A keyword is not a trait of the widget; the nearest name is given.
    LayerLensError
        The front end's files are missing.
    """

    view = t.Unicode("").tag(sync=True)
    title = t.Unicode("").tag(sync=True)
    theme = t.Enum(["auto", "light", "dark"], "auto").tag(sync=True)
    live = t.Bool(True, help="Whether a kernel and a model answer.").tag(**READ_ONLY)
    status = t.Dict(help="What the view is doing.").tag(**READ_ONLY)

    KERNEL_ONLY: frozenset[str] = frozenset({"view", "live", "status"})
    """Traits that the front end reads and never writes, besides those that :meth:`_writable` holds
    back for every view."""

    LATEST: frozenset[str] = frozenset()
    """Requests of which only the newest is answered."""

    _outbox: Outbox | None = None
    _owner = 0
    _closed = False

    def __init__(self, **traits: Any) -> None:
        self._check_keywords(traits)
        self._owner = new_owner()
        self._outbox = Outbox()
        self._answers: dict[str, tuple[Answer, Lane]] = {}
        self._newest: dict[str, Any] = {}
        self._messages: dict[str, Callable[[dict[str, Any]], None]] = {
            "request": self._on_request,
            "cancel_request": self._on_cancel_request,
            "ping": lambda message: self._send_later({"kind": "pong"}),
        }
        super().__init__(**traits)
        self._answer_on_any_shell()

    @property
    def _esm(self) -> Any:
        return bundle.script(self.view)

    @property
    def _css(self) -> Any:
        return bundle.style()

    def _check_keywords(self, names: Mapping[str, Any]) -> None:
        known = self._keywords()
        for name in names:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
                raise TypeError(f"{type(self).__name__} has no option '{name}': {hint}")

    @classmethod
    def _keywords(cls) -> list[str]:
        own = {name for base in cls.__mro__ if issubclass(base, View) for name in vars(base)}
        names = set(cls.class_trait_names()) & own
        return sorted(n for n in names if not n.startswith("_") and n not in cls.KERNEL_ONLY)

    def _answer_on_any_shell(self) -> None:
        """Let messages be handled where they arrive.

        ipykernel 7.4 hands a widget's messages to the shell that opened it, so a busy cell would
        hold back "Cancel"; other versions of 7 take them on a subshell, and our handlers are made
        for that. The hook is private: where it is missing, nothing changes.
        """
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default

    # What goes out

    def _post(self, **traits: Any) -> None:
        """Set traits from any thread, after what was posted before."""

        def change() -> None:
            for name, value in traits.items():
                setattr(self, name, value)

        self._say(change)

    def _say(self, action: Callable[[], Any]) -> None:
        if self._outbox is not None:
            self._outbox.put(lambda: None if self._closed else action())

    def _send_later(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self._say(lambda: self.send(content, buffers=buffers or None))

    def _report(self, error: BaseException) -> None:
        """Show an error of a handler; what runs goes on."""

        def show() -> None:
            state = self.status.get("state")
            busy = state in ("queued", "running")
            told = {"state": state if busy else "error", "message": sentence(error)}
            self.status = {**self.status, **told}

        self._say(show)

    # What comes in

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take in what the front end changed; what is not its to change is left out."""
        allowed = {name: value for name, value in sync_data.items() if self._writable(name)}
        if self._outbox is None:
            return
        with self._outbox.inside():
            try:
                super().set_state(allowed)
            except Exception as error:
                self._report(error)
                self.send_state(key=[key for key in allowed if key in self.keys])

    def take(self, name: str, value: Any) -> None:
        """Take in what the page has given this view already; nothing of it goes back there.

        ``set_state`` would send it back, and undo what was done on the page meanwhile.
        """
        if self._outbox is None:
            return
        with self._outbox.inside(), self._lock_property(**{name: value}):
            self.set_trait(name, value)

    def _writable(self, name: str) -> bool:
        """Whether a front end may change a trait.

        Names with an underscore say which code, style and classes every page gets; only the
        count of the pages that show a widget is theirs to tell.
        """
        if name.startswith("_"):
            return name == "_view_count"
        return name not in self.KERNEL_ONLY

    def _handle_custom_msg(self, content: Any, buffers: Any) -> None:
        try:
            kind = content.get("kind") if isinstance(content, dict) else None
            if kind in self._messages:
                self._messages[kind](content)
        except Exception as error:
            self._report(error)
        super()._handle_custom_msg(content, buffers)

    def _on_request(self, message: dict[str, Any]) -> None:
        rid = message.get("rid")

        def fail(error: BaseException) -> None:
            self._send_later({"kind": "error", "rid": rid, "message": sentence(error)})

        method = str(message.get("method"))
        if method not in self._answers:
            fail(InputError(f"This view has no '{method}'; it has {', '.join(self._answers)}."))
            return
        answer, lane = self._answers[method]
        if lane.waiting(self._owner) >= MAX_REQUESTS:
            fail(InputError("Too many requests are waiting; try again when some are answered."))
            return
        if method in self.LATEST:
            self._supersede(method, rid, lane)
        params = message.get("params") or {}

        def work(task: Task) -> None:
            result, buffers = answer(params, task)
            if not task.cancelled:
                self._newest = {m: r for m, r in self._newest.items() if r != rid}
                self._send_later({"kind": "reply", "rid": rid, "result": result}, buffers)

        lane.put(Task(self._owner, f"rid {rid}", work, fail))

    def _supersede(self, method: str, rid: Any, lane: Lane) -> None:
        """Take back the request that `rid` replaces; whoever waits for it is told."""
        old = self._newest.get(method)
        self._newest = {**self._newest, method: rid}
        if old is not None:
            lane.cancel(self._owner, f"rid {old}")
            told = "A newer question has taken the place of this one."
            self._send_later({"kind": "error", "rid": old, "message": told})

    def _on_cancel_request(self, message: dict[str, Any]) -> None:
        slot = f"rid {message.get('rid')}"
        for lane in self._lanes():
            lane.cancel(self._owner, slot)

    def _lanes(self) -> set[Lane]:
        return {desk(), *(lane for _, lane in getattr(self, "_answers", {}).values())}

    # How it looks without a front end

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _widget_bundle(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return what makes a front end show the widget, with a text for where there is none."""
        bundled = super()._repr_mimebundle_(**kwargs)
        if bundled is not None:
            bundled[0]["text/plain"] = self._plain()
        return bundled

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundled = self._widget_bundle(**kwargs)
        if bundled is None:
            return None
        data, metadata = bundled
        picture = self._picture()
        if picture:
            data["image/png"] = base64.b64encode(picture).decode("ascii")
        return data, metadata

    def _plain(self) -> str:
        return repr(self)

    def _picture(self) -> bytes:
        """Return a PNG file of what the view shows; empty where it shows nothing."""
        return b""

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        self._closed = True
        if self._owner:
            for lane in self._lanes():
                lane.cancel(self._owner)
        super().close()
