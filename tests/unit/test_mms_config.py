"""What MMS and its JVM are told, from settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mme.settings import Settings
from mme.supervisor import mms_config


def properties(cores: int = 4, **environment: str) -> dict[str, str]:
    text = mms_config.properties(Settings.from_environment(environment), cores=cores, model_store=Path("/run/x/store"))
    return dict(line.split("=", 1) for line in text.splitlines())


def test_the_timeout_is_told_in_seconds() -> None:
    found = properties(SAGEMAKER_MODEL_SERVER_TIMEOUT="45")
    assert found["default_response_timeout_seconds"] == "45"
    assert "default_response_timeout" not in found


def test_management_and_inference_share_the_port() -> None:
    found = properties(SAGEMAKER_BIND_TO_PORT="8081", MME_HOST="127.0.0.1")
    assert found["inference_address"] == found["management_address"] == "http://127.0.0.1:8081"


def test_a_model_has_one_worker_among_many_and_one_per_core_alone() -> None:
    assert properties(SAGEMAKER_MULTI_MODEL="true")["default_workers_per_model"] == "1"
    assert properties(cores=4)["default_workers_per_model"] == "4"
    assert properties(SAGEMAKER_MODEL_SERVER_WORKERS="3")["default_workers_per_model"] == "3"


def load_policy(cores: float = 4.0, **environment: str) -> dict[str, str]:
    text = mms_config.load_policy(Settings.from_environment(environment), [Path("/models")], cores=cores)
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(
    ("environment", "least", "most", "fixed"),
    [
        ({"SAGEMAKER_MULTI_MODEL": "true"}, 1, 4, False),
        ({"SAGEMAKER_MULTI_MODEL": "true", "MME_WORKERS_PER_CORE": "1.5"}, 1, 6, False),
        ({"SAGEMAKER_MULTI_MODEL": "true", "MME_MIN_WORKERS": "2", "MME_MAX_WORKERS": "3"}, 2, 3, False),
        ({"SAGEMAKER_MULTI_MODEL": "true", "MME_MIN_WORKERS": "9"}, 9, 9, False),
        ({"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_MODEL_SERVER_WORKERS": "2"}, 2, 4, True),
        ({}, 4, 4, False),  # a model alone
        ({"MME_MIN_WORKERS": "1"}, 1, 4, False),
    ],
)
def test_the_bounds_of_workers(environment: dict[str, str], least: int, most: int, fixed: bool) -> None:
    found = load_policy(4.0, **environment)
    assert (found["min_workers"], found["max_workers"]) == (str(least), str(most))
    assert found["workers_fixed"] == str(fixed).lower()


def test_workers_follow_traffic_unless_it_is_switched_off() -> None:
    assert load_policy()["autoscale"] == "true"
    assert load_policy(MME_AUTOSCALE="off")["autoscale"] == "false"


def test_the_payload_limit_is_in_bytes_both_ways() -> None:
    found = properties(SAGEMAKER_MAX_PAYLOAD_IN_MB="20")
    assert found["max_request_size"] == found["max_response_size"] == str(20 * 1024 * 1024)


def test_values_are_escaped_as_java_reads_them() -> None:
    found = properties(SAGEMAKER_HANDLER="händler\\x:läuft😀→")
    assert found["default_service_handler"] == "händler\\\\x:läuft\\ud83d\\ude00\\u2192"


def test_our_jvm_arguments_come_before_the_users() -> None:
    arguments = properties(SAGEMAKER_MODEL_SERVER_VMARGS="-Xmx1g -XX:+UsePerfData")["vmargs"].split()
    assert arguments[-2:] == ["-Xmx1g", "-XX:+UsePerfData"]
    assert "-XX:-UsePerfData" in arguments[:-2]


def test_the_heap_is_bounded_and_grows_with_the_bodies() -> None:
    assert "-Xmx624m" in properties()["vmargs"].split()
    assert "-Xmx832m" in properties(SAGEMAKER_MAX_PAYLOAD_IN_MB="20")["vmargs"].split()


def test_the_users_heap_comes_last_and_so_wins() -> None:
    arguments = properties(SAGEMAKER_MODEL_SERVER_VMARGS="-Xmx2g")["vmargs"].split()
    assert [each for each in arguments if each.startswith("-Xmx")][-1] == "-Xmx2g"


@pytest.mark.parametrize(
    ("level", "root", "access", "workers"),
    [("10", "debug", "info", "debug"), ("20", "info", "info", "info"), ("40", "error", "off", "warn")],
)
def test_the_log_says_what_is_of_the_level_asked_for(level: str, root: str, access: str, workers: str) -> None:
    settings = Settings.from_environment({"MME_LOG_FORMAT": "json", "SAGEMAKER_CONTAINER_LOG_LEVEL": level})
    found = dict(line.split("=", 1) for line in mms_config.log_properties(settings).splitlines())
    assert (found["format"], found["level"], found["level.ACCESS_LOG"]) == ("json", root, access)
    assert found["level.com.amazonaws.ml.mms.wlm.WorkerLifeCycle"] == workers
    assert ("deny.ACCESS_LOG" in found) is (level != "10")


def environment(inherited: dict[str, str], **settings: str) -> dict[str, str]:
    return mms_config.environment(
        Settings.from_environment(settings), inherited, runtime_dir=Path("/run/x"), package_dir=Path("/package")
    )


def test_the_front_end_shares_few_heaps_of_c_unless_the_user_says_otherwise() -> None:
    assert environment({})["MALLOC_ARENA_MAX"] == "2"
    assert mms_config.own_variables({}) == {"MALLOC_ARENA_MAX": "2"}
    assert environment({"MALLOC_ARENA_MAX": "4"})["MALLOC_ARENA_MAX"] == "4"
    assert not mms_config.own_variables({"MALLOC_ARENA_MAX": "4"})
    text = mms_config.properties(Settings(), cores=1, model_store=Path("/s"), hidden_variables=["A", "B"])
    assert "blacklist_env_vars=A|B\n" in text


def test_temporary_files_stay_in_the_private_folder() -> None:
    found = environment({"TMPDIR": "/tmp", "TEMP": "/other"})
    assert found["TMPDIR"] == found["TEMP"] == "/run/x/tmp"


def test_the_package_comes_first_on_the_python_path() -> None:
    assert environment({"PYTHONPATH": "/mine"})["PYTHONPATH"] == "/package:/mine"
    assert environment({})["PYTHONPATH"] == "/package"


def test_another_configuration_file_cannot_be_slipped_in() -> None:
    assert "MMS_CONFIG_FILE" not in environment({"MMS_CONFIG_FILE": "/etc/evil"})


def test_the_toolkit_gets_its_literal_true() -> None:
    assert environment({}, SAGEMAKER_MULTI_MODEL="YES")["SAGEMAKER_MULTI_MODEL"] == "true"


def test_the_users_own_mxnet_engine_stays() -> None:
    assert environment({"MXNET_ENGINE_TYPE": "ThreadedEngine"})["MXNET_ENGINE_TYPE"] == "ThreadedEngine"


def test_mxnet_fuses_operators_where_that_is_asked_for() -> None:
    assert environment({})["MXNET_SUBGRAPH_BACKEND"] == "NONE"
    assert "MXNET_SUBGRAPH_BACKEND" not in environment({}, MME_MXNET_FUSE="on")


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"MME_MANAGEMENT": "9001"}, "http://127.0.0.1:9001"),
        ({"MME_MANAGEMENT": "loopback"}, "http://127.0.0.1:8081"),
        ({"MME_MANAGEMENT": "loopback", "SAGEMAKER_BIND_TO_PORT": "8081"}, "http://127.0.0.1:8082"),
        ({"MME_MANAGEMENT": "loopback", "SAGEMAKER_SAFE_PORT_RANGE": "9000-9001"}, "http://127.0.0.1:9000"),
        ({"MME_MANAGEMENT": "loopback", "SAGEMAKER_SAFE_PORT_RANGE": "8000-9000"}, "http://127.0.0.1:8081"),
        (
            {
                "MME_MANAGEMENT": "loopback",
                "SAGEMAKER_SAFE_PORT_RANGE": "9000-9001",
                "SAGEMAKER_BIND_TO_PORT": "9000",
            },
            "http://127.0.0.1:9001",
        ),
        ({"MME_MANAGEMENT": "unix:/run/socket"}, "unix:/run/socket"),
    ],
)
def test_management_calls_can_have_a_place_of_their_own(settings: dict[str, Any], address: str) -> None:
    found = properties(**settings)
    assert found["management_address"] == address
    assert found["inference_address"].startswith("http://0.0.0.0:")


def test_the_model_store_is_not_the_environments_to_choose() -> None:
    assert properties()["model_store"] == "/run/x/store"
    assert "MMS_MODEL_STORE" not in environment({"MMS_MODEL_STORE": "/"})


@pytest.mark.parametrize(
    ("inherited", "locale"),
    [
        ({}, "C.UTF-8"),
        ({"LANG": "C"}, "C.UTF-8"),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, "C.UTF-8"),
        ({"LANG": "de_DE.UTF-8"}, None),
        ({"LANG": "C", "LC_ALL": "en_US.utf8"}, "en_US.utf8"),
    ],
)
def test_names_in_any_script_reach_the_jvm(inherited: dict[str, str], locale: str | None) -> None:
    assert environment(inherited).get("LC_ALL") == locale
