"""The local endpoint with what it is for: real boto3 and real containers (MMS and MXNet), with traffic flowing."""

from __future__ import annotations

import json
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from local_endpoint.events import ModelUnloaded
from tests.endpoint.local import BUCKET, PREFIX, Local, message, pack_folder, pids, refused
from tests.endpoint.traffic import Traffic
from tests.harness import models
from tests.harness.waiting import wait_until

ROW = b"[[1, 2, 3, 4]]"
MODELS = 4  # of 100 MB, more than fit beside a server


def upload_all(local: Local, multipliers: dict[int, bytes]) -> None:
    for factor, archive in multipliers.items():
        local.upload(f"models/times-{factor}.tar.gz", archive)


def first_number(local: Local, factor: int) -> float:
    """What the model makes of a 1."""
    return float(local.invoke(f"times-{factor}.tar.gz", ROW)["predictions"][0][0])


@pytest.fixture
def served(module_real: Local, plain_multipliers: dict[int, bytes]) -> Local:
    """The module's local endpoint, with an endpoint of two instances on models 1 and 2, made where missing."""
    if module_real.is_gone("endpoint"):
        upload_all(module_real, {1: plain_multipliers[1], 2: plain_multipliers[2]})
        module_real.deploy(instances=2, Environment={"MME_PRELOAD": "none"})
    return module_real


@pytest.mark.ci  # containers with MXNet; test_data_plane.py has these errors from one that is made up
def test_errors_of_the_container_and_its_models_arrive_as_boto3s_own(
    served: Local, multipliers: dict[int, bytes], tmp_path: Path
) -> None:
    served.upload("models/mxnet.tar.gz", multipliers[3])
    assert served.invoke("mxnet.tar.gz", ROW)["predictions"] == [[3, 6, 9, 12]]
    response = refused(served, "ModelError", 424, "mxnet.tar.gz", b"no json")
    assert response["OriginalStatusCode"] == 400
    assert "The body is not JSON" in response["OriginalMessage"]
    response = refused(served, "ModelError", 424, "mxnet.tar.gz", ROW, ContentType="application/x-unheard-of")
    assert response["OriginalStatusCode"] == 415

    broken = models.multiplier(tmp_path / "broken")
    next(broken.glob("*.params")).write_bytes(b"not parameters")
    served.upload("models/broken.tar.gz", pack_folder(broken))
    response = refused(served, "ModelError", 424, "broken.tar.gz", ROW)
    answered = json.loads(response["OriginalMessage"])  # the container's own words
    assert response["OriginalStatusCode"] == answered["code"]
    assert "truncated or not written by MXNet" in answered["message"]
    assert "model-0000.params" in response["OriginalMessage"]
    assert f'with message "{response["OriginalMessage"]}"' in message(response)
    assert not any("broken.tar.gz" in served.loaded(each) for each in served.instances())

    served.s3.delete_object(Bucket=BUCKET, Key="models/mxnet.tar.gz")
    assert served.invoke("mxnet.tar.gz", ROW)["predictions"] == [[3, 6, 9, 12]]  # a loaded copy goes on answering
    assert "Failed to download model data" in message(refused(served, "ValidationError", 400, "missing.tar.gz", ROW))


def test_many_clients_get_the_answer_of_the_model_that_they_asked(
    served: Local, plain_multipliers: dict[int, bytes]
) -> None:
    upload_all(served, plain_multipliers)
    asked = [random.randint(1, 5) for _ in range(300)]
    with ThreadPoolExecutor(32) as clients:
        assert list(clients.map(lambda factor: first_number(served, factor), asked)) == asked


def test_models_are_served_added_shared_updated_and_everything_ends(
    served: Local, plain_multipliers: dict[int, bytes]
) -> None:
    """The quick start of the documentation in one go. Deletes the endpoint at its end."""
    raw = served.invoke_raw("times-2.tar.gz", ROW)
    assert raw["ContentType"] == "application/json"
    assert raw["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads(raw["Body"].read()) == {"predictions": [[2, 4, 6, 8]]}
    assert first_number(served, 1) == 1

    # a model is added while others are called, by uploading it
    with Traffic(lambda number: first_number(served, 1 + number % 2), clients=4) as traffic:
        traffic.wait_for_more()
        for factor in (3, 4, 5):
            served.upload(f"models/added/{factor}.tar.gz", plain_multipliers[factor])
        added = [served.invoke(f"added/{factor}.tar.gz", ROW)["predictions"][0][0] for factor in (3, 4, 5)]
        assert added == [3, 4, 5]

        # an instance is killed
        before = pids(served)
        victim = psutil.Process(min(before))
        below = victim.children(recursive=True)
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: len(pids(served)) == 2 and victim.pid not in pids(served), "it was not replaced", 60)
        traffic.wait_for_more()
        wait_until(lambda: not [child for child in below if child.is_running()], "processes of the killed one survive")

        # the endpoint is updated
        served.create_model("second", Environment={"MME_LOG_FORMAT": "json", "MME_PRELOAD": "none"})
        served.create_config("second", "second", instances=1)
        served.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="second")
        served.wait("endpoint", "InService")
        traffic.wait_for_more()
    assert traffic.failures == []
    assert set(traffic.answers) == {1, 2}
    assert served.describe("endpoint")["EndpointConfigName"] == "second"

    children = psutil.Process(min(pids(served))).children(recursive=True)
    served.sagemaker.delete_endpoint(EndpointName="endpoint")
    served.sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName="endpoint", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    wait_until(lambda: not [child for child in children if child.is_running()], "processes survive the deletion")
    served.clear()


@pytest.mark.ci  # test_data_plane.py has one with a fake container, tests/integration with a server alone
def test_a_single_model_endpoint_serves_its_archive(real: Local, plain_multipliers: dict[int, bytes]) -> None:
    real.upload("models/only.tar.gz", plain_multipliers[3])
    real.deploy("single", url=PREFIX + "only.tar.gz", multi=False, Environment={"MME_PRELOAD": "none"})
    assert real.invoke(body=ROW, endpoint="single") == {"predictions": [[3, 6, 9, 12]]}
    assert "is not a multi-model endpoint" in message(
        refused(real, "ValidationError", 400, "only.tar.gz", ROW, endpoint="single")
    )


@pytest.mark.ci  # loads MXNet models of 100 MB
def test_models_that_do_not_fit_take_turns(real: Local, tmp_path: Path) -> None:
    """The container answers 507, the least recently used model goes, and all are served."""
    archive = pack_folder(models.heavy_model(tmp_path / "heavy", weights_mb=100))
    for number in range(MODELS):
        real.upload(f"models/heavy-{number}.tar.gz", archive)
    real.deploy("turns", Environment={"MME_MEMORY_LIMIT_MB": "850", "MME_OVERCOMMIT": "off"})
    row = json.dumps([[1.0] * 1024]).encode()
    for turn in range(2):
        for number in range(MODELS):
            assert real.invoke(f"heavy-{number}.tar.gz", row, endpoint="turns")["predictions"], (turn, number)
    (instance,) = real.instances("turns")
    assert 0 < len(real.loaded(instance)) < MODELS
    assert len(list(real.folder(instance).glob("*/models/*"))) == MODELS
    unloaded = [event.target for event in real.events if isinstance(event, ModelUnloaded)]
    assert unloaded[0] == "heavy-0.tar.gz"
