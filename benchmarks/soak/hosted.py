"""The endpoints of ``./scripts/soak --endpoint``: their models, what each is asked, and the right answers.

    many     a multi-model container: MXNet, scikit-learn, a script; two instances
    chain    a pipeline: a script adds one to every number, MXNet multiplies
    direct   two containers, called by hostname: MXNet multiplies, a script adds

Every question has numbers of its own. ``changing.tar.gz`` is replaced in S3 now and then: it may answer as it was or as
it is, until it is loaded anew.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.servers.endpoint import pack

BUCKET = "soak"
ROLE = "arn:aws:iam::123456789012:role/benchmark"
MANY, CHAIN, DIRECT = "many", "chain", "direct"
NAMES = (MANY, CHAIN, DIRECT)
INSTANCES = {MANY: 2, CHAIN: 1, DIRECT: 1}
CONTAINERS = {MANY: 1, CHAIN: 2, DIRECT: 2}
FACTORS = (2, 3, 4, 5)
FIRST_CHANGING, LAST_CHANGING = 6, 9
CHANGING = "changing.tar.gz"
JSON, CSV, VERBOSE = "application/json", "text/csv", "application/json;verbose"
TOLERANCE = 1e-3
# Says to which endpoint a container's process belongs.
MARK = "SOAK_ENDPOINT"
ADDING = """\
def model_fn(model_dir):
    return 1


def input_fn(body, content_type):
    return [float(cell) for cell in body.split(",")]


def predict_fn(numbers, one):
    return [number + one for number in numbers]


def output_fn(numbers, accept):
    return ",".join(map(str, numbers)), "text/csv"
"""


@dataclass(frozen=True)
class Question:
    """One invocation: its arguments for boto3, and whether a body answers it."""

    endpoint: str
    arguments: Mapping[str, Any]
    is_answered_by: Callable[[bytes], bool]

    @property
    def title(self) -> str:
        return (
            f"{self.endpoint} {self.arguments.get('TargetModel') or self.arguments.get('TargetContainerHostname', '')}"
        )


class Catalogue:
    """What is in S3. Its models grow in number while the soak goes on; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._multipliers = {f"multiplier-{factor}.tar.gz": factor for factor in FACTORS}
        self._changing = [FIRST_CHANGING]
        self._archives: dict[int, bytes] = {}

    def upload_all(self, s3: Any) -> None:
        """Makes the models and puts them where the endpoints look for them."""
        every = sorted({*FACTORS, *range(FIRST_CHANGING, LAST_CHANGING + 1)})
        folders = models.ensure([models.multiplier(factor) for factor in every])
        self._archives = {factor: pack(folders[models.multiplier(factor)]) for factor in every}
        s3.create_bucket(Bucket=BUCKET)
        archives = {f"models/{name}": self._archives[factor] for name, factor in self._multipliers.items()}
        archives[f"models/{CHANGING}"] = self._archives[FIRST_CHANGING]
        archives["models/adding.tar.gz"] = archives["adding.tar.gz"] = script(ADDING)
        archives["models/sum.tar.gz"] = regressor()
        archives["multiplier.tar.gz"] = self._archives[FACTORS[0]]
        for key, packed in archives.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=packed)

    def upload_another(self, s3: Any) -> None:
        """A model that was not there."""
        with self._lock:
            number = len(self._multipliers)
        factor = FACTORS[number % len(FACTORS)]
        name = f"multiplier-{factor}-{number}.tar.gz"
        s3.put_object(Bucket=BUCKET, Key=f"models/{name}", Body=self._archives[factor])
        with self._lock:
            self._multipliers[name] = factor

    def replace(self, s3: Any) -> None:
        """The model that changes."""
        with self._lock:
            factor = FIRST_CHANGING + len(self._changing) % (LAST_CHANGING - FIRST_CHANGING + 1)
            self._changing.append(factor)  # before anybody may get it
        s3.put_object(Bucket=BUCKET, Key=f"models/{CHANGING}", Body=self._archives[factor])

    def question(self, chance: random.Random) -> Question:
        """One at random."""
        numbers = [chance.randint(-1000, 1000) for _ in range(models.FEATURES)]
        endpoint = chance.choice((MANY, MANY, CHAIN, DIRECT))
        if endpoint == CHAIN:
            wanted = [(number + 1) * FACTORS[0] for number in numbers]
            return Question(CHAIN, as_csv(numbers, VERBOSE), is_predicted([wanted]))
        if endpoint == DIRECT and chance.random() < 0.5:
            return Question(
                DIRECT,
                {**as_csv(numbers, CSV), "TargetContainerHostname": "script"},
                is_csv([number + 1 for number in numbers]),
            )
        if endpoint == DIRECT:
            wanted = [number * FACTORS[0] for number in numbers]
            arguments = {**as_json(numbers), "TargetContainerHostname": "mxnet"}
            return Question(DIRECT, arguments, is_predicted([wanted]))
        return self._of_many(numbers, chance)

    def _of_many(self, numbers: list[int], chance: random.Random) -> Question:
        with self._lock:
            multipliers, changing = dict(self._multipliers), list(self._changing)
        target = chance.choice([*multipliers, CHANGING, "adding.tar.gz", "sum.tar.gz"])
        if target == "adding.tar.gz":
            return Question(
                MANY, {**as_csv(numbers, CSV), "TargetModel": target}, is_csv([number + 1 for number in numbers])
            )
        if target == "sum.tar.gz":
            return Question(MANY, {**as_csv(numbers, JSON), "TargetModel": target}, is_one_number(sum(numbers)))
        factors = changing if target == CHANGING else [multipliers[target]]
        wanted = [[number * factor for number in numbers] for factor in factors]
        return Question(MANY, {**as_json(numbers), "TargetModel": target}, is_predicted(wanted))


