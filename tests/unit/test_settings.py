"""Settings: what is read, what is refused, and that the documentation lists all of it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from mme import settings as settings_module
from mme.errors import SettingError
from mme.settings import PortRange, Settings, documentation

REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_set_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.port == 8080
    assert settings.models_dir == Path("/opt/ml/models")


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.from_environment({"SAGEMAKER_BIND_TO_PORT": " "}) == Settings()


def test_values_are_parsed() -> None:
    settings = Settings.from_environment(
        {
            "SAGEMAKER_MULTI_MODEL": "true",
            "SAGEMAKER_BIND_TO_PORT": "8081",
            "SAGEMAKER_SAFE_PORT_RANGE": "9000-9999",
            "SAGEMAKER_BASE_DIR": "/data",
            "SAGEMAKER_CONTAINER_LOG_LEVEL": "warning",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
        }
    )
    assert settings.multi_model
    assert settings.port == 8081
    assert settings.safe_port_range == PortRange(9000, 9999)
    assert settings.single_model_dir == Path("/data/model")
    assert settings.log_level == 30
    assert settings.worker_response_timeout_s == 30


def test_the_timeout_in_seconds_wins() -> None:
    settings = Settings.from_environment(
        {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "30", "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "7"}
    )
    assert settings.worker_response_timeout_s == 7


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SAGEMAKER_MULTI_MODEL", "maybe", "true or false"),
        ("SAGEMAKER_BIND_TO_PORT", "32767", "32766"),
        ("SAGEMAKER_BIND_TO_PORT", "32768", "32766"),
        ("SAGEMAKER_BIND_TO_PORT", "http", "32766"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9999-9000", "FIRST-LAST"),
        ("SAGEMAKER_BASE_DIR", "models", "absolute path"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "0", "at least 1|from 1"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "-1", "from 1"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1.5", "whole number"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "loud", "debug"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "²", "debug"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "1" * 5000, "debug"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "1" * 5000 + "-9", "FIRST-LAST"),
        ("SAGEMAKER_BIND_TO_PORT", "²", "32766"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "1" * 5000, "whole number"),
        ("MME_MANAGEMENT", "²", "same, loopback"),
        ("SAGEMAKER_HANDLER", "a\nb", "control characters"),
        ("MME_LOG_FORMAT", "xml", "text, json"),
        ("MME_MODEL_CODE", "ask", "run, refuse"),
        ("MME_HOST", "::1", "IPv4"),
        ("MME_HOST", "http://0.0.0.0", "host name"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environment({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r}")
    assert re.search(allowed, message)


def test_every_setting_is_documented_with_a_sentence() -> None:
    for each in fields(Settings):
        assert len(each.metadata["doc"]) > 20, each.metadata["name"]


def test_the_documentation_lists_every_setting() -> None:
    assert (REPOSITORY / "docs" / "settings.md").read_text() == documentation(), (
        "regenerate it: .venv/bin/python -m mme.settings > docs/settings.md"
    )


def test_the_environment_is_read_in_settings_only() -> None:
    """Other modules may pass the environment on as a whole (to programs that they start), but look nothing up in it."""
    lookup = re.compile(r"environ\.get\(|environ\[[\"']|getenv\(")
    offenders = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in sorted((REPOSITORY / "container").rglob("*.py"))
        if path.name != Path(settings_module.__file__).name
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if lookup.search(line) and "] = " not in line
    ]
    assert not offenders
