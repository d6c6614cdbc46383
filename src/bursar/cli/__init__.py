"""The command line. Tables for people, `--format json` (one object a line) for programs."""

from __future__ import annotations

import gc
import sys

_INTERRUPTED = 130


def main() -> None:
    """Runs the command; an error of ours is one line on standard error and exit status 2, an interruption 130."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _run() -> int | None:
    gc.disable()  # what is loaded now stays
    import click

    from bursar.cli.app import app

    gc.enable()
    from bursar.types.errors import BursarError

    try:
        status: int | None = app.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _INTERRUPTED
    except BursarError as error:
        print(f"bursar: {error.message}", file=sys.stderr)
        return 2
    return status