# ---- requests and answers ----


def as_csv(numbers: list[int], accept: str) -> dict[str, Any]:
    return {"ContentType": CSV, "Accept": accept, "Body": ",".join(map(str, numbers)).encode()}


def as_json(numbers: list[int]) -> dict[str, Any]:
    return {"ContentType": JSON, "Accept": VERBOSE, "Body": json.dumps([numbers]).encode()}


def is_predicted(wanted: list[list[int]]) -> Callable[[bytes], bool]:
    """One of these rows."""

    def check(body: bytes) -> bool:
        try:
            given = np.array(json.loads(body)["predictions"], np.float64)
        except (ValueError, KeyError, TypeError):
            return False
        return any(_is_close(given, np.array([row])) for row in wanted)

    return check


def is_csv(wanted: list[int]) -> Callable[[bytes], bool]:
    def check(body: bytes) -> bool:
        try:
            given = np.array([float(cell) for cell in body.decode().split(",")])
        except ValueError:
            return False
        return _is_close(given, np.array(wanted))

    return check


def is_one_number(wanted: float) -> Callable[[bytes], bool]:
    def check(body: bytes) -> bool:
        try:
            given = np.array(json.loads(body), np.float64).reshape(-1)
        except (ValueError, TypeError):
            return False
        return _is_close(given, np.array([wanted]))

    return check


def _is_close(given: np.ndarray, wanted: np.ndarray) -> bool:
    return given.shape == wanted.shape and bool(np.abs(given - wanted).max() <= TOLERANCE * 1000)


# ---- archives ----


def script(text: str) -> bytes:
    """A model that is a script alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def regressor() -> bytes:
    """scikit-learn: the sum of four numbers."""
    import joblib
    from sklearn.linear_model import LinearRegression

    rows = np.random.RandomState(models.SEED).uniform(-1, 1, (50, models.FEATURES))
    with tempfile.TemporaryDirectory() as folder:
        joblib.dump(LinearRegression().fit(rows, rows.sum(axis=1)), Path(folder) / "model.joblib")
        return pack(Path(folder))


# ---- deployment ----


def create(sagemaker: Any) -> None:
    """Models, two configurations of each endpoint, and the endpoints; returns at once."""
    environment = {"MME_PRELOAD": "none"}
    for name in NAMES:
        for letter in "ab":  # an update goes from one to the other
            its = {**environment, MARK: name}
            if name == MANY:
                container = {
                    "Image": "mme",
                    "Mode": "MultiModel",
                    "ModelDataUrl": f"s3://{BUCKET}/models/",
                    "Environment": its,
                }
                kind: dict[str, Any] = {"PrimaryContainer": container}
            else:
                first, second = ("script", "mxnet") if name == CHAIN else ("mxnet", "script")
                archives = {"script": "adding.tar.gz", "mxnet": "multiplier.tar.gz"}
                kind = {
                    "Containers": [
                        {
                            "Image": "mme",
                            "ContainerHostname": hostname,
                            "ModelDataUrl": f"s3://{BUCKET}/{archives[hostname]}",
                            "Environment": its,
                        }
                        for hostname in (first, second)
                    ],
                    "InferenceExecutionConfig": {"Mode": "Serial" if name == CHAIN else "Direct"},
                }
            sagemaker.create_model(ModelName=f"{name}-{letter}", ExecutionRoleArn=ROLE, **kind)
            variant = {
                "VariantName": "AllTraffic",
                "ModelName": f"{name}-{letter}",
                "InitialInstanceCount": INSTANCES[name],
                "InstanceType": "ml.m5.large",
            }
            sagemaker.create_endpoint_config(EndpointConfigName=f"{name}-{letter}", ProductionVariants=[variant])
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-a")
