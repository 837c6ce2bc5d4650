"""The end of a process that a test has forked: it never returns to the tests."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_to_the_end(program: Callable[[], None]) -> NoReturn:
    """Runs ``program`` as Python runs a script, and ends this process with the exit code that is then due."""
    exit_code = 1
    try:
        program()
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
