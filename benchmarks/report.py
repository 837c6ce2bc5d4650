"""What a scenario prints and keeps: an aligned table, the targets with met or not met, and a JSON result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.summary import Ratio
from mme.settings import Settings
from mme.supervisor import preflight

ROOT = Path(__file__).resolve().parents[1]
RESULTS_DIR = ROOT / "benchmarks" / "results"
SCHEMA_VERSION = 1
_PACKAGES = ("multi-model-server", "sagemaker-inference", "mxnet", "numpy", "pillow")
_COMPARISONS = {"≥": float.__ge__, "≤": float.__le__}


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached. ``value`` None: not measured in this run. ``spread`` is for reading."""

    what: str
    value: float | None
    comparison: str  # ≥ or ≤
    limit: float
    unit: str = ""
    spread: str = ""

    @classmethod
    def of_ratio(cls, what: str, ratio: Ratio | None, comparison: str, limit: float) -> Target:
        """A ratio with the spread of its rounds; None: not measured."""
        spread = f"({ratio.lowest:.2f}–{ratio.highest:.2f})" if ratio else ""
        return cls(what, ratio.value if ratio else None, comparison, limit, spread=spread)

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return _COMPARISONS[self.comparison](float(self.value), float(self.limit))

    def cells(self) -> list[str]:
        """A row of the table of targets."""
        unit = f" {self.unit}" if self.unit else ""
        measured = "not measured" if self.value is None else f"{self.value:.4g}{unit} {self.spread}".rstrip()
        verdict = {True: "met", False: "NOT MET", None: "–"}[self.met]
        return [self.what, measured, f"{self.comparison} {self.limit:g}{unit}", verdict]


@dataclass
class Result:
    """One run of one scenario. ``rows`` are what was measured, ``table`` how it is shown."""

    scenario: str
    settings: dict[str, Any]
    headers: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    further_tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)  # headers and rows
    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    _started_s: float = field(default_factory=time.monotonic)

    def finish(self, output: Path | None) -> int:
        """Prints the table and writes the JSON file; returns the exit code: 1 where there were errors."""
        duration_s = time.monotonic() - self._started_s
        print(self.text(duration_s))
        path = output or self.beside(None, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(self.as_json(duration_s), indent=2, ensure_ascii=False, default=asdict) + "\n", encoding="utf-8"
        )
        print(f"\nresult: {os.path.relpath(path)}")
        return 1 if self.errors else 0

    def beside(self, output: Path | None, ending: str) -> Path:
        """A file of this run beside its result, by how its name ends; ``output`` as in ``finish``. Makes the folder."""
        name = f"{self.scenario}-{self.started:%Y%m%dT%H%M%SZ}" if output is None else output.stem
        folder = RESULTS_DIR if output is None else output.parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}{ending}"

    def text(self, duration_s: float) -> str:
        """What is printed."""
        machine, versions = self.machine, describe_versions()
        lines = [
            f"{self.scenario} · {self.started:%Y-%m-%d %H:%M} UTC · {machine['cores']} cores {machine['cpu']} · "
            f"load {machine['load_average']:.1f} at start · {duration_s:.0f} s",
            " · ".join(f"{name} {version}" for name, version in versions.items()),
            "",
            *table(self.headers, self.table),
        ]
        for headers, rows in self.further_tables:
            lines += ["", *table(headers, rows)]
        if self.targets:
            rows = [target.cells() for target in self.targets]
            lines += ["", *table(["target", "measured", "wanted", ""], rows, left_columns=2)]
        lines += ["", *self.notes] if self.notes else []
        lines += ["", f"{len(self.errors)} errors", *(f"  {error}" for error in self.errors[:10])]
        return "\n".join(lines)

    def as_json(self, duration_s: float) -> dict[str, Any]:
        """What is written."""
        return {
            "schema_version": SCHEMA_VERSION,
            "scenario": self.scenario,
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(duration_s, 1),
            "commit": describe_commit(),
            "machine": self.machine,
            "versions": describe_versions(),
            "settings": self.settings,
            "rows": self.rows,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "notes": self.notes,
            "errors": self.errors,
        }


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left_columns: int = 1) -> list[str]:
    """Lines of an aligned table: the first ``left_columns`` columns flush left, figures flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if number < left_columns else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    return [line(headers), "  ".join("─" * width for width in widths), *(line(row) for row in rows)]


def milliseconds(seconds: float) -> str:
    """`12.3`: three digits or more."""
    return f"{seconds * 1000:.0f}" if seconds >= 0.1 else f"{seconds * 1000:.1f}"


def megabytes(size_bytes: float) -> str:
    """`4.9`: millions of bytes."""
    return f"{size_bytes / 1e6:,.0f}" if abs(size_bytes) >= 100e6 else f"{size_bytes / 1e6:.1f}"


def describe_commit() -> dict[str, Any]:
    """The checkout's commit, and whether files differ from it."""
    try:
        commit = _output("git", "rev-parse", "HEAD")
        return {"id": commit, "modified": bool(_output("git", "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"id": None, "modified": None}


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
    }


def describe_versions() -> dict[str, str]:
    """Versions of all that takes part."""
    versions = {"python": platform.python_version()}
    versions.update({name: metadata.version(name) for name in _PACKAGES})
    home = preflight.java_home(Settings.from_environment())
    java = str(home / "bin" / "java") if home else "java"
    banner = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    versions["java"] = banner.split('"')[1] if '"' in banner else "unknown"
    return versions


def progress(text: str) -> None:
    """One line on standard error: what is being done."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
