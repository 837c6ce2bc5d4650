"""Fetches models of the public MXNet model zoo, and packages each as an archive for a multi-model endpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scripts.programs.console import readable_size, run
from scripts.programs.downloads import Downloader
from scripts.programs.model_files import check_file
from scripts.programs.package_model import package, print_archive
from scripts.programs.server_process import ROOT

BASE_URL = "http://data.mxnet.io/models/imagenet"
LABELS = "synset.txt"


class ZooModel(NamedTuple):
    """Where a model is below the base URL, its files' common prefix, and its inputs."""

    folder: str
    prefix: str
    shapes: list[dict[str, object]]


IMAGENET_INPUT: list[dict[str, object]] = [{"shape": [1, 3, 224, 224], "name": "data"}]
MODELS = {
    "resnet_18": ZooModel("resnet/18-layers", "resnet-18", IMAGENET_INPUT),
    "resnet_152": ZooModel("resnet/152-layers", "resnet-152", IMAGENET_INPUT),
    "squeezenet_v1.0": ZooModel("squeezenet", "squeezenet_v1.0", IMAGENET_INPUT),
}
NAMES = [*MODELS, "synset"]


def main() -> int:
    """Returns 0 once all that was asked for is there, checked and packaged."""
    arguments = parse()
    folder: Path = arguments.to
    downloader = Downloader(attempts=arguments.attempts)
    checksums = dict(arguments.sha256)
    for name in dict.fromkeys(arguments.names):
        print(name, flush=True)
        target = folder / name if name in MODELS else folder
        for path in paths_of(name):
            fetch(downloader, f"{arguments.base_url.rstrip('/')}/{path}", target, checksums)
        if name in MODELS:
            model = MODELS[name]
            (target / f"{model.prefix}-shapes.json").write_text(json.dumps(model.shapes) + "\n")
            print_archive(package(target, folder / f"{name}.tar.gz", load=arguments.load))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/download_zoo",
        description="Fetches models of the public MXNet model zoo, checks them, and packages each as NAME.tar.gz.",
        epilog="An interrupted download continues where it stopped; what is there already is not fetched again. "
        "Behind a proxy, set http_proxy.",
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=f"any of: {', '.join(NAMES)}")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        default=ROOT / ".cache" / "zoo",
        help="where models and archives go (default: .cache/zoo of this checkout)",
    )
    parser.add_argument("--base-url", default=BASE_URL, metavar="URL", help=f"another mirror (default {BASE_URL})")
    parser.add_argument(
        "--sha256",
        type=checksum,
        metavar="FILE=HEX",
        action="append",
        default=[],
        help="what a file must be, for example resnet-18-0000.params=…; may be given several times",
    )
    parser.add_argument("--attempts", type=positive, default=5, metavar="N", help="tries without progress (default 5)")
    parser.add_argument(
        "--no-load", dest="load", action="store_false", help="package without loading the model and asking it once"
    )
    arguments = parser.parse_args()
    files = {path.rpartition("/")[2] for name in arguments.names for path in paths_of(name)}
    unknown = sorted(file for file, _hex in arguments.sha256 if file not in files)
    if unknown:
        parser.error(f"--sha256: {', '.join(unknown)} is not fetched here; these are: {', '.join(sorted(files))}")
    return arguments


def paths_of(name: str) -> Iterable[str]:
    """What belongs to ``name``, as paths below the base URL; small files first, so a wrong mirror shows at once."""
    if name in MODELS:
        model = MODELS[name]
        yield f"{model.folder}/{model.prefix}-symbol.json"
    yield LABELS
    if name in MODELS:
        yield f"{model.folder}/{model.prefix}-0000.params"


def fetch(downloader: Downloader, url: str, folder: Path, checksums: dict[str, str]) -> None:
    """Fetches one file into ``folder`` and says so."""
    name = url.rpartition("/")[2]
    target = folder / name
    fetched = downloader.fetch(url, target, lambda path: check_file(path, name), checksums.get(name))
    print(f"  {name}: {readable_size(target.stat().st_size)}{'' if fetched else ', there already'}", flush=True)


def checksum(text: str) -> tuple[str, str]:
    """An argparse type: FILE=HEX."""
    file, _, value = text.partition("=")
    value = value.lower()
    if not file or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE=HEX with the 64 digits of a SHA-256")
    return file, value


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    run(main)
