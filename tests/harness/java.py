"""Java programs of tests, compiled and run in half the time that the JVM's defaults take, which are for long runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mms
import pytest

from mme.front_end import AGENT_JAR

CLASS_PATH = f"{Path(mms.__file__).parent / 'frontend' / 'model-server.jar'}:{AGENT_JAR}"
OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def compile_java(folder: Path, **programs: str) -> None:
    """Into ``folder`` the classes of ``programs``, by name, which may use the front end's and the agent's."""
    javac = shutil.which("javac")
    if javac is None or shutil.which("java") is None:
        pytest.skip("no javac here: a JDK is needed to compile what asks the agent")
    for name, source in programs.items():
        (folder / f"{name}.java").write_text(source)
    files = [folder / f"{name}.java" for name in programs]
    options = [f"-J{each}" for each in OPTIONS]
    subprocess.run([javac, *options, "-proc:none", "-cp", CLASS_PATH, "-d", folder, *files], check=True)


def java_command(folder: Path, name: str, *arguments: str) -> list[str]:
    """What runs the class ``name`` of the agent's package, compiled into ``folder``."""
    return ["java", *OPTIONS, "-cp", f"{folder}:{CLASS_PATH}", f"mme.{name}", *arguments]
