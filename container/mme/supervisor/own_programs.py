"""Starting what the server itself is made of besides the front end: each a module of ours, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from mme.logs import json_output
from mme.settings import Settings
from mme.supervisor.privileges import environment_for_models

PACKAGE_DIR = Path(__file__).resolve().parents[2]


def start_module(
    module: str,
    arguments: Iterable[str],
    settings: Settings,
    *,
    name: str,
    inherited: Iterable[int],
    variables: Mapping[str, str] | None = None,
) -> int:
    """Runs ``python -m module arguments`` and returns its process number at once; the caller has to reap it.

    Its output goes where ours goes, as JSON of source ``name`` where that is the log's format. ``inherited`` are the
    descriptors that it keeps, ``variables`` what its environment has besides what model code may see of ours. Raises
    ``OSError``.
    """
    output = json_output(name) if settings.log_format == "json" else None
    python_path = os.pathsep.join(filter(None, [str(PACKAGE_DIR), settings.python_path]))
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            env={**environment_for_models(settings), **(variables or {}), "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=tuple(inherited),
            process_group=0,  # Ctrl-C at a terminal is the supervisor's to act on
        )
    finally:
        if output is not None:
            os.close(output)
    process.returncode = 0  # it is the caller's to reap, not subprocess's
    return process.pid
