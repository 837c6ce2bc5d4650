"""What happens at the platform's limits of time and space: each test has a local endpoint with limits of its own."""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests

from local_endpoint.configuration import Limits
from local_endpoint.data_plane import invocations
from local_endpoint.data_plane.invocations import Invocation
from local_endpoint.errors import validation_error
from local_endpoint.http.front import Front
from local_endpoint.http.origin_policy import OriginPolicy
from tests.endpoint.containers import behaving_container, deploy
from tests.endpoint.local import Local, address, behaving, journal, message, on_disk, pack, pids, refused, targets
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
        assert len(local.loaded(instance)) >= 1


def test_the_disk_drops_what_nobody_uses() -> None:
    with Local(disk_bytes=250_000) as local:
        local.deploy(Environment={"FAKE_CAPACITY": "2"})
        for name in "abcd":
            local.upload(f"models/{name}.tar.gz", pack({"text": name * 100_000}))
            local.invoke(f"{name}.tar.gz")
        assert on_disk(local.instances()[0]) == ["c.tar.gz", "d.tar.gz"]
        assert local.invoke("a.tar.gz")["text"] == "a" * 100_000


def test_an_archive_larger_than_the_disk_is_refused_and_costs_no_model_its_place() -> None:
    with Local(disk_bytes=250_000) as local:
        local.deploy()
        local.upload("models/m.tar.gz", pack({"text": "m" * 100_000}))
        local.invoke("m.tar.gz")
        local.upload("models/large.tar.gz", pack({"random": os.urandom(300_000)}))
        text = message(refused(local, "ValidationError", 400, "large.tar.gz"))
        assert "key: models/large.tar.gz): the archive has 300," in text
        assert "and the instance's disk 250,000. Give the production variant a larger VolumeSizeInGB." in text
        local.upload("models/unfolds.tar.gz", pack({"zeros": "0" * 300_000}))  # a small archive
        text = message(refused(local, "ValidationError", 400, "unfolds.tar.gz"))
        assert "it unfolds to more than 250,000 bytes" in text
        instance = local.instances()[0]
        assert local.loaded(instance) == on_disk(instance) == ["m.tar.gz"]


def test_a_load_that_hangs_is_given_up_and_can_be_tried_again() -> None:
    with Local(load_timeout_s=1) as local:
        local.deploy()
        local.upload("models/hangs.tar.gz", behaving(load_s=5))
        started_s = time.monotonic()
        response = refused(local, "ModelError", 424, "hangs.tar.gz")
        assert 1 <= time.monotonic() - started_s < 5
        assert response["OriginalStatusCode"] == 0
        assert "Your invocation timed out while waiting for a response" in message(response)
        instance = local.instances()[0]
        assert on_disk(instance) == ["hangs.tar.gz"]
        # the container has gone on; it says 409 to the next load, or has it by now
        wait_until(lambda: loads_in_the_end(local, "hangs.tar.gz"), "it never loads")


def test_a_model_whose_load_timed_out_is_evicted_when_memory_is_short() -> None:
    """The container may have finished the load by then, and nobody but us can free its memory."""
    with Local(load_timeout_s=1, load_tries=2) as local:
        local.deploy(Environment={"FAKE_CAPACITY": "1"})
        local.upload("models/late.tar.gz", behaving(load_s=2))
        assert refused(local, "ModelError", 424, "late.tar.gz")["OriginalStatusCode"] == 0
        instance = local.instances()[0]
        wait_until(lambda: requests.get(f"{address(instance)}/models", timeout=5).json()["models"], "it never loads")
        local.upload("models/other.tar.gz", behaving())
        local.invoke("other.tar.gz")
        assert targets(journal(instance, "unload")) == ["late.tar.gz"]
        assert on_disk(instance) == ["late.tar.gz", "other.tar.gz"]


