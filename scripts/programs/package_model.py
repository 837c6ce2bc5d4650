"""Checks a model folder and makes the archive that SageMaker expects."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mme.errors import ModelLoadError
from mme.frameworks.registry import adapter_for
from mme.settings import Settings
from scripts.programs.archives import MANIFEST, Archive, Entry, entries, write_archive
from scripts.programs.console import Failure, readable_size, run
from scripts.programs.model_check import Sample, packages_of, try_model
from scripts.programs.model_files import check_file
from scripts.programs.progress import bytes_bar

SUFFIX = ".tar.gz"


def main() -> int:
    """Returns 0 once the archive is written."""
    arguments = parse()
    sample = Sample.of(arguments.sample, arguments.content_type) if arguments.sample else None
    archive = package(
        arguments.folder, arguments.out, load=arguments.load, sample=sample, with_packages=arguments.with_packages
    )
    print_archive(archive)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/package_model",
        description="Checks a model folder (it holds what a model needs, JSON is valid, no links or devices, and the "
        "model loads and answers once, as in the container) and packs it for a multi-model endpoint. The same folder "
        "always gives the same bytes.",
        epilog="Upload the archive below the endpoint's S3 prefix; its name there is what clients pass as TargetModel. "
        "A model that brings code runs it here, in a process of its own.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the model's files, as docs/frameworks.md has them")
    parser.add_argument("out", type=Path, metavar=f"OUT{SUFFIX}", help="the archive to write")
    parser.add_argument(
        "--no-load", dest="load", action="store_false", help="do not load the model and ask it once before packing"
    )
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="FILE",
        help="ask the model with this body (default: a made-up sample of zeros, where its inputs are known)",
    )
    parser.add_argument("--content-type", metavar="TYPE", help="what FILE is (default: by its suffix)")
    parser.add_argument(
        "--with-packages",
        action="store_true",
        help="install what the model's requirements.txt asks for into a temporary folder, and check the model with it "
        "(default: only say that it asks for packages)",
    )
    arguments = parser.parse_args()
    if not arguments.out.name.endswith(SUFFIX):
        parser.error(f"{arguments.out} must end in {SUFFIX}")
    if not arguments.load and (arguments.sample or arguments.with_packages):
        parser.error("--sample and --with-packages are for a model that is loaded: leave out --no-load")
    if arguments.content_type and not arguments.sample:
        parser.error("--content-type says what --sample is: give both")
    if arguments.sample and not arguments.sample.is_file():
        parser.error(f"{arguments.sample} is no file")
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is no folder")
    if arguments.out.absolute().resolve().is_relative_to(arguments.folder.resolve()):
        parser.error(f"{arguments.out} would lie in the folder that it packs: write it somewhere else")
    return arguments


def package(
    folder: Path, out: Path, *, load: bool, sample: Sample | None = None, with_packages: bool = False
) -> Archive:
    """Checks ``folder``, loads the model where ``load`` says so, and writes the archive ``out``.

    The model is asked with ``sample``, and has the packages that it asks for where ``with_packages`` says so.

    Raises ``Failure`` with what is wrong; ``out`` is then as it was before.
    """
    members = checked(folder)
    if load:
        with packages_of(folder, install=with_packages) as packages:
            answer = try_model(folder, sample, packages)
        if answer.text is None:
            print("  loads; its program was not asked (--sample FILE asks it)", flush=True)
        else:
            print(f"  loads and answers: {answer.text}", flush=True)
        print(f"  {answer.framework}; takes {answer.content_types}", flush=True)
    total_bytes = sum(member.size_bytes for member in members)
    with bytes_bar(f"packing {out.name}", total_bytes) as bar:
        return write_archive(members, out, advance=bar.update)


def checked(folder: Path) -> list[Entry]:
    """What belongs into the archive of ``folder``. Raises ``Failure`` where a file is missing or not what it says."""
    members, litter = entries(folder)
    if litter:
        print(f"  left out: {', '.join(litter)}", file=sys.stderr)
    try:
        if not (folder / MANIFEST).is_file():  # a handler of its own is all that such a model needs
            adapter_for(folder, Settings.from_environment()).check_folder(folder)
    except ModelLoadError as error:
        raise Failure(str(error)) from None
    for member in members:
        if not member.is_folder:
            check_file(member.path, member.name)
    return members


def print_archive(archive: Archive) -> None:
    """Name, size and checksum of a new archive."""
    print(f"  {archive.path}: {readable_size(archive.size_bytes)}, sha256 {archive.sha256}")


if __name__ == "__main__":
    run(main)
