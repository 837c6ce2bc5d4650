#!/usr/bin/env python3
"""The container's entry point: ``serve`` (also without arguments) serves; anything else is run as a command."""

import os
import sys


def main(arguments: list[str]) -> int:
    """Returns the exit code; does not return for a command, which takes this process over."""
    if arguments in ([], ["serve"]):
        from mme.supervisor.server import serve

        return serve()
    if arguments[0] == "serve":
        print(f"serve takes no arguments, not {' '.join(arguments[1:])}", file=sys.stderr)
        return 2
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        # as a shell has it: 127 not found, 126 not executable
        print(f"{arguments[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