def test_a_model_whose_load_timed_out_and_is_not_there_frees_nothing_and_is_not_asked_for_twice() -> None:
    with Local(load_timeout_s=1, load_tries=3) as local:
        local.deploy(Environment={"FAKE_CAPACITY": "1"})
        local.upload("models/hangs.tar.gz", behaving(load_s=30))
        refused(local, "ModelError", 424, "hangs.tar.gz")
        for name in ("one", "two"):
            local.upload(f"models/{name}.tar.gz", behaving())
            local.invoke(f"{name}.tar.gz")  # the second takes the first one's place
        assert targets(journal(local.instances()[0], "unload")) == ["hangs.tar.gz", "one.tar.gz"]


def test_a_model_whose_load_timed_out_goes_from_the_disk_when_it_has_been_unloaded() -> None:
    with Local(load_timeout_s=1, disk_bytes=250_000) as local:
        local.deploy()
        local.upload("models/late.tar.gz", pack({"behaviour.json": '{"load_s": 2}', "text": "l" * 200_000}))
        refused(local, "ModelError", 424, "late.tar.gz")
        instance = local.instances()[0]
        wait_until(lambda: requests.get(f"{address(instance)}/models", timeout=5).json()["models"], "it never loads")
        local.upload("models/other.tar.gz", pack({"text": "o" * 200_000}))
        local.invoke("other.tar.gz")
        assert targets(journal(instance, "unload")) == ["late.tar.gz"]
        wait_until(lambda: on_disk(instance) == ["other.tar.gz"], "it is still on the disk")


def loads_in_the_end(local: Local, target: str) -> bool:
    try:
        local.invoke(target)
    except local.runtime.exceptions.ModelError:
        return False
    return True


def test_so_many_models_and_no_more_are_loaded_at_once() -> None:
    with Local(loads_at_once=2) as local:
        local.deploy()
        for number in range(6):
            local.upload(f"models/{number}.tar.gz", behaving(load_s=0.2))
        with ThreadPoolExecutor(6) as callers:
            list(callers.map(lambda number: local.invoke(f"{number}.tar.gz"), range(6)))
        assert max(line["loads_going_on"] for line in journal(local.instances()[0], "load")) == 2


def test_a_load_waits_for_a_model_that_may_go_for_a_while_only() -> None:
    with Local(victim_wait_s=0.3) as local:
        local.deploy(Environment={"FAKE_CAPACITY": "1"})
        local.upload("models/busy.tar.gz", behaving(invoke_s=4))
        local.upload("models/other.tar.gz", behaving())
        with ThreadPoolExecutor(1) as caller:
            busy = caller.submit(local.invoke, "busy.tar.gz")
            wait_until(lambda: journal(local.instances()[0], "invoke"), "it was not invoked")
            started_s = time.monotonic()
            assert refused(local, "ModelError", 424, "other.tar.gz")["OriginalStatusCode"] == 507
            assert 0.3 <= time.monotonic() - started_s < 3
            assert not busy.done()
        assert not journal(local.instances()[0], "unload")


def test_a_model_that_is_not_ready_in_time_goes_on_loading_and_serves_later() -> None:
    with Local(response_timeout_s=0.5) as local:
        local.deploy()
        local.upload("models/slow.tar.gz", behaving(load_s=1.5))
        response = refused(local, "ModelNotReadyException", 429, "slow.tar.gz")
        assert "slow.tar.gz" in message(response)
        wait_until(lambda: local.loaded(local.instances()[0]), "it was not loaded")
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
    monkeypatch.setattr("local_endpoint.data_plane.invocations.LEAST_INVOCATION_S", 0.3)
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
        local.create_model("slow", Environment={"FAKE_START_S": "30"})
        local.create_config("slow", "slow")
        local.sagemaker.create_endpoint(EndpointName="slow", EndpointConfigName="slow")
        work_dir = local.app.work_dir
        assert work_dir is not None
        wait_until(lambda: list(work_dir.glob("i-*/*/container.log")), "it was not started")
        children = psutil.Process().children(recursive=True)
    assert not [child for child in children if child.is_running()]
    assert not work_dir.exists()


