"""Endpoints of several containers, for tests: their definitions, deployment, and what each fake container was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.runtimes.process import ContainerProcess
from tests.endpoint.local import PREFIX, ROLE, Local, behaving


def container(hostname: str | None = None, multi: bool = False, **more: Any) -> dict[str, Any]:
    """A ContainerDefinition: of the models below ``PREFIX``, or of none."""
    definition: dict[str, Any] = {"Image": "an-image", **more}
    if hostname is not None:
        definition["ContainerHostname"] = hostname
    if multi:
        definition.update(Mode="MultiModel", ModelDataUrl=PREFIX)
    return definition


def create_model(local: Local, name: str, containers: list[dict[str, Any]], mode: str | None = None) -> None:
    config = {"InferenceExecutionConfig": {"Mode": mode}} if mode else {}
    local.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, Containers=containers, **config)


def deploy(local: Local, containers: list[dict[str, Any]], mode: str | None = None, wanted: str = "InService") -> Any:
    create_model(local, "endpoint", containers, mode)
    local.create_config("endpoint", "endpoint")
    local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="endpoint")
    return local.wait("endpoint", wanted)


def pids(instance: Instance) -> list[int]:
    processes = [each.running for each in instance.containers]
    assert all(isinstance(each, ContainerProcess) for each in processes)
    return [each.pid for each in processes]  # type: ignore[attr-defined]


def behaving_container(local: Local, hostname: str | None, **behaviour: Any) -> dict[str, Any]:
    """A container whose only model behaves so."""
    key = f"only/{hostname}.tar.gz"
    local.upload(key, behaving(**behaviour))
    return container(hostname, ModelDataUrl=f"s3://test-models/{key}")


def journal_of(instance: Instance, index: int) -> list[dict[str, Any]]:
    """What a fake container of an instance was asked, in order."""
    file = Path(instance.containers[index].running.base_dir) / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
