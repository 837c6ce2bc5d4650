"""The models of a soak, what each is asked, and the right answers.

    multiplier   four numbers times a factor of the model's own; every question has numbers of its own
    tiny, squeezenet, resnet_18, resnet_152   photos; every model subtracts a mean of its own from them
                 (preprocessor_config.json), so that the answer of one is wrong for any other

The right answers to photos are computed beforehand by our handler in a process without a server:
``python -m benchmarks.soak.catalogue``.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import models
from benchmarks.failure import BenchmarkError
from benchmarks.servers import Server
from benchmarks.servers.base import clean_environment, python
from benchmarks.servers.in_process import WORKER_ENVIRONMENT

# Of 60 models, so many of each kind; what they take together is several times 2 GB.
MIX = {"multiplier": 18, "tiny": 16, "squeezenet": 12, "resnet_18": 8, "resnet_152": 6}
PHOTOS = 2
TOLERANCE = 1e-4
JSON, NPY, CSV = "application/json", "application/x-npy", "text/csv"
_VERBOSE = "application/json;verbose"
_ANSWERS_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Question:
    """A request and the array (1, n) that answers it."""

    body: bytes
    content_type: str
    accept: str
    right_answer: np.ndarray

    def is_answered_by(self, body: bytes) -> bool:
        """Does this body hold the right numbers, within ``TOLERANCE`` of the largest?"""
        try:
            given = _parse(body, self.accept)
        except (ValueError, KeyError, TypeError):
            return False
        scale = max(1.0, float(np.abs(self.right_answer).max()))
        right = given.shape == self.right_answer.shape
        return right and bool(np.abs(given - self.right_answer).max() <= TOLERANCE * scale)


@dataclass
class SoakModel:
    """A model as the platform knows it. ``right_answers`` are those to the photos; none for multipliers."""

    name: str
    kind: str
    number: int  # among its kind, from 1
    right_answers: list[np.ndarray] = field(default_factory=list)

    def question(self, chance: random.Random) -> Question:
        """A request at random."""
        accept = chance.choice((_VERBOSE, NPY, CSV))
        if self.kind == "multiplier":
            row = np.array([[chance.randint(-1000, 1000) for _ in range(models.FEATURES)]], np.float32)
            content_type = chance.choice((JSON, NPY, CSV))
            return Question(_row(row, content_type), content_type, accept, row * self.number)
        which = chance.randrange(PHOTOS)
        return Question(photo(which), models.PHOTO_TYPE, accept, self.right_answers[which])

    def install(self, server: Server, artifacts: dict[str, Path]) -> None:
        """Puts the model's files, its own copies, where the server finds them."""
        server.install(artifacts[self._artifact], self.name, copy=True)
        if self.kind != "multiplier":
            mean = [20.0 * self.number, 90.0, 120.0]
            text = json.dumps({"do_rescale": False, "image_mean": mean, "image_std": [60.0] * 3})
            (server.models_dir / self.name / "model" / "preprocessor_config.json").write_text(text)

    @property
    def _artifact(self) -> str:
        return models.multiplier(self.number) if self.kind == "multiplier" else self.kind


def choose(count: int) -> list[SoakModel]:
    """``count`` models in the proportions of ``MIX``, at least one of each kind where there are enough."""
    wanted = {kind: share * count / sum(MIX.values()) for kind, share in MIX.items()}
    numbers = {kind: int(share) for kind, share in wanted.items()}
    while sum(numbers.values()) < count:  # the rest goes to those that were rounded down the most
        kind = max(wanted, key=lambda each: (numbers[each] == 0, wanted[each] - numbers[each]))
        numbers[kind] += 1
    numbered = [(kind, number) for kind, many in numbers.items() for number in range(1, many + 1)]
    # the kernel shows the first 11 characters of a worker's model: they differ
    return [SoakModel(f"{place:03d}-{kind}", kind, number) for place, (kind, number) in enumerate(numbered)]


def install_all(chosen: list[SoakModel], server: Server) -> None:
    """Makes the models, installs them, and finds the right answers."""
    artifacts = models.ensure(sorted({model._artifact for model in chosen}))
    for model in chosen:
        model.install(server, artifacts)
    seeing = [model for model in chosen if model.kind != "multiplier"]
    folders = [str(server.models_dir / model.name / "model") for model in seeing]
    for model, answers in zip(seeing, _right_answers(folders), strict=True):
        model.right_answers = [np.array(answer, np.float32) for answer in answers]


@cache
def photo(which: int) -> bytes:
    """A JPEG of 640×480 pixels; each number is another picture."""
    with Image.open(io.BytesIO(models.photo())) as opened:
        picture = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if which % 2 else opened
        body = io.BytesIO()
        picture.save(body, "JPEG", quality=90)
    return body.getvalue()


def _row(row: np.ndarray, content_type: str) -> bytes:
    if content_type == JSON:
        return json.dumps(row.tolist()).encode()
    if content_type == CSV:
        return ",".join(map(str, row[0].tolist())).encode()
    body = io.BytesIO()
    np.save(body, row)
    return body.getvalue()


def _parse(body: bytes, accept: str) -> np.ndarray:
    if accept == NPY:
        return np.load(io.BytesIO(body), allow_pickle=False)
    if accept == CSV:
        return np.array([[float(cell) for cell in line.split(",")] for line in body.decode().splitlines()])
    return np.array(json.loads(body)["predictions"], np.float64)


# ---- right answers, in a process of their own ----


def _right_answers(folders: list[str]) -> list[list[Any]]:
    from mme.settings import Settings
    from mme.supervisor import mms_config

    package_dir = Path(mms_config.__file__).parents[1]
    temporary_dir = Path(os.environ.get("TMPDIR", "/tmp"))
    environment = mms_config.environment(
        Settings(), {**clean_environment(), **WORKER_ENVIRONMENT}, runtime_dir=temporary_dir, package_dir=package_dir
    )
    environment |= {"TMPDIR": str(temporary_dir), "TEMP": str(temporary_dir)}
    done = subprocess.run(
        python("-m", "benchmarks.soak.catalogue"),
        env=environment,
        input=json.dumps(folders),
        capture_output=True,
        text=True,
        timeout=_ANSWERS_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"the right answers could not be computed:\n{done.stderr}")
    return json.loads(done.stdout)


def _answer_all(folders: list[str]) -> list[list[Any]]:
    from mms.context import Context, RequestProcessor

    from model_handler import ModelHandler, entry_point

    answers = []
    for folder in folders:
        handle = entry_point(ModelHandler)
        context = Context(Path(folder).parent.name, folder, None, 1, None, "1.1.11")
        handle(None, context)
        context.request_ids = {0: "soak"}
        given = []
        for which in range(PHOTOS):
            context.request_processor = [RequestProcessor({"Content-Type": models.PHOTO_TYPE, "Accept": _VERBOSE})]
            bodies = handle([{"body": bytearray(photo(which))}], context)
            assert bodies and context.get_response_status(0)[0] == 200, bodies
            given.append(json.loads(bodies[0])["predictions"])
        answers.append(given)
    return answers


def main() -> None:
    """Folders in, as JSON; predictions out, as JSON."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else reaches standard output
    json.dump(_answer_all(json.load(sys.stdin)), output)
    output.close()


if __name__ == "__main__":
    main()
