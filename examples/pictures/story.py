"""One network three times: as MXNet, as ONNX and, where PyTorch is installed, as PyTorch; the same labels from each."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from examples.story import Story, expect, heading, parser, tell
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings
from scripts.programs.console import run
from scripts.programs.convert_to_onnx import convert
from scripts.programs.quickstart import ROOT
from scripts.programs.samples import trained_samples

PICTURES = 10  # one of each digit
KEPT = ("synset.txt", "preprocessor_config.json")


def convert_to_torch(folder: Path, out: Path) -> None:
    """The perceptron of ``folder``, with its weights, as a PyTorch program (torch.export)."""
    import torch

    mx = import_mxnet(Settings())
    arrays: dict[str, Any] = {
        name.partition(":")[2]: torch.from_numpy(array.asnumpy())
        for name, array in mx.nd.load(str(next(folder.glob("*.params")))).items()
    }
    layers: list[Any] = [torch.nn.Flatten()]
    for name in ("hidden1", "hidden2", "scores"):
        weight, bias = arrays[f"{name}_weight"], arrays[f"{name}_bias"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1)).eval()
    (shape,) = json.loads(next(folder.glob("*-shapes.json")).read_text())
    example = torch.zeros(2, *shape["shape"][1:])
    batch = torch.export.Dim("batch", min=1)
    out.mkdir()
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), out / "model.pt2")
    for name in KEPT:
        shutil.copy(folder / name, out)


def show(story: Story, cache: Path) -> None:
    """All steps."""
    heading("A network for handwritten digits, trained with MXNet, and what becomes of it")
    samples = trained_samples(cache)
    folders = {"mxnet": story.folder / "mxnet", "onnx": story.folder / "onnx"}
    with tarfile.open(samples.first[0].archive) as archive:
        archive.extractall(folders["mxnet"], filter="data")
    convert(folders["mxnet"], folders["onnx"], None)
    if importlib.util.find_spec("torch") is None:
        print("  PyTorch is not installed here, so there are two.", flush=True)
    else:
        folders["torch"] = story.folder / "torch"
        convert_to_torch(folders["mxnet"], folders["torch"])
    for name, folder in folders.items():
        print(f"  {name:6} {', '.join(sorted(each.name for each in folder.iterdir()))}")
        story.upload(folder, f"digits-{name}.tar.gz")

    heading("One endpoint for all of them")
    story.deploy()

    heading(f"{PICTURES} pictures that training never saw: the best label of each")
    print("  digit  " + "  ".join(f"{name:34}" for name in folders))
    for digit in range(PICTURES):
        picture = samples.picture_of(digit).read_bytes()
        best = []
        for name in folders:
            best.append(json.loads(story.invoke(f"digits-{name}.tar.gz", picture, "image/png").body)[0])
        print(f"  {digit}      " + "  ".join(f"{each:34}" for each in best), flush=True)
        labels = {each.split("class=")[-1] for each in best}
        expect(len(labels) == 1, f"the frameworks disagree about a {digit}: {best}")


def main() -> int:
    """Returns 0 once all was shown."""
    made: argparse.ArgumentParser = parser("pictures", __doc__ or "")
    made.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=ROOT / ".cache" / "quickstart",
        help="where trained models are kept (default: .cache/quickstart of this checkout)",
    )
    given = made.parse_args()
    return tell("pictures", given.port, lambda story: show(story, given.cache.absolute()))


if __name__ == "__main__":
    run(main)
