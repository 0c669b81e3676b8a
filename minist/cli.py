"""How both scripts speak of errors: one line and exit code 2; the traceback only with --debug."""

import sys
from collections.abc import Callable


def run_command(command: Callable[[], None], debug: bool) -> None:
    """Run a script's work; what a person can do wrong is a ValueError or an OSError, and ends as one line."""
    try:
        command()
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        stopped = isinstance(error, KeyboardInterrupt)
        print("interrupted" if stopped else f"error: {describe(error)}", file=sys.stderr)
        sys.exit(130 if stopped else 2)


def describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
