"""Installs a package set with uv. A program, run by the template of the set:

    python -m mme.packages.install_set PACKAGES_DIR KEY MODEL_DIR REASON_FD

It resolves what the model in MODEL_DIR asks for, prefers the versions that the container has, and installs what the
container has not. Ends with 0 when the set is complete; with 1, and the reason written to descriptor REASON_FD, when it
cannot be. What uv says is in the log.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mme.errors import MmeError, StartError
from mme.logs import configure_logging
from mme.packages.installation import code_artifact_index
from mme.packages.requirements import Requirements, requirements_of
from mme.packages.sets import (
    CACHE,
    SITE,
    PackageSet,
    cache_in_use,
    failure,
    locked,
    make_room,
    new_folder,
    remove_abandoned,
)
from mme.settings import Settings

logger = logging.getLogger("mme.packages")

_CONTAINER = Path(__file__).resolve().parents[2]
# The server's worker is made of these; a model that brings others would not be served.
_FIXED = ("multi-model-server", "sagemaker-inference")
# How uv words it that the disk is full, and what Python has for it.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile("|".join(rf"\(os error {code}\)" for code in _FULL))
_ALL_BYTES = sys.maxsize  # more than any disk has
_REASON_LINES = 6
_REASON_BUILD_LINES = 2
_SAYS_NO_REASON = ("Using ", "Resolved ", "Building ", "warning:", "hint:")
_REASON_CHARACTERS = 700
# pip's variables, which people set in images and which uv does not read, and uv's own that mean the same.
_AS_UV_HAS_IT = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
_FRAME = re.compile(r"^[\s×╰─▶│├]+")  # what uv draws in front of the steps of an explanation
_WOULD_INSTALL = re.compile(r"^ [+~] (?P<name>\S+)==(?P<version>\S+)(?: \(from (?P<url>.+)\))?$")
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")


class InstallationFailed(MmeError):
    """Says in a few lines, made for who wrote the requirements, why they cannot be installed."""


class DiskFull(InstallationFailed):
    """The disk is full, or the user's part of it."""

    def __init__(self, packages_dir: Path) -> None:
        super().__init__(
            f"the disk of {packages_dir} is full. Ask for less, unload models with packages of their own, or name a "
            "folder on a larger disk in MME_PACKAGES_DIR."
        )


def install(packages_dir: Path, key: str, model_dir: Path, environment: Mapping[str, str]) -> None:
    """Installs the set, unless it is complete or another process completes it first.

    Raises ``InstallationFailed``.
    """
    package_set = PackageSet(packages_dir, key)
    try:
        packages_dir.mkdir(parents=True, exist_ok=True)
        lock = locked(packages_dir / f"{key}.lock", fcntl.LOCK_EX)
    except OSError as error:
        raise InstallationFailed(_unusable(packages_dir, error)) from None
    try:
        if package_set.is_complete():
            return
        requirements = requirements_of(model_dir)
        if requirements is None:
            raise InstallationFailed(f"{model_dir} asks for no packages any more.")
        remove_abandoned(packages_dir, key)
        _make_room(packages_dir)
        try:
            _install_anew(package_set, requirements, model_dir, environment)
        except DiskFull:
            _make_room(packages_dir, _ALL_BYTES)
            _install_anew(package_set, requirements, model_dir, environment)
    except DiskFull:
        _make_room(packages_dir, _ALL_BYTES)  # nothing is left of what has filled it
        raise
    finally:
        os.close(lock)


def _make_room(packages_dir: Path, least_free_bytes: int | None = None) -> None:
    if removed := make_room(packages_dir, least_free_bytes):
        logger.info("the disk is nearly full: removed the sets %s, which no model uses", ", ".join(removed))


def _install_anew(
    package_set: PackageSet, requirements: Requirements, model_dir: Path, environment: Mapping[str, str]
) -> None:
    """Raises ``InstallationFailed``; then nothing is left of it but what uv's cache has."""
    packages_dir = package_set.folder.parent
    with cache_in_use(packages_dir):
        new = new_folder(packages_dir, package_set.key)
        try:
            _Uv(packages_dir, new, model_dir, environment).install(requirements)
            new.chmod(0o755)
            new.rename(package_set.folder)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise DiskFull(packages_dir) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)


