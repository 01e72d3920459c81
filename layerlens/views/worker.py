"""Background lanes: one thread works off what widgets ask for, fairly, the latest request first.

A model has one lane, so that two widgets never run it at the same time and the kernel stays free
meanwhile. Handlers of messages may run on any thread; all they do is put a task into a lane.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_owners = itertools.count(1)
_lanes: dict[int, Lane] = {}
# Re-entrant: the garbage collector may close a widget in the middle of `lane_of`.
_lanes_lock = threading.RLock()


def new_owner() -> int:
    """Return a number that no other widget of this process has."""
    return next(_owners)


class Task:
    """One thing to do, with a flag that asks it to stop.

    Parameters
    ----------
    owner : int
        Whose it is; owners take turns.
    slot : str
        A newer task in the same slot of the same owner replaces this one.
    work : callable
        Called with this task; asks `cancelled` now and then.
    fail : callable
        Called with whatever `work` raised; must not raise.
    """

    def __init__(
        self,
        owner: int,
        slot: str,
        work: Callable[[Task], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.owner = owner
        self.slot = slot
        self.work = work
        self.fail = fail
        self._stop = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether someone asked this task to stop."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask the task to stop; it does so at its next look."""
        self._stop.set()


class Lane:
    """A mailbox and the daemon thread that empties it, started by the first task.

    Parameters
    ----------
    name : str
        Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, OrderedDict[str, Task]] = OrderedDict()
        self._running: Task | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, task: Task) -> None:
        """Take a task; one in the same slot is replaced if it waits, stopped if it runs."""
        with self._changed:
            if self._closed:
                task.cancel()
                return
            mine = self._waiting.setdefault(task.owner, OrderedDict())
            mine[task.slot] = task
            if self._is_running(task.owner, task.slot) and self._running is not None:
                self._running.cancel()
            threaded = self._start()
            self._changed.notify()
        if not threaded:
            self._drain()

    def cancel(self, owner: int, slot: str | None = None) -> list[Task]:
        """Stop what an owner has in one slot, or in all.

        Returns
        -------
        list of Task
            Those that had not begun and never will; a running one ends by itself.
        """
        with self._changed:
            mine = self._waiting.get(owner, OrderedDict())
            dropped = [mine.pop(key) for key in list(mine) if slot in (None, key)]
            if not mine:
                self._waiting.pop(owner, None)
            for task in dropped:
                task.cancel()
            if self._running is not None and self._is_running(owner, slot):
                self._running.cancel()
        return dropped

    def waiting(self, owner: int) -> int:
        """Return how many tasks of an owner have not begun."""
        with self._changed:
            return len(self._waiting.get(owner, ()))

    def close(self) -> None:
        """Stop everything and let the thread end."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            if self._running is not None:
                self._running.cancel()
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end after `close`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _is_running(self, owner: int, slot: str | None) -> bool:
        task = self._running
        return task is not None and task.owner == owner and slot in (None, task.slot)

    def _start(self) -> bool:
        """Make sure that a thread runs; False where there are no threads (a browser's kernel)."""
        if sys.platform == "emscripten":
            return False
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            self._thread.start()
        return True

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
            self._drain()

    def _drain(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._do(task)
            finally:
                with self._changed:
                    self._running = None
            # The thread must not keep the last task, and all it refers to, while it waits.
            del task

    def _next(self) -> Task | None:
        with self._changed:
            if not self._waiting or self._running is not None:
                return None
            owner, mine = self._waiting.popitem(last=False)
            _, task = mine.popitem(last=False)
            if mine:
                self._waiting[owner] = mine
            self._running = task
            return task

    def _do(self, task: Task) -> None:
        try:
            task.work(task)
        except BaseException as error:
            try:
                task.fail(error)
            except Exception:
                logging.getLogger("layerlens").exception("A view could not report an error.")


def lane_of(model: LensModel) -> Lane:
    """Return the one lane of a model.

    Its tasks hold no model before they need one: a view beside which another model lies would
    wait for that one while it holds its own.

    The lane holds the model weakly: when nobody else has it, it is freed and the thread ends.
    """
    with _lanes_lock:
        lane = _lanes.get(id(model))
        if lane is None:
            lane = Lane(f"layerlens {model.name}")
            _lanes[id(model)] = lane
            weakref.finalize(model, _forget, id(model), lane).atexit = False
        return lane


def desk() -> Lane:
    """Return the lane for what needs no model: exports, searches, frames sent again."""
    with _lanes_lock:
        return _lanes.setdefault(0, Lane("layerlens desk"))


def easel() -> Lane:
    """Return the lane for pictures, which take long to draw and which nobody waits for."""
    with _lanes_lock:
        return _lanes.setdefault(-1, Lane("layerlens easel"))


def _forget(key: int, lane: Lane) -> None:
    # Runs inside the garbage collector, perhaps while this very thread holds a lock of ours.
    def close() -> None:
        with _lanes_lock:
            if _lanes.get(key) is lane:
                del _lanes[key]
        lane.close()

    if sys.platform == "emscripten":
        close()
    else:
        threading.Thread(target=close, daemon=True).start()


@atexit.register
def _close_all() -> None:
    """Let computations end before the interpreter takes torch down under them."""
    with _lanes_lock:
        lanes = list(_lanes.values())
    for lane in lanes:
        lane.close()
    for lane in lanes:
        lane.join(timeout=2.0)
