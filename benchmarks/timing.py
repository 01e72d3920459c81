"""Time next to the bare forward, and memory; needs nothing of layerlens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path


class Timer:
    """Alternates a candidate with the bare forward and keeps the ratios."""

    def __init__(self, bare: Callable[[], object], repeats: int) -> None:
        self.bare = bare
        self.repeats = repeats

    @staticmethod
    def once(work: Callable[[], object]) -> tuple[float, float]:
        """Wall-clock and CPU seconds of one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    def ratios(self, work: Callable[[], object]) -> tuple[float, float, float]:
        """Median ratio to the bare forward by wall and by CPU, and the median seconds."""
        self.bare()
        work()
        pairs = [(self.once(self.bare), self.once(work)) for _ in range(self.repeats)]
        wall = statistics.median(b[0] / a[0] for a, b in pairs)
        cpu = statistics.median(b[1] / a[1] for a, b in pairs)
        return wall, cpu, statistics.median(b[0] for _, b in pairs)

    def between(self, less: Callable[[], object], more: Callable[[], object]) -> float:
        """Median of what one call takes more than another by CPU, in bare forwards."""
        less()
        more()
        rounds = [
            [self.once(work)[1] for work in (self.bare, less, more)] for _ in range(self.repeats)
        ]
        return statistics.median((b - a) / bare for bare, a, b in rounds)


def peak_above(work: Callable[[], object]) -> float:
    """Peak resident memory during a call above what was resident before, in MB (Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {name} in /proc/self/status")
