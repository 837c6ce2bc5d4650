"""The whole story in one command: train two models, serve them, load, list, invoke, unload."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import requests

from scripts.programs import sample_models
from scripts.programs.console import Failure, port, run
from scripts.programs.container_api import ContainerApi
from scripts.programs.progress import steps_bar
from scripts.programs.server_process import ROOT, ServerProcess, refuse_taken_port, stop_on_signals

HOST = "127.0.0.1"
LEAST_ACCURACY = 0.95
START_TIMEOUT_S = 60
SHOWN_DIGIT = 7


class Model(NamedTuple):
    """A trained sample: the archive name a client would target, the opaque name SageMaker gives it, its folder."""

    artifact: str
    opaque_name: str
    folder: Path
    accuracy: float


class Samples(NamedTuple):
    """What training left: SageMaker's /opt/ml, the models in it, and a held-out picture of each digit."""

    base_dir: Path
    models: list[Model]
    pictures: dict[int, Path]


def main() -> int:
    """Returns 0 once everything was shown and stopped; each failure is explained."""
    arguments = parse()
    stop_on_signals()
    refuse_taken_port(HOST, arguments.port)

    heading(1, "Two models, trained on the handwritten digits of scikit-learn")
    samples = trained_samples(arguments.cache.absolute())

    heading(2, f"The container's server on http://{HOST}:{arguments.port}")
    log = arguments.cache.absolute() / f"server-{arguments.port}.log"
    started_s = time.monotonic()
    with ServerProcess(port=arguments.port, host=HOST, base_dir=samples.base_dir, log=log) as server:
        server.wait_until_healthy(START_TIMEOUT_S)
        print(f"  GET /ping: Healthy, after {time.monotonic() - started_s:.1f} s")
        try:
            show(server.api, samples)
        except (requests.RequestException, Unexpected) as error:
            raise Failure(server.explain(str(error))) from None
        if arguments.once:
            if (code := server.stop()) != 0:
                raise Failure(server.explain(f"the server, told to stop, ended with exit code {code}"))
            print("\nDone: the server is stopped.")
            return 0
        invite(server.api, samples)
        try:
            code = server.wait()
        except KeyboardInterrupt:
            print("\nStopping the server.")
            return 0
        raise Failure(server.explain(f"the server ended with exit code {code}"))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/quickstart",
        description="Trains two sample models (once), serves them as SageMaker's multi-model endpoint would, and shows "
        "load, list, invoke and unload. Leaves the server up for more by hand, until Ctrl-C.",
    )
    parser.add_argument("--once", action="store_true", help="stop the server at the end instead of leaving it up")
    parser.add_argument("--port", type=port, default=8080, help="port to serve on (default 8080)")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=ROOT / ".cache" / "quickstart",
        help="where models, pictures and the server's log are kept (default: .cache/quickstart of this checkout)",
    )
    return parser.parse_args()


def show(api: ContainerApi, samples: Samples) -> None:
    """Load, list, invoke, unload, and the 404 afterwards, each through the API that SageMaker calls."""
    heading(3, "Load both:  POST /models")
    for model in samples.models:
        started_s = time.monotonic()
        expect(200, api.load(model.opaque_name, model.folder), f"load {model.artifact}")
        print(f"  {model.artifact:20} loaded as {model.opaque_name} in {(time.monotonic() - started_s) * 1000:.0f} ms")

    heading(4, "List them:  GET /models")
    listed = api.models()
    for each in listed:
        print(f"  {each['modelName']}  {Path(each['modelUrl']).relative_to(samples.base_dir.parent)}")
    missing = {model.opaque_name for model in samples.models} - {each["modelName"] for each in listed}
    if missing:
        raise Unexpected(f"the list of models lacks {', '.join(sorted(missing))}")

    picture = samples.pictures[SHOWN_DIGIT]
    heading(5, f"Invoke each with a picture of a {SHOWN_DIGIT} that training never saw:  POST /models/NAME/invoke")
    for model in samples.models:
        headers = {"Content-Type": "image/png", "X-Amzn-SageMaker-Target-Model": model.artifact}
        started_s = time.monotonic()
        answer = expect(200, api.invoke(model.opaque_name, picture.read_bytes(), headers), f"invoke {model.artifact}")
        print(f"  {model.artifact}, in {(time.monotonic() - started_s) * 1000:.0f} ms")
        for line in answer.json():
            print(f"    {line}")

    gone = samples.models[0]
    heading(6, "Unload one:  DELETE /models/NAME")
    expect(200, api.unload(gone.opaque_name), f"unload {gone.artifact}")
    headers = {"Content-Type": "image/png"}
    answer = expect(404, api.invoke(gone.opaque_name, picture.read_bytes(), headers), f"invoke {gone.artifact}")
    print(f"  {gone.artifact} is gone; invoked again, the answer is 404 {answer.json()['message']}")


