"""What may be loaded: from which folders, by which names, with which handlers. Asked before a model's code runs.

The front end is told much by whoever reaches ``POST /models``, and a model's own manifest tells it more (MMS-25). It
takes ``model_store`` plus ``url`` for the model's folder (ModelArchive.java), puts the folder of ``handler`` in front
of PYTHONPATH (WorkerLifeCycle.java), and has the worker import the handler from there. Two things keep that in bounds:

- ``write_store``: the model store is a private folder that holds nothing but a symlink for each model root, at the
  root's own path: ``store/opt/ml/models`` → ``/opt/ml/models``. A URL elsewhere is "not found in model store" (404)
  before anything is read.
- ``LoadPolicy.check``: the worker looks at what the front end has let through, with symlinks resolved, before it
  imports the handler. ``LoadPolicy.python_path`` leaves folders that are neither the server's nor the model's out of
  the search path. A refused load is answered 400.

The operator is trusted: folders on the server's own PYTHONPATH, and that of ``SAGEMAKER_HANDLER``, hold allowed code.
"""

from __future__ import annotations

import importlib.machinery
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mme.errors import ModelRefused
from mme.frameworks import registry
from mme.packages.requirements import requirements_of
from mme.settings import Settings

logger = logging.getLogger("mme.zygote")

# In the server's private folder.
STORE = "store"
DRY_RUN = "dry-run"  # models of the server's own, for a moment at its start (supervisor/dry_run.py)
LONGEST_NAME = 255

_CODE = "code"
_MANIFEST, _LEGACY_MANIFEST = "MAR-INF/MANIFEST.json", "MANIFEST.json"


