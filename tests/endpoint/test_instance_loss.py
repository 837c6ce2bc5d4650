"""An instance that goes while it downloads and loads models: those who wait for them are served by another."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from local_endpoint.errors import ContainerGone
from local_endpoint.model_cache.table import State
from local_endpoint.storage.location import S3Location, TargetModel
from tests.endpoint.local import BUCKET, Local, behaving, journal, pack, pid_of
from tests.harness.waiting import wait_until


def model(name: str) -> TargetModel:
    return TargetModel.below(S3Location(BUCKET, "models/"), f"{name}.tar.gz")


def in_a_minute() -> float:
    return time.monotonic() + 60


def test_requests_that_wait_for_models_of_a_killed_instance_are_answered_by_another() -> None:
    """Many downloads and loads are queued, at every stage, when one of two instances is killed."""
    with Local(loads_at_once=3) as local:
        local.deploy(instances=2)
        for number in range(12):
            local.upload(
                f"models/{number}.tar.gz", pack({"behaviour.json": '{"load_s": 0.4}', "weights": os.urandom(1_000_000)})
            )
        victim = local.instances()[0]
        with ThreadPoolExecutor(12) as callers:
            started_s = time.monotonic()
            answers = [callers.submit(local.invoke, f"{number}.tar.gz") for number in range(12)]
            wait_until(lambda: journal(victim, "load"), "nothing is being loaded")
            os.kill(pid_of(victim), signal.SIGKILL)
            failures = [answer.exception() for answer in answers]
        assert not any(failures), failures
        assert time.monotonic() - started_s < 30  # the full time-out is 60
        assert not local.folder(victim).exists()


def test_requests_wait_while_a_container_that_refuses_connections_has_yet_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The front end of a real one ends first; its supervisor ends a thousand workers then, which takes seconds."""
    with Local() as local:
        local.deploy(Environment={"FAKE_LINGERS_S": "2"})
        for name in ("loaded", "new"):
            local.upload(f"models/{name}.tar.gz", behaving())
        local.invoke("loaded.tar.gz")
        victim = local.instances()[0]
        os.kill(pid_of(victim), signal.SIGUSR1)
        wait_until(lambda: not victim.containers[0].client.is_healthy(5, multi_model=True), "it still answers")
        assert victim.is_alive()
        with ThreadPoolExecutor(8) as callers:
            answers = [callers.submit(local.invoke, f"{name}.tar.gz") for name in ("loaded", "new") * 4]
            assert [answer.exception() for answer in answers] == [None] * 8
        wait_until(
            lambda: "it ended with status 1. Its last lines:\nthe fake front end has ended" in caplog.text, "no log"
        )


def test_an_instance_that_is_stopped_while_models_are_on_their_way_leaves_no_folder() -> None:
    with Local() as local:
        local.deploy(instances=2)
        local.upload("models/slow.tar.gz", behaving(load_s=2.0))
        with ThreadPoolExecutor(8) as callers:
            answers = [callers.submit(local.invoke, "slow.tar.gz") for _ in range(8)]
            wait_until(lambda: any(journal(each, "load") for each in local.instances()), "nothing is being loaded")
            holder = next(each for each in local.instances() if journal(each, "load"))
            holder.stop()
            wait_until(lambda: not local.folder(holder).exists(), "its folder is still there")
            assert [answer.exception() for answer in answers] == [None] * 8


def test_whoever_waits_for_a_model_when_the_cache_is_closed_is_told_at_once(local: Local) -> None:
    local.deploy()
    local.upload("models/slow.tar.gz", behaving(load_s=20))
    cache = local.instances()[0].containers[0].cache

    def wait() -> None:
        with cache.use(model("slow"), in_a_minute()):
            pass

    with ThreadPoolExecutor(4) as callers:
        waiting = [callers.submit(wait) for _ in range(4)]
        wait_until(lambda: journal(local.instances()[0], "load"), "nothing is being loaded")
        started_s = time.monotonic()
        cache.close()
        assert [type(each.exception()) for each in waiting] == [ContainerGone] * 4
        assert time.monotonic() - started_s < 5
    with pytest.raises(ContainerGone), cache.use(model("other"), in_a_minute()):
        pass


def test_a_model_that_was_in_use_when_the_cache_was_closed_is_given_back_in_peace(local: Local) -> None:
    """The answer is there by then; that its model cannot be unloaded any more is nobody's concern."""
    local.deploy(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    local.upload("models/m.tar.gz", behaving())
    cache = local.instances()[0].containers[0].cache
    with cache.use(model("m"), in_a_minute()):
        cache.close()
    assert cache.wait_until_idle(5)


def test_targets_that_do_not_exist_leave_nothing_behind(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    local.upload("models/bad.tar.gz", b"rubbish")
    local.upload("models/broken.tar.gz", behaving(load_status=500))
    local.invoke("m.tar.gz")
    for target in [*(f"missing-{number}.tar.gz" for number in range(20)), "bad.tar.gz", "broken.tar.gz"]:
        with pytest.raises(local.runtime.exceptions.ClientError):
            local.invoke(target)
    models = local.instances()[0].containers[0].cache.models
    assert len(models) == 1
    entry = models.get(model("m").name)
    assert entry is not None
    assert (entry.state, entry.users) == (State.LOADED, 0)


def test_models_that_are_dropped_after_use_leave_nothing_behind(local: Local) -> None:
    local.deploy(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    local.upload("models/m.tar.gz", behaving())
    local.invoke("m.tar.gz")
    wait_until(lambda: len(local.instances()[0].containers[0].cache.models) == 0, "it is still there")
