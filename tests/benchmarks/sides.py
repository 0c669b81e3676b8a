"""Programs that are measured in turn, each in a process of its own; see peers.py."""

import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from side_by_side import seconds


class Side:
    """A peer in a process of its own, that waits for its turn."""

    def __init__(self, name: str, prepare: Callable[..., Callable[[], Any]], *given: Any) -> None:
        """`prepare(*given)` is called there, and gives what is to be measured."""
        context = get_context("spawn")
        self.name, (self.connection, theirs) = name, context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, prepare, given), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of what it says
        self.found = self.answer()  # of the first call, which warms up

    def answer(self) -> Any:
        try:
            found = self.connection.recv()
        except EOFError:
            found = "its process has ended"
        if isinstance(found, str):
            raise SystemExit(f"{self.name}: {found}")
        return found

    def round(self) -> float:
        self.connection.send("again")
        return self.answer()

    def end(self) -> float:
        """Its peak memory in MB."""
        self.connection.send(None)
        peak = self.answer()
        self.process.join()
        return peak


def serve(connection: Connection, prepare: Callable[..., Callable[[], Any]], given: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    try:
        run = prepare(*given)
        connection.send(run())
        while connection.recv():
            found: list[Any] = []
            taken = seconds(lambda found=found: found.append(run()))
            connection.send(found[0] if isinstance(found[0], float) else taken)
        connection.send(peak())
    except Exception:
        connection.send(traceback.format_exc())


def peak() -> float:
    """The largest resident set of this process so far, in MB; getrusage would begin with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
