"""Fixtures of the local endpoint's tests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest

from tests.endpoint.local import Local, pack, pack_folder
from tests.harness import models

_read: dict[str | None, dict[Any, Any]] = defaultdict(dict)  # by search path
_create_loader = botocore.session.create_loader


def _create_loader_that_remembers(search_path: str | None = None) -> Any:
    loader = _create_loader(search_path)
    loader._cache = _read[search_path]
    return loader


# What one session of botocore has read of the descriptions of services, others need not: each would list 400 folders
# and read megabytes, a tenth of a second of a processor, in each call of a program under test.
botocore.session.create_loader = _create_loader_that_remembers


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 and the AWS CLI are to see what a test gives them, nothing of the user's."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_RETRY_MODE", "AWS_CONFIG_FILE", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def module_local() -> Iterator[Local]:
    """A local endpoint for all tests of a module; its containers are fake containers."""
    with Local(health_interval_s=0.2) as running:
        yield running


@pytest.fixture
def local(module_local: Local) -> Iterator[Local]:
    """The module's local endpoint, empty afterwards."""
    yield module_local
    module_local.clear()


@pytest.fixture(scope="session")
def multipliers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Archives of real models that multiply by 1 to 5."""
    folder = tmp_path_factory.mktemp("multipliers")
    return {factor: pack_folder(models.multiplier(folder / str(factor), factor=factor)) for factor in range(1, 6)}


@pytest.fixture(scope="session")
def plain_multipliers() -> dict[int, bytes]:
    """The same without a framework, whose import costs each container seconds: archives of Multi Model Server's own."""
    handler = (
        "import json\n"
        "def handle(data, context):\n"
        "    rows = [json.loads(item.get('body')) for item in data or []]\n"
        "    [context.set_response_content_type(index, 'application/json') for index in range(len(rows))]\n"
        "    return [{{'predictions': [[{factor} * x for x in row] for row in each]}} for each in rows]\n"
    )
    manifest = json.dumps({"model": {"handler": "times:handle"}})
    return {
        factor: pack({"MAR-INF/MANIFEST.json": manifest, "times.py": handler.format(factor=factor)})
        for factor in range(1, 6)
    }


@pytest.fixture(scope="module")
def module_real() -> Iterator[Local]:
    """A local endpoint for all tests of a module, with real containers."""
    with Local(real=True) as running:
        yield running


@pytest.fixture
def real(module_real: Local) -> Iterator[Local]:
    """The module's local endpoint with real containers, empty afterwards."""
    yield module_real
    module_real.clear()
