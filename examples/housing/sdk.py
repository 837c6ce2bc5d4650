"""An environment of the SageMaker Python SDK 2.x, apart from ours: it asks for other versions of what we need."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.programs.console import Failure

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv-uv" / "bin" / "uv"
SDK = "sagemaker==2.257.7"
ENVIRONMENT = ROOT / ".cache" / f"sdk2-venv-{SDK.rpartition('=')[2]}"


def sdk_environment() -> str:
    """Its Python. Made once and kept. Raises ``Failure`` where it cannot be fetched."""
    python, complete = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "complete"
    if not complete.exists():
        print(f"fetching {SDK} into {ENVIRONMENT.relative_to(ROOT)}", flush=True)
        for arguments in (
            ["venv", "--quiet", "--clear", "--python", "3.11", str(ENVIRONMENT)],
            ["pip", "install", "--quiet", "--python", str(python), SDK],
        ):
            done = subprocess.run([UV, "--no-config", *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failure(
                    f"{SDK} cannot be fetched: {done.stderr.strip()[-300:]}. Name a Python that has it: --sdk-python"
                )
        complete.touch()
    return str(python)
