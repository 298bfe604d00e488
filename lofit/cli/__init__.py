"""The command `lofit`: look at a model, try an adapter, export it, import a published one."""

import signal
import sys

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.threads import share_processors


def main(arguments: list[str] | None = None) -> None:
    """Run the command; what the user can mend is one line per fault and exit status 1."""
    share_processors()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # So that half-written folders are dropped, as they are on Ctrl-C.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with extra("pipeline", "the command lofit needs"):
            from lofit.cli.app import app
        app(arguments)
    except (LofitError, OSError) as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