def invite(api: ContainerApi, samples: Samples) -> None:
    """Prints how to go on by hand."""
    gone, loaded = samples.models
    body = json.dumps({"model_name": gone.opaque_name, "url": str(gone.folder)})
    picture = shlex.quote(f"@{samples.pictures[SHOWN_DIGIT]}")
    print("\nThe server stays up; Ctrl-C stops it. By hand, in another terminal:\n")
    print(f"  curl {api.url}/models")
    print(f"  curl {api.url}/models/{loaded.opaque_name}/invoke -H 'Content-Type: image/png' --data-binary {picture}")
    print(f"  curl {api.url}/models -H 'Content-Type: application/json' -d {shlex.quote(body)}")
    print(f"  curl -X DELETE {api.url}/models/{loaded.opaque_name}")
    print(f"\nPictures of all ten digits: {samples.pictures[SHOWN_DIGIT].parent}", flush=True)


def trained_samples(cache: Path) -> Samples:
    """The samples, trained where that has not been done by this version of the training code."""
    version = hashlib.sha256(Path(sample_models.__file__).read_bytes()).hexdigest()[:12]
    folder = cache / version
    report = folder / "report.json"
    if not report.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=cache) as temporary:
            unfinished = Path(temporary) / version
            train(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        kept = ""
    else:
        kept = " (kept from before)"
    models = []
    for name, accuracy in json.loads(report.read_text()).items():
        print(f"  {name:13} {accuracy:.1%} of {sample_models.HELD_OUT} held-out pictures right{kept}")
        artifact = f"{name}.tar.gz"
        models.append(Model(artifact, opaque_name(artifact), model_folder(folder, artifact), accuracy))
    pictures = {digit: folder / "pictures" / f"{digit}.png" for digit in range(10)}
    return Samples(folder / "ml", models, pictures)


def train(folder: Path) -> None:
    """Trains all samples into ``folder``. Raises ``Failure`` where one comes out worse than it must be."""
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # read by MXNet's library: no chatter between our lines
    learned, held_out = sample_models.load_digits()
    report = {}
    for sample in sample_models.SAMPLES:
        target = model_folder(folder, f"{sample.name}.tar.gz")
        with steps_bar(f"training {sample.name}", sample.epochs, "epochs") as bar:
            sample_models.train(sample, learned, target, bar.update)
        report[sample.name] = sample_models.accuracy(sample, held_out, target)
        if report[sample.name] < LEAST_ACCURACY:
            raise Failure(
                f"{sample.name} gets only {report[sample.name]:.1%} of the held-out pictures right, and must get "
                f"{LEAST_ACCURACY:.0%}: MXNet computes wrongly on this machine."
            )
    sample_models.save_one_picture_of_each(held_out, folder / "pictures")
    (folder / "report.json").write_text(json.dumps(report) + "\n")


def opaque_name(artifact: str) -> str:
    """A name like those that SageMaker makes of an artifact's path: the container learns no more than that."""
    return hashlib.sha256(artifact.encode()).hexdigest()[:32]


def model_folder(folder: Path, artifact: str) -> Path:
    """Where SageMaker would have unpacked ``artifact``, ``folder``/ml standing for /opt/ml."""
    return folder / "ml" / "models" / opaque_name(artifact) / "model"


def heading(number: int, text: str) -> None:
    """One step of the story begins."""
    print(f"\n{number}. {text}", flush=True)


class Unexpected(Exception):
    """The server answered something else than it must."""


def expect(status: int, response: requests.Response, what: str) -> requests.Response:
    """``response``, where it has ``status``. Raises ``Unexpected`` otherwise."""
    if response.status_code != status:
        reason = " ".join(response.text.split())
        raise Unexpected(f"{what}: answered {response.status_code} instead of {status}, {reason}")
    return response


if __name__ == "__main__":
    run(main)