def write_store(runtime_dir: Path, roots: Iterable[Path]) -> Path:
    """Makes the model store: per root a symlink at the root's own path, and at its real one. They may not exist yet."""
    store = runtime_dir / STORE
    paths = sorted({path for root in roots for path in (root.absolute(), root.resolve())})
    if Path("/") in paths:
        store.symlink_to("/")
        return store
    store.mkdir()
    for path in paths:
        if any(other in path.parents for other in paths):
            continue  # it is reached through the other
        link = store / path.relative_to("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return store


@dataclass(frozen=True)
class LoadPolicy:
    """One server's rules."""

    store: Path  # as the front end words it: a real path
    roots: tuple[Path, ...]  # real paths
    itself_allowed: bool  # a root may itself be a model, as it is in single-model mode
    trusted_folders: tuple[Path, ...]  # the server's own on PYTHONPATH, as they are worded there
    refuses_code: bool = False  # models are data alone
    requirements: str = "install"  # what becomes of a model's own: MME_MODEL_REQUIREMENTS
    installs: bool = False  # a model's own, which in single-model mode is done before the start
    dry_run: Path | None = None  # one more root, a real path

    @classmethod
    def for_server(cls, settings: Settings, runtime_dir: Path, python_path: str) -> LoadPolicy:
        """``python_path`` is the one that the front end was started with, or holds all of it."""
        requirements = "refuse" if settings.refuses_model_code else settings.model_requirements  # packages are code
        folders = [entry for entry in python_path.split(os.pathsep) if entry]
        if not settings.refuses_model_code:
            folders.append(str(settings.single_model_dir / _CODE))  # the Inference Toolkit puts it there
        if settings.handler and _folder_of_handler(settings.handler):
            folders.append(_folder_of_handler(settings.handler))
        return cls(
            store=runtime_dir.resolve() / STORE,
            roots=tuple(root.resolve() for root in settings.roots),
            dry_run=runtime_dir.resolve() / DRY_RUN,
            itself_allowed=not settings.multi_model,
            trusted_folders=tuple(Path(folder).absolute() for folder in folders),
            refuses_code=settings.refuses_model_code,
            requirements=requirements,
            installs=settings.multi_model and requirements == "install",
        )

    def folder_of(self, path: str) -> Path:
        """A model's folder as the request named it, from the path that the front end has made of it."""
        folder, store = Path(path), str(self.store)
        return Path("/", str(folder)[len(store) :].lstrip("/")) if _is_inside(str(folder), store) else folder

    def check(self, name: str, path: str, handler: str, search_path: Iterable[str]) -> Path:
        """The folder to load from, as ``folder_of`` words it. Raises ``ModelRefused`` (400) if it must not be loaded.

        ``search_path`` is where the handler's module will be looked for, made with ``python_path``.
        """
        check_name(name)
        folder = _Folder.of(self.folder_of(path))
        self._check_folder(folder)
        self._check_handler(handler, folder, search_path)
        self._check_requirements(folder.path)
        return folder.path

    def python_path(self, wanted: str, path: str) -> str:
        """``wanted``, a PYTHONPATH, without folders that are neither the server's nor inside the model at ``path``.

        The model's ``code`` is added where there is one, after what is the server's and before the model's own folder,
        which the front end has put last.
        """
        folder = _Folder.of(self.folder_of(path))
        entries = [entry for entry in wanted.split(os.pathsep) if entry]
        entries = [entry for entry in entries if self._may_import_from(entry, folder)]
        code = folder.path / _CODE
        if str(code) not in entries and code.is_dir() and self._may_import_from(str(code), folder):
            is_models = [str((folder.path / entry).resolve()) == folder.real for entry in entries]
            entries.insert(is_models.index(True) if True in is_models else len(entries), str(code))
        return os.pathsep.join(entries)

    def _may_import_from(self, entry: str, folder: _Folder) -> bool:
        there = folder.path / entry  # MMS starts the worker in the model's folder
        if there in self.trusted_folders:
            return True
        if self.refuses_code:
            return False
        return self._is_below_root(folder) and folder.holds(there)

    def is_below_root(self, folder: Path) -> bool:
        """Whether it may be loaded from there, with symlinks resolved."""
        return self._is_below_root(_Folder.of(folder))

    def _is_below_root(self, folder: _Folder) -> bool:
        roots = self.roots if self.dry_run is None else (*self.roots, self.dry_run)
        return any(
            _is_inside(folder.real, str(root)) and (folder.real != str(root) or self.itself_allowed) for root in roots
        )

    def _check_folder(self, folder: _Folder) -> None:
        if not self._is_below_root(folder):
            raise ModelRefused(
                f"{str(folder.path)!r}, which is really {folder.real!r}, is not below "
                f"{' or '.join(map(str, self.roots))}. MME_MODEL_ROOTS allows more folders."
            )
        if not folder.path.is_dir():
            raise ModelRefused(f"{str(folder.path)!r} is no folder that can be read.")

    def _check_requirements(self, folder: Path) -> None:
        if self.requirements == "install" or self.itself_allowed or requirements_of(folder) is None:
            return
        if self.requirements == "refuse":
            setting = "MME_MODEL_CODE" if self.refuses_code else "MME_MODEL_REQUIREMENTS"
            raise ModelRefused(
                f"{folder} asks for packages (requirements.txt), and {setting}=refuse. Take the file out, in an image "
                "that has what the model needs."
            )
        logger.warning("the packages that %s asks for are ignored: MME_MODEL_REQUIREMENTS=ignore", folder)

    def _check_handler(self, handler: str, folder: _Folder, search_path: Iterable[str]) -> None:
        if not handler.isprintable():
            raise ModelRefused(f"the handler {handler!r} has characters that cannot be printed.")
        if self.refuses_code and self._is_models_own(handler, folder, search_path):
            raise registry.code_refused(folder.path, f"its handler {handler!r}")
        if _is_legacy(folder.path):
            # mms.model_loader.LegacyModelLoader executes the file of this name
            file = folder.path / (handler if handler.endswith(".py") else f"{handler}.py")
            if not folder.holds(file):
                raise ModelRefused(f"the handler {handler!r} is outside of the model's folder.")
            return
        own_folder = _folder_of_handler(handler)
        if own_folder and not self._may_import_from(own_folder, folder):
            raise ModelRefused(
                f"the handler {handler!r} is neither in the model's folder nor on the server's own path."
            )
        module = _file_of_module(_module_of_handler(handler), search_path)
        if module is None:
            return  # part of the interpreter, or missing, as the import will say
        is_models_own = any(_is_inside(str(module.absolute()), each) for each in (str(folder.path), folder.real))
        if is_models_own and not folder.holds(module):
            raise ModelRefused(f"the handler {handler!r} is a link that leads out of the model's folder.")

    @staticmethod
    def _is_models_own(handler: str, folder: _Folder, search_path: Iterable[str]) -> bool:
        """Is the handler a file of the model? The server's own is found first."""
        path = folder.path
        if _is_legacy(path) or folder.holds(path / (_folder_of_handler(handler) or "/")):
            return True
        module = _file_of_module(_module_of_handler(handler), [*search_path, str(path), str(path / _CODE)])
        return module is not None and folder.holds(module)


@dataclass(frozen=True)
class _Folder:
    """A model's folder as the request named it, and what that really is: a worker that wakes asks for it ten times."""

    path: Path
    real: str  # with symlinks resolved

    @classmethod
    def of(cls, path: Path) -> _Folder:
        return cls(path, str(path.resolve()))

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is the folder or inside, with symlinks resolved."""
        return _is_inside(str(path.resolve()), self.real)


def _is_inside(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or inside. Both are absolute, and as ``Path`` words them.

    (``Path.is_relative_to`` makes a ``Path`` of each folder above, which takes thirty times as long.)
    """
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def check_name(name: str) -> None:
    """Raises ``ModelRefused`` (400) for a name that no model may have."""
    if not name or len(name) > LONGEST_NAME:
        raise ModelRefused(f"the model's name has {len(name)} characters; 1 to {LONGEST_NAME} are allowed.")
    if not name.isprintable():
        raise ModelRefused(f"the model's name {name!r} has characters that cannot be printed.")
    if "/" in name or ".." in name:
        raise ModelRefused(f"the model's name {name!r} has '/' or '..' in it.")


def _is_legacy(folder: Path) -> bool:
    """As mms.model_loader.ModelLoaderFactory has it."""
    return not (folder / _MANIFEST).exists() and (folder / _LEGACY_MANIFEST).exists()


def _folder_of_handler(handler: str) -> str:
    """FOLDER of a handler ``[FOLDER/]MODULE[.py][:FUNCTION]``, or nothing."""
    folder, slash, _ = handler.split(":", 1)[0].rpartition("/")
    return folder or slash


def _module_of_handler(handler: str) -> str:
    """As mms.model_loader.MmsModelLoader has it."""
    return handler.split(":", 1)[0].removesuffix(".py").split("/")[-1]


def _file_of_module(module: str, search_path: Iterable[str]) -> Path | None:
    """The file that is going to be found for a module, or for the innermost of its packages that has one."""
    location: list[str] = list(search_path)
    origin = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        found = importlib.machinery.PathFinder.find_spec(".".join(parts[:count]), location)
        if found is None:
            break
        origin, location = found.origin or origin, list(found.submodule_search_locations or ())
    return Path(origin) if origin else None
