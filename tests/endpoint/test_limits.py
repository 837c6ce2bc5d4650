"""What happens at the platform's limits of time and room: each test has a local endpoint with limits of its own."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.endpoint.local import Local, behaving, journal, message, pack, pids, refused, targets
from tests.harness.waiting import wait_until


def test_unloading_is_bounded() -> None:
    with Local(load_tries=3) as local:
        local.deploy()
        for name in "abcd":
            local.upload(f"models/{name}.tar.gz", behaving())
            local.invoke(f"{name}.tar.gz")
        local.upload("models/never.tar.gz", behaving(load_status=507))
        assert refused(local, "ModelError", 424, "never.tar.gz")["OriginalStatusCode"] == 507
        instance = local.instances()[0]
        assert targets(journal(instance, "load")).count("never.tar.gz") == 3
        assert instance.cache.loaded_count >= 1


def test_the_disk_drops_what_nobody_uses() -> None:
    with Local(disk_bytes=250_000) as local:
        local.deploy(Environment={"STAND_IN_CAPACITY": "2"})
        for name in "abcd":
            local.upload(f"models/{name}.tar.gz", pack({"text": name * 100_000}))
            local.invoke(f"{name}.tar.gz")
        cache = local.instances()[0].cache
        assert cache.on_disk() == ["c.tar.gz", "d.tar.gz"]
        assert cache.disk_used_bytes == 200_000
        assert local.invoke("a.tar.gz")["text"] == "a" * 100_000


def test_a_model_that_is_not_ready_in_time_goes_on_loading_and_serves_later() -> None:
    with Local(response_timeout_s=0.5) as local:
        local.deploy()
        local.upload("models/slow.tar.gz", behaving(load_s=1.5))
        response = refused(local, "ModelNotReadyException", 429, "slow.tar.gz")
        assert "slow.tar.gz" in message(response)
        wait_until(lambda: local.instances()[0].cache.loaded(), "it was not loaded")
        local.invoke("slow.tar.gz")
        assert len(journal(local.instances()[0], "load")) == 1


def test_the_retry_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 1.44 does not retry ModelNotReadyException in its default mode; the legacy mode does."""
    with Local(response_timeout_s=0.2) as local:
        local.deploy()
        local.upload("models/slow.tar.gz", behaving(load_s=1.5))
        default = local.client("sagemaker-runtime")
        arguments = {"EndpointName": "endpoint", "Body": b"{}", "TargetModel": "slow.tar.gz"}
        with pytest.raises(default.exceptions.ModelNotReadyException) as caught:
            default.invoke_endpoint(**arguments)
        assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0
        legacy = local.client("sagemaker-runtime", retries={"mode": "legacy", "max_attempts": 10})
        answer = legacy.invoke_endpoint(**arguments)
        assert answer["ResponseMetadata"]["RetryAttempts"] > 0


def test_an_invocation_that_takes_too_long_is_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_endpoint.data_plane.LEAST_INVOCATION_S", 0.3)
    with Local(response_timeout_s=0.5) as local:
        local.deploy()
        local.upload("models/slow.tar.gz", behaving(invoke_s=2.0))
        response = refused(local, "ModelError", 424, "slow.tar.gz")
        assert response["OriginalStatusCode"] == 0
        assert "Your invocation timed out while waiting for a response from container primary." in message(response)


def test_an_instance_that_falls_silent_is_replaced() -> None:
    with Local(health_interval_s=0.1, ping_timeout_s=0.2, ping_failures=3, stop_timeout_s=1) as local:
        local.deploy()
        (before,) = pids(local)
        os.kill(before, signal.SIGSTOP)
        wait_until(lambda: pids(local) not in ({before}, set()), "it was not replaced")
        local.upload("models/m.tar.gz", behaving())
        local.invoke("m.tar.gz")
        wait_until(lambda: not psutil.pid_exists(before), "the silent one was not ended")


def test_a_start_during_the_shutdown_leaves_nothing_behind() -> None:
    with Local() as local:
        local.create_model("slow", Environment={"STAND_IN_START_S": "30"})
        local.create_config("slow", "slow")
        local.sagemaker.create_endpoint(EndpointName="slow", EndpointConfigName="slow")
        work_dir = local.app.work_dir
        assert work_dir is not None
        wait_until(lambda: list(work_dir.glob("i-*/container.log")), "it was not started")
        children = psutil.Process().children(recursive=True)
    assert not [child for child in children if child.is_running()]
    assert not work_dir.exists()


def test_the_end_does_not_wait_for_requests_of_an_endpoint_that_is_being_deleted() -> None:
    with Local() as local:
        local.upload("models/slow.tar.gz", behaving(invoke_s=20))
        local.deploy()
        with ThreadPoolExecutor(1) as caller:
            in_flight = caller.submit(local.invoke, "slow.tar.gz")
            wait_until(lambda: journal(local.instances()[0], "invoke"), "it was not invoked")
            local.sagemaker.delete_endpoint(EndpointName="endpoint")
            children = psutil.Process().children(recursive=True)
            started_s = time.monotonic()
            local.app.stop()
            assert time.monotonic() - started_s < 10
            assert in_flight.exception() is not None
    assert not [child for child in children if child.is_running()]
