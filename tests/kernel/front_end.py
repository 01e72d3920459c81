"""A front end without a browser: it sends comm messages and keeps what the kernel publishes."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

Message = dict[str, Any]


def until(condition: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Wait until something holds and return it; fail if it does not."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return found


class FrontEnd:
    """One kernel and everything it has said."""

    def __init__(self) -> None:
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(startup_timeout=60)
        self.said: list[Message] = []
        self._listen()

    def _listen(self) -> None:
        self._reading = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _stop_listening(self) -> None:
        self._reading = False
        self._reader.join(5)

    def _read(self) -> None:
        while self._reading:
            with contextlib.suppress(queue.Empty):
                message = self.client.get_iopub_msg(timeout=0.1)
                message["when"] = time.monotonic()
                self.said.append(message)

    def close(self) -> None:
        self._stop_listening()
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def restart(self) -> None:
        """Restart the kernel and wait until it answers."""
        self._stop_listening()  # waiting reads the same socket, which only one thread may
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)
        self._listen()

    # Cells

    def start(self, code: str, *, attended: bool = False) -> str:
        """Send a cell and do not wait; `attended`: as an application with somebody before it."""
        message = self.client.session.msg(
            "execute_request",
            {"code": code, "silent": False, "store_history": False, "allow_stdin": attended,
             "stop_on_error": True, "user_expressions": {}},
        )  # fmt: skip
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def shown(self, cell: str) -> list[Message]:
        """Return what stands under a cell, renewed by whatever came for it since."""
        outputs = self.of(cell, "display_data")
        later = [m for m in list(self.said) if m["msg_type"] == "update_display_data"]
        newest = {m["content"]["transient"]["display_id"]: m["content"] for m in later}
        return [
            newest.get(m["content"]["transient"].get("display_id"), m["content"]) for m in outputs
        ]

    def of(self, cell: str, kind: str) -> list[Message]:
        return [
            m for m in list(self.said)
            if m["parent_header"].get("msg_id") == cell and m["msg_type"] == kind
        ]  # fmt: skip

    def ended(self, cell: str) -> bool:
        return any(m["content"]["execution_state"] == "idle" for m in self.of(cell, "status"))

    def until_ended(self, cell: str, seconds: float = 30.0) -> None:
        until(lambda: self.ended(cell), seconds)

    def run(self, code: str, seconds: float = 30.0) -> str:
        """Run a cell to its end and return what it printed; an error fails the test."""
        cell = self.start(code)
        self.until_ended(cell, seconds)
        errors = self.of(cell, "error")
        assert not errors, "\n".join(errors[0]["content"]["traceback"])
        return "".join(m["content"]["text"] for m in self.of(cell, "stream")).strip()

    # Comms

    def last_opened(self) -> str:
        opened = [m for m in list(self.said) if m["msg_type"] == "comm_open"]
        views = [m for m in opened if "_esm" in m["content"]["data"].get("state", {})]
        return str(views[-1]["content"]["comm_id"])

    def send(self, comm: str, data: Any, subshell: str | None = None) -> None:
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

    def set(self, comm: str, subshell: str | None = None, **state: Any) -> None:
        self.send(comm, {"method": "update", "state": state, "buffer_paths": []}, subshell)

    def custom(self, comm: str, subshell: str | None = None, **content: Any) -> None:
        self.send(comm, {"method": "custom", "content": content}, subshell)

    def heard(self, comm: str) -> list[Message]:
        return [
            m for m in list(self.said)
            if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == comm
        ]  # fmt: skip

    def customs(self, comm: str, kind: str) -> list[Message]:
        found = [m for m in self.heard(comm) if m["content"]["data"]["method"] == "custom"]
        return [m for m in found if m["content"]["data"]["content"]["kind"] == kind]

    def frames(self, comm: str, run: int | None = None) -> list[dict[str, Any]]:
        found = [m["content"]["data"]["content"] for m in self.customs(comm, "frame")]
        return [frame for frame in found if run in (None, frame["run"])]

    def states(self, comm: str, name: str) -> list[Any]:
        found = [m["content"]["data"] for m in self.heard(comm)]
        return [
            data["state"][name] for data in found
            if data["method"] == "update" and name in data["state"]
        ]  # fmt: skip

    def status(self, comm: str) -> dict[str, Any]:
        found = self.states(comm, "status")
        return dict(found[-1]) if found else {}

    def until_state(self, comm: str, state: str, run: int | None = None) -> dict[str, Any]:
        def there() -> dict[str, Any]:
            status = self.status(comm)
            right = status.get("state") == state and run in (None, status["run"])
            return status if right else {}

        try:
            return dict(until(there))
        except AssertionError:
            raise AssertionError(f"never {state}, but {self.status(comm)}") from None

    # The kernel

    def subshell(self) -> str | None:
        """Make a subshell as JupyterLab does; None where the kernel has none."""
        message = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(message)
        while True:
            try:
                reply = self.client.get_control_msg(timeout=3)
            except queue.Empty:
                return None
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                found = reply["content"].get("subshell_id")
                return None if found is None else str(found)