def test_a_container_that_takes_no_notice_of_sigterm_is_ended_in_time() -> None:
    with Local(stop_timeout_s=2) as local:
        local.upload("models/slow.tar.gz", behaving(invoke_s=120))
        local.deploy(instances=2, Environment={"FAKE_STUBBORN": "1"})
        with ThreadPoolExecutor(1) as caller:
            in_flight = caller.submit(local.invoke, "slow.tar.gz")
            wait_until(lambda: any(journal(each, "invoke") for each in local.instances()), "it was not invoked")
            children = psutil.Process().children(recursive=True)
            started_s = time.monotonic()
            local.app.stop()
            assert 2 <= time.monotonic() - started_s < 30
            assert in_flight.exception() is not None
    assert not [child for child in children if child.is_running()]


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


def test_all_members_of_a_chain_share_the_time_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocations, "LEAST_INVOCATION_S", 0.0)
    with Local(response_timeout_s=3.0) as local:
        times_s = {"first": 1.2, "second": 1.9}
        deploy(local, [behaving_container(local, name, invoke_s=time_s) for name, time_s in times_s.items()])
        response = refused(local, "ModelError", 424)
        assert response["OriginalStatusCode"] == 0
        assert "timed out while waiting for a response from container second" in message(response)


def trickled(local: Local, head: str) -> bytes:
    """The answer to a request whose body comes byte by byte, until it is answered."""
    with socket.create_connection(("127.0.0.1", int(local.url.rpartition(":")[2])), timeout=30) as client:
        client.sendall(head.encode())
        given_up_s = time.monotonic() + 20
        while not select.select([client], [], [], 0.05)[0]:
            assert time.monotonic() < given_up_s, "nothing was answered"
            client.sendall(b"x")
        with client.makefile("rb") as answer:  # to the end of the connection
            return answer.read()


def test_a_body_that_trickles_in_is_given_up() -> None:
    to_list = "X-Amz-Target: SageMaker.ListModels\r\n"
    whole, chunked = "Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nFFFF\r\n"
    with Local(response_timeout_s=0.5) as local:
        for path, rest in (
            ("/endpoints/endpoint/invocations", whole),
            ("/endpoints/endpoint/invocations", chunked),
            ("/", to_list + whole),
        ):
            answer = trickled(local, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{rest}")
            assert answer.startswith(b"HTTP/1.1 408 "), rest
            assert b"The request's body did not come within 0.5 s" in answer


def test_the_time_of_an_invocation_begins_before_its_body_is_read() -> None:
    seen: list[float] = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            seen.append(time.monotonic())
            return super().read(size)

    def invoke(request: Invocation) -> Any:
        seen.append(request.deadline_s)
        raise validation_error("enough")

    nobody: Any = None
    plane: Any = SimpleNamespace(invoke=invoke)
    front = Front(nobody, nobody, plane, Limits(), OriginPolicy("127.0.0.1"))
    front.is_ready = True
    path = "/endpoints/endpoint/invocations"
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "HTTP_HOST": "localhost",
        "CONTENT_LENGTH": "2",
        "wsgi.input": Body(b"{}"),
    }
    front({**environ, "wsgi.input": Body(b"{}")}, lambda *_: None)
    read_s, deadline_s = seen
    assert deadline_s <= read_s + Limits().response_timeout_s


def test_the_least_time_is_granted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(invocations, "time", SimpleNamespace(monotonic=lambda: now_s))
    timing = invocations._Timing(60.0, 60.0)
    for now_s, wanted_s in ((1.0, 60.0), (58.0, 66.0), (66.0, 68.0), (67.9, 68.0)):  # noqa: B007  # the lambda's
        timing.grant_least()
        assert timing.answer_deadline_s == wanted_s
