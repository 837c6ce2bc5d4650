"""What docs/openapi.yaml allows, and what it does not, sent to a real server: answers as documented, nothing dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, settings

from tests.harness import models
from tests.harness.server import REPOSITORY, ServerProcess

if (
    TYPE_CHECKING
):  # else in the tests: its import and the examples that it makes take longer than many a run of the tests
    import schemathesis

DESCRIPTION = REPOSITORY / "docs" / "openapi.yaml"
PATHS = yaml.load(DESCRIPTION.read_text(), yaml.CSafeLoader)["paths"]
OPERATIONS = [
    (method, path)
    for path, item in PATHS.items()
    for method in ("get", "post", "put", "delete", "options")
    if method in item
]
# Bodies of these types are bytes to us.
BYTES = (
    "application/x-npy",
    "application/x-npz",
    "application/jsonlines",
    "application/x-image",
    "image/png",
    "image/jpeg",
)
ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])
ASKED = "double"  # the model that requests are sent to
EXAMPLES = 60  # per operation


@pytest.fixture(scope="module")
def server(default_server: ServerProcess) -> Iterator[ServerProcess]:
    """One server for all; at the end it is as it was: the same processes, and the model answers."""
    running = default_server
    models.multiplier(running.model_dir(ASKED), factor=2)
    assert running.load(ASKED).status_code == 200
    assert running.request("GET", "/metrics").status_code == 200  # the first one starts a process
    before, listed = {process.pid for process in running.processes()}, running.list_models().json()
    yield running
    assert running.ping().json() == {"status": "Healthy"}
    assert running.invoke(ASKED, ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert running.list_models().json() == listed
    assert {process.pid for process in running.processes()} == before, "no worker was restarted, none was left"
    assert running.unload(ASKED).status_code == 200


def test_a_models_description_has_all_that_is_documented(server: ServerProcess) -> None:
    documented = PATHS["/models/{model_name}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = server.describe(ASKED).json()
    jsonschema.validate(answer, documented)
    assert documented["properties"].keys() <= answer.keys()
    assert {"minWorkers", "maxWorkers", "workers", "asleep"} <= documented["properties"].keys()


@cache
def schema() -> schemathesis.schemas.BaseSchema:
    import schemathesis
    from schemathesis.checks import load_all_checks

    load_all_checks()
    for media_type in BYTES:
        schemathesis.serializer(media_type)(
            lambda context, value: value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        )
    return schemathesis.openapi.from_path(DESCRIPTION)


@pytest.mark.ci  # makes hundreds of requests, which takes longer than to send them
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_documented(server: ServerProcess, method: str, path: str) -> None:
    """What ``schema.parametrize()`` makes of an operation when tests are collected, made when it runs."""
    from schemathesis.generation.feedback import FeedbackSources
    from schemathesis.pytest._test_builder import build_operation_test
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def is_documented(case: schemathesis.Case) -> None:
        if case.operation.path == "/models/{model_name}/invoke":
            case.path_parameters = {"model_name": ASKED}  # a model that is there: it is the body that is tried
        elif case.method in ("DELETE", "PUT") and case.path_parameters.get("model_name") == ASKED:
            return
        response = case.call(base_url=server.url)
        case.validate_response(response, checks=[status_code_conformance, response_schema_conformance])
        assert "Traceback" not in response.text and "Exception:" not in response.text
        assert response.status_code < 500, response.text  # a client's fault is no fault of the server

    build_operation_test(
        config=schema().config,
        operation=schema()[path][method],
        test_func=is_documented,
        given_kwargs={},
        feedback=FeedbackSources(),
    )()
