"""Installations of package sets, by uv and on a real disk: what is installed, once, and what becomes of a full disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mme.capacity.memory import MIB
from mme.packages import sets
from mme.packages.install_set import DiskFull, InstallationFailed, install
from mme.packages.requirements import packages_of_container, requirements_of
from mme.packages.sets import PackageSet, cache_in_use, make_room
from mme.supervisor.own_programs import PACKAGE_DIR
from tests.harness.wheels import write_wheel

EVERYTHING = 1 << 60


def write_set(packages_dir: Path, key: str, *, size_bytes: int = 4096) -> tuple[PackageSet, Path]:
    """A set with one module, whose file uv's cache has as well."""
    package_set = PackageSet(packages_dir, key)
    package_set.site.mkdir(parents=True)
    module = package_set.site / "module.py"
    module.write_bytes(os.urandom(size_bytes))
    cached = packages_dir / "cache" / "archive" / key
    cached.mkdir(parents=True)
    (cached / "module.py").hardlink_to(module)
    return package_set, module


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


# ---- room on the disk ----


def test_nothing_of_an_unused_set_is_left_on_the_disk_neither_in_the_cache(tmp_path: Path) -> None:
    _, unused = write_set(tmp_path, "unused")
    used, kept = write_set(tmp_path, "used")
    assert used.use()
    with unused.open() as file:
        assert make_room(tmp_path, EVERYTHING) == ["unused"]
        assert os.fstat(file.fileno()).st_nlink == 0
    assert kept.stat().st_nlink == 1
    assert used.use() and not (tmp_path / "cache").exists()


def test_where_the_disk_has_room_the_cache_stays(tmp_path: Path) -> None:
    write_set(tmp_path, "unused")
    assert make_room(tmp_path, 0) == []
    assert (tmp_path / "cache").exists() and PackageSet(tmp_path, "unused").is_complete()


def test_room_is_made_on_a_real_disk_and_no_more_than_is_asked_for(small_disk: Path) -> None:
    for age, key in enumerate(("oldest", "older", "newest")):
        package_set, _ = write_set(small_disk, key, size_bytes=4 * MIB)
        os.utime(package_set.folder, (1000 + age, 1000 + age))
    assert sets.shutil.disk_usage(small_disk).free < 5 * MIB
    assert make_room(small_disk, 7 * MIB) == ["oldest"]
    assert sets.shutil.disk_usage(small_disk).free >= 7 * MIB


def test_what_killed_installations_have_left_goes_and_what_is_being_installed_stays(tmp_path: Path) -> None:
    for key in ("killed", "running"):
        (tmp_path / f"{key}.new-1" / "site").mkdir(parents=True)
    lock = sets.locked(tmp_path / "running.lock", sets.fcntl.LOCK_EX)
    assert make_room(tmp_path, EVERYTHING) == []
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["running.new-1"]
    os.close(lock)


def test_the_cache_stays_as_long_as_an_installation_uses_it(tmp_path: Path) -> None:
    write_set(tmp_path, "unused")
    other = threading.Thread(target=make_room, args=(tmp_path, EVERYTHING))
    with cache_in_use(tmp_path):
        other.start()
        other.join(0.2)
        assert other.is_alive() and (tmp_path / "cache").exists()
    other.join()
    assert not (tmp_path / "cache").exists()


def test_a_set_that_is_removed_meanwhile_is_not_taken_for_one_that_is_there(tmp_path: Path) -> None:
    package_set, _ = write_set(tmp_path, "unused")
    assert package_set.is_complete()
    make_room(tmp_path, EVERYTHING)
    assert not package_set.use()


