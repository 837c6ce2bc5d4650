"""Models that do not fit: who has to go, who never does, and models that the container dropped by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests

from tests.endpoint.local import BUCKET, Local, address, behaving, journal, on_disk, pack, refused, targets
from tests.endpoint.traffic import Traffic
from tests.harness.waiting import wait_until


def test_on_507_the_least_recently_used_model_goes_and_comes_back_without_download(local: Local) -> None:
    local.deploy(Environment={"FAKE_CAPACITY": "2"})
    for name in "abc":
        local.upload(f"models/{name}.tar.gz", pack({"text": name}))
    for name in "aba":
        local.invoke(f"{name}.tar.gz")
    local.invoke("c.tar.gz")  # b is the older one
    instance = local.instances()[0]
    assert targets(journal(instance, "unload")) == ["b.tar.gz"]
    assert local.loaded(instance) == ["a.tar.gz", "c.tar.gz"]
    assert on_disk(instance) == ["a.tar.gz", "b.tar.gz", "c.tar.gz"]
    local.s3.delete_object(Bucket=BUCKET, Key="models/b.tar.gz")
    assert local.invoke("b.tar.gz")["text"] == "b"  # it was on the disk
    assert targets(journal(instance, "unload")) == ["b.tar.gz", "a.tar.gz"]


def test_a_model_with_a_request_in_flight_is_never_unloaded(local: Local) -> None:
    local.deploy(Environment={"FAKE_CAPACITY": "1"})
    local.upload("models/slow.tar.gz", behaving(invoke_s=1.0))
    local.upload("models/other.tar.gz", behaving())
    instance_journal = lambda call: journal(local.instances()[0], call)  # noqa: E731
    with ThreadPoolExecutor(1) as caller:
        slow = caller.submit(local.invoke, "slow.tar.gz")
        wait_until(lambda: instance_journal("invoke"), "the slow model was not invoked")
        local.invoke("other.tar.gz")
        assert slow.result(60)
    unload, other = instance_journal("unload")[0], instance_journal("invoke")[1]
    assert unload["target"] == "slow.tar.gz"
    assert unload["time"] - instance_journal("invoke")[0]["time"] >= 1.0
    assert other["time"] > unload["time"]


def test_when_nothing_can_be_unloaded_507_reaches_the_client(local: Local) -> None:
    local.deploy(Environment={"FAKE_CAPACITY": "0"})
    local.upload("models/m.tar.gz", behaving())
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert response["OriginalStatusCode"] == 507


def test_model_cache_setting_disabled_drops_a_model_after_each_invocation(local: Local) -> None:
    local.deploy(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    local.upload("models/m.tar.gz", behaving())
    instance = local.instances()[0]
    for _ in range(2):
        local.invoke("m.tar.gz")
        wait_until(
            lambda: not on_disk(instance) and not local.loaded(instance),
            "the model is still there",
        )
    assert [line["call"] for line in journal(instance)] == ["load", "invoke", "unload"] * 2


def test_a_model_that_the_container_lost_is_loaded_again(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(forgets=True))
    local.invoke("m.tar.gz")
    calls = [line["call"] for line in journal(local.instances()[0])]
    assert calls == ["load", "invoke", "load", "invoke"]


def test_a_model_that_the_container_drops_under_traffic_is_loaded_again_and_nobody_notices(local: Local) -> None:
    """As a container does whose last worker of the model died: the model may be loaded again before others ask."""
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_s=0.01))
    instance = local.instances()[0]
    with Traffic(lambda _: local.invoke("m.tar.gz")["path"]) as traffic:
        for _ in range(10):
            traffic.wait_for_more(20)
            name = traffic.answers[-1].split("/")[2]
            requests.delete(f"{address(instance)}/models/{name}", timeout=10)
    assert traffic.failures == []
    assert len(journal(instance, "load")) > 5


def test_an_invocation_that_lacks_memory_gets_it_from_idle_models(local: Local) -> None:
    local.deploy()
    for name in "abcd":
        local.upload(f"models/{name}.tar.gz", behaving())
        local.invoke(f"{name}.tar.gz")
    local.upload("models/large.tar.gz", behaving(tolerates=2))
    local.invoke("large.tar.gz")
    instance = local.instances()[0]
    assert targets(journal(instance, "unload")) == ["a.tar.gz", "b.tar.gz"]
    assert local.loaded(instance) == ["c.tar.gz", "d.tar.gz", "large.tar.gz"]


def test_an_invocation_that_lacks_memory_is_tried_a_few_times_only(local: Local) -> None:
    local.deploy()
    for name in "abcdef":
        local.upload(f"models/{name}.tar.gz", behaving())
        local.invoke(f"{name}.tar.gz")
    local.upload("models/large.tar.gz", behaving(tolerates=0))
    assert refused(local, "ModelError", 424, "large.tar.gz")["OriginalStatusCode"] == 507
    instance = local.instances()[0]
    assert targets(journal(instance, "unload")) == ["a.tar.gz", "b.tar.gz", "c.tar.gz"]
    assert len(journal(instance, "load")) == 7


def test_an_invocation_that_lacks_memory_where_nothing_can_be_unloaded_fails_at_once(local: Local) -> None:
    local.deploy()
    local.upload("models/large.tar.gz", behaving(tolerates=-1))
    assert refused(local, "ModelError", 424, "large.tar.gz")["OriginalStatusCode"] == 507
    assert len(journal(local.instances()[0], "invoke")) == 1


def test_a_models_own_404_is_passed_on(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_status=404))
    assert refused(local, "ModelError", 424, "m.tar.gz")["OriginalStatusCode"] == 404
    assert len(journal(local.instances()[0], "load")) == 1


def test_clients_of_more_models_than_fit_wait_for_each_other_instead_of_failing(local: Local) -> None:
    local.deploy(Environment={"FAKE_CAPACITY": "1"})
    for number in range(8):
        local.upload(f"models/{number}.tar.gz", behaving(load_s=0.02, invoke_s=0.01))
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda number: local.invoke(f"{number % 8}.tar.gz")["path"], range(64)))
    assert len(set(answers)) == 8
