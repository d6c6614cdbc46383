"""The command line. Tables for people, `--format json` (one object a line) for programs."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Runs the command; an error of ours is one line on standard error and exit status 2."""
    gc.disable()  # what is loaded now stays
    from bursar.cli.app import app

    gc.enable()
    from bursar.types.errors import BursarError

    try:
        app()
    except BursarError as error:
        print(f"bursar: {error.message}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