def write_model(folder: Path, requirements: str) -> Path:
    (folder / "code" / "wheels").mkdir(parents=True)
    (folder / "code" / "requirements.txt").write_text(requirements)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_set_that_the_disk_does_not_hold_fails_with_the_reason_and_leaves_nothing(
    small_disk: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", "large_of_a_test")
    write_wheel(model / "code" / "wheels", "large_of_a_test", f"TEXT = '{os.urandom(12 * MIB).hex()}'\n")
    with pytest.raises(DiskFull, match=r"is full\. .*MME_PACKAGES_DIR"):
        install(small_disk, "key", model, os.environ)
    assert names(small_disk) == ["cache.lock", "key.lock"]


def test_an_unused_set_makes_room_for_one_that_the_disk_does_not_hold_beside_it(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "LEAST_FREE_BYTES", 0)  # so that it looks like enough
    write_set(small_disk, "unused", size_bytes=10 * MIB)
    model = write_model(tmp_path / "model", "large_of_a_test")
    write_wheel(model / "code" / "wheels", "large_of_a_test", f"TEXT = '{os.urandom(4 * MIB).hex()}'\n")
    install(small_disk, "key", model, os.environ)
    assert PackageSet(small_disk, "key").is_complete() and not PackageSet(small_disk, "unused").is_complete()


# ---- what is installed ----


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    """An index that nobody may ask: it would not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


def environment_of(index: socket.socket) -> dict[str, str]:
    return {**os.environ, "UV_DEFAULT_INDEX": f"http://127.0.0.1:{index.getsockname()[1]}/", "UV_HTTP_TIMEOUT": "20"}


def test_what_the_container_has_is_used_without_an_index(tmp_path: Path, silent_index: socket.socket) -> None:
    model = write_model(tmp_path / "model", "numpy>=1\n")
    install(tmp_path / "sets", "key", model, environment_of(silent_index))
    assert names(PackageSet(tmp_path / "sets", "key").site) == []


def test_wheels_of_the_model_that_need_what_the_container_has_are_installed_without_an_index(
    tmp_path: Path, silent_index: socket.socket
) -> None:
    model = write_model(tmp_path / "model", "greeting_of_a_test\n")
    write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n", requires="numpy>=1")
    install(tmp_path / "sets", "key", model, environment_of(silent_index))
    installed = names(PackageSet(tmp_path / "sets", "key").site)
    assert "greeting_of_a_test.py" in installed and not any("numpy" in name for name in installed)


def test_what_the_image_keeps_its_own_packages_by_does_not_bind_a_models(
    tmp_path: Path, silent_index: socket.socket
) -> None:
    model = write_model(tmp_path / "model", "greeting_of_a_test<2\n")
    write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n")
    (tmp_path / "constraints.txt").write_text("greeting_of_a_test==2.0\n")
    constrained = {**environment_of(silent_index), "UV_CONSTRAINT": str(tmp_path / "constraints.txt")}
    install(tmp_path / "sets", "key", model, constrained)
    assert (PackageSet(tmp_path / "sets", "key").site / "greeting_of_a_test.py").exists()


def test_a_set_of_what_another_container_lacked_is_not_used(
    tmp_path: Path, silent_index: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both containers the folder of packages is kept; the second one has a version that the set excludes."""
    model = write_model(tmp_path / "model", f"numpy=={importlib.metadata.version('numpy')}\n")

    def package_set() -> PackageSet:
        packages_of_container.cache_clear()
        wanted = requirements_of(model)
        assert wanted is not None
        return PackageSet(tmp_path / "sets", wanted.key)

    install(tmp_path / "sets", package_set().key, model, environment_of(silent_index))
    assert package_set().is_complete() and names(package_set().site) == []
    (tmp_path / "other" / "numpy-0.1.dist-info").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("site.getsitepackages", lambda: [str(tmp_path / "other")])
        assert not package_set().is_complete()
    assert package_set().is_complete()


def test_packages_come_from_where_the_requirements_say(tmp_path: Path, silent_index: socket.socket) -> None:
    model = write_model(tmp_path / "model", "--no-index\n--find-links elsewhere\ngreeting_of_a_test\n")
    write_wheel(model / "code" / "elsewhere", "greeting_of_a_test", "X = 1\n")
    install(tmp_path / "sets", "key", model, environment_of(silent_index))
    assert (PackageSet(tmp_path / "sets", "key").site / "greeting_of_a_test.py").exists()


def sha256(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.mark.parametrize("file", ["requirements.txt", "pinned.txt"])
def test_what_is_pinned_with_hashes_needs_no_index_where_all_is_there(
    tmp_path: Path, silent_index: socket.socket, file: str
) -> None:
    model = write_model(tmp_path / "model", "-r pinned.txt\n")
    wheel = write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n", requires="numpy>=1")
    of_the_container = f"numpy=={importlib.metadata.version('numpy')} --hash=sha256:{'0' * 64}\n"
    pinned = f"greeting_of_a_test==1.0 \\\n    --hash=sha256:{sha256(wheel)}\n{of_the_container}"
    (model / "code" / file).write_text(pinned)
    install(tmp_path / "sets", "key", model, environment_of(silent_index))
    installed = names(PackageSet(tmp_path / "sets", "key").site)
    assert "greeting_of_a_test.py" in installed and not any("numpy" in name for name in installed)


@pytest.mark.parametrize("file", ["requirements.txt", "pinned.txt"])
@pytest.mark.parametrize(
    ("pinned", "reason"),
    [
        (f"greeting_of_a_test==1.0 --hash=sha256:{'0' * 64}\n", "Hash mismatch"),
        (f"numpy>=1 --hash=sha256:{'0' * 64}\ngreeting_of_a_test==1.0\n", "hash"),
    ],
)
def test_a_package_that_has_not_the_hash_that_its_file_says_is_not_installed(
    tmp_path: Path, silent_index: socket.socket, file: str, pinned: str, reason: str
) -> None:
    model = write_model(tmp_path / "model", "-r pinned.txt\n")
    write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n")
    (model / "code" / file).write_text(pinned)
    with pytest.raises(InstallationFailed, match=reason):
        install(tmp_path / "sets", "key", model, environment_of(silent_index))
    assert not PackageSet(tmp_path / "sets", "key").is_complete()


def test_two_servers_that_share_the_folder_install_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "greeting_of_a_test\n")
    write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n")
    program = [sys.executable, "-m", "mme.packages.install_set", str(tmp_path / "sets"), "key", str(model), "2"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR)}
    both = [
        subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = "".join(each.communicate(timeout=60)[0] for each in both)
    assert [each.returncode for each in both] == [0, 0], said
    assert said.count("the packages of ") == 1, said