def install_apart(packages_dir: Path, key: str, model_dir: Path, timeout_s: float, *, log: int | None = None) -> None:
    """The same in a process of its own, for one that must not wait for longer. Raises ``InstallationFailed``.

    What it logs goes to the descriptor ``log``, or where this process writes.
    """
    if PackageSet(packages_dir, key).is_complete():
        return
    environment = {**os.environ, "PYTHONPATH": str(_CONTAINER)}
    with tempfile.TemporaryFile() as file:
        program = [sys.executable, "-m", __name__, str(packages_dir), key, str(model_dir), str(file.fileno())]
        with subprocess.Popen(
            program,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[file.fileno()],
            process_group=0,
        ) as process:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                reason = f"it takes longer than {timeout_s:g} s (MME_PACKAGES_TIMEOUT_S)"
                raise InstallationFailed(failure(reason)) from None
        if process.returncode != 0:
            file.seek(0)
            reason = file.read().decode().strip() or f"the installation ended with exit code {process.returncode}"
            raise InstallationFailed(failure(reason))


class _Uv:
    """One installation into ``folder``, with uv's cache beside it so that files are shared and not copied."""

    def __init__(self, packages_dir: Path, folder: Path, model_dir: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._model_dir = model_dir
        translated = {_AS_UV_HAS_IT[name]: value for name, value in environment.items() if name in _AS_UV_HAS_IT}
        self._environment = {
            **{name: value for name, value in environment.items() if name not in ("UV_CONSTRAINT", "PYTHONPATH")},
            **{name: value for name, value in translated.items() if name not in environment},
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "UV_CACHE_DIR": str(packages_dir / CACHE),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
        }

    def install(self, requirements: Requirements) -> None:
        """Raises ``InstallationFailed``."""
        fixed = self._folder / "fixed.txt"
        fixed.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _FIXED))
        asked = [word for file in requirements.files for word in ("--requirement", str(file))]
        links = ["--find-links", str(requirements.wheels)] if requirements.wheels else []
        source, missing = ["--offline", "--no-index", *links], self._resolve_offline(asked, links, fixed)
        if missing is None:
            source, missing = links, self._resolve(requirements, links, fixed)
        resolved = self._folder / "resolved.txt"
        resolved.write_text("\n".join([*requirements.sources, *missing]) + "\n")
        (self._folder / SITE).mkdir()
        if missing:
            logger.info("the packages of %s: %s", self._model_dir, " ".join(missing))
            # The lines of a resolution have no hashes: those of the files, as constraints, hold for them.
            hashes = [word for file in requirements.files for word in ("--constraint", str(file))]
            hashes = ["--require-hashes", *hashes] if requirements.has_hashes else []
            self._run(["pip", "install", *self._into(), *source, "--no-deps", *hashes, "--requirement", str(resolved)])

    def _resolve_offline(self, asked: list[str], links: list[str], fixed: Path) -> list[str] | None:
        """What is missing, where the container and the model's own wheels have all that is wanted; else None."""
        # Nothing is changed, so it may be the system's Python.
        options = [
            "--python",
            sys.executable,
            "--break-system-packages",
            "--offline",
            "--no-index",
            *links,
            "--constraint",
            str(fixed),
        ]
        try:
            lines = self._run(["pip", "install", "--dry-run", *options, *asked], is_attempt=True)
        except DiskFull:
            raise
        except InstallationFailed:
            return None
        new = [match for match in map(_WOULD_INSTALL.match, lines) if match]
        return [
            f"{each['name']} @ {each['url']}" if each["url"] else f"{each['name']}=={each['version']}" for each in new
        ]

    def _resolve(self, requirements: Requirements, source: list[str], fixed: Path) -> list[str]:
        """The lines of what is wanted that the container does not have. Raises ``InstallationFailed``."""
        installed = _installed()
        resolved = self._folder / "resolved.txt"
        # Versions in an output file that exists are preferred: what the container has is taken where it fits.
        resolved.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
        output = ["--no-header", "--no-annotate", "--output-file", str(resolved)]
        files = [str(file) for file in requirements.files]
        self._run(["pip", "compile", "--python", sys.executable, *source, "--constraint", str(fixed), *output, *files])
        return _missing(resolved.read_text().splitlines(), installed)

    def _into(self) -> list[str]:
        return ["--python", sys.executable, "--target", str(self._folder / SITE), "--compile-bytecode"]

    def _run(self, arguments: list[str], *, is_attempt: bool = False) -> list[str]:
        """What uv says. Raises ``InstallationFailed``, of which nothing is logged where this ``is_attempt``."""
        uv = subprocess.run(
            [*_uv(), *arguments],
            cwd=self._model_dir,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        lines = [line.rstrip() for line in uv.stdout.splitlines() if line.strip()]
        failed = uv.returncode != 0
        for line in lines if not is_attempt and (failed or arguments[1] == "install") else ():
            logger.log(logging.ERROR if failed else logging.INFO, "uv: %s", line)
        if failed and _SAYS_FULL.search(uv.stdout):
            raise DiskFull(self._folder.parent)
        if failed:
            raise InstallationFailed(reason(lines, self._folder))
        return lines


def reason(lines: Iterable[str], folder: Path) -> str:
    """What uv says first, as one line without its frames, and without our folder's name."""
    words: list[str] = []
    output_at = trace_indent = None  # where a build's output begins; how deep a stack trace is
    for line in lines:
        frame = _FRAME.match(line)
        indent = frame.end() if frame else 0
        text = line[indent:].strip().replace(f"{folder}/", "")
        if trace_indent is not None and indent > trace_indent:
            continue
        trace_indent = indent if text.startswith("Traceback ") else None
        if text in ("[stdout]", "[stderr]"):
            output_at = len(words) if output_at is None else output_at
            del words[output_at:]  # of a build that fails, the last lines tell
        elif text and trace_indent is None and not text.startswith(_SAYS_NO_REASON):
            words.append(text.removeprefix("error: ").removeprefix("cause: "))
    if output_at is not None:
        words[output_at:] = words[output_at:][-_REASON_BUILD_LINES:]
    return " ".join(words[:_REASON_LINES])[:_REASON_CHARACTERS].rstrip(". ") or "uv says nothing"


def _installed() -> dict[str, str]:
    """The container's own packages: name as in ``_canonical`` → version."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        if each.metadata["Name"]:
            found.setdefault(_canonical(each.metadata["Name"]), each.version)
    return found


def _missing(resolved: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """The lines of a resolution that the container's own packages do not satisfy."""

    def is_installed(line: str) -> bool:
        pinned = _PINNED.match(line)
        return pinned is not None and installed.get(_canonical(pinned["name"])) == pinned["version"]

    lines = [line.strip() for line in resolved]
    return [line for line in lines if line and not line.startswith("#") and not is_installed(line)]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return [str(beside)]
    try:
        import uv
    except ImportError:
        raise InstallationFailed(f"uv is not installed beside {sys.executable}.") from None
    return [str(uv.find_uv_bin())]


def _unusable(packages_dir: Path | str, error: OSError) -> str:
    return f"packages cannot be written to {packages_dir}: {error.strerror}. Name another folder in MME_PACKAGES_DIR."


def main() -> int:
    """See the module."""
    settings = Settings.from_environment()
    configure_logging(settings)
    packages_dir, key, model_dir, reason_descriptor = sys.argv[1:5]
    try:
        index = {"UV_DEFAULT_INDEX": code_artifact_index()} if settings.code_artifact_repository else {}
        install(Path(packages_dir), key, Path(model_dir), {**os.environ, **index})
    except (InstallationFailed, StartError) as error:
        said = str(error)
    except OSError as error:
        said = str(DiskFull(Path(packages_dir))) if error.errno in _FULL else _unusable(packages_dir, error)
    else:
        return 0
    os.write(int(reason_descriptor), said.encode(errors="replace"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
