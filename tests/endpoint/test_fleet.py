"""Several instances, their death and replacement, updates and deletions: with traffic flowing all the while."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import requests

from local_endpoint.configuration import Limits
from local_endpoint.errors import StartFailure
from local_endpoint.events import Events
from local_endpoint.hosting import fleet
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import VariantDefinition
from local_endpoint.hosting.fleet import Fleet
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.runtimes import process
from local_endpoint.model_cache import cache
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectReader
from tests.endpoint.local import BUCKET, Local, address, behaving, journal, message, on_disk, pack, pids, refused
from tests.endpoint.traffic import Traffic
from tests.harness.waiting import wait_until


def test_a_model_stays_on_the_instance_that_has_it(local: Local) -> None:
    local.deploy(instances=3)
    local.upload("models/m.tar.gz", behaving())
    assert len({local.invoke("m.tar.gz")["pid"] for _ in range(20)}) == 1


def test_an_endpoint_is_in_service_when_all_its_instances_answer(local: Local) -> None:
    local.deploy(instances=2)  # returns in service
    described = local.sagemaker.describe_endpoint(EndpointName="endpoint")
    assert described["EndpointStatus"] == "InService"
    assert [each["CurrentInstanceCount"] for each in described["ProductionVariants"]] == [2]
    assert len(pids(local)) == 2
    for instance in local.instances():
        assert requests.get(f"{address(instance)}/ping", timeout=10).status_code == 200


def test_models_spread_over_the_instances(local: Local) -> None:
    local.deploy(instances=3)
    for number in range(9):
        local.upload(f"models/{number}.tar.gz", behaving())
        local.invoke(f"{number}.tar.gz")
    assert [len(local.loaded(instance)) for instance in local.instances()] == [3, 3, 3]


def test_a_busy_instance_gets_help_from_another_which_loads_a_copy(local: Local) -> None:
    local.deploy(instances=2)
    local.upload("models/m.tar.gz", behaving(invoke_s=0.05))
    local.invoke("m.tar.gz")
    with Traffic(lambda _: local.invoke("m.tar.gz"), clients=12, pause_s=0) as traffic:
        wait_until(lambda: all(local.loaded(each) for each in local.instances()), "no copy was made")
        traffic.wait_for_more(50)
        both = [journal(each, "invoke") for each in local.instances()]
        wait_until(lambda: all(len(journal(each, "invoke")) > 10 for each in local.instances()), "one does all")
    assert not traffic.failures
    assert [len(journal(each, "load")) for each in local.instances()] == [1, 1], both


def test_a_copy_that_failed_is_tried_again_ever_later_not_with_every_request(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "COPY_PAUSES_S", (0.05, 600.0))
    size_bytes, asked = ObjectReader.size_bytes, []

    def count(reader: ObjectReader, location: S3Location) -> int:
        asked.append(location.key)
        return size_bytes(reader, location)

    monkeypatch.setattr(ObjectReader, "size_bytes", count)
    local.deploy(instances=2)
    local.upload("models/m.tar.gz", behaving(invoke_s=0.05))
    local.invoke("m.tar.gz")
    local.s3.delete_object(Bucket=BUCKET, Key="models/m.tar.gz")  # no copy can be made
    with Traffic(lambda _: local.invoke("m.tar.gz"), clients=12, pause_s=0) as traffic:
        wait_until(lambda: len(asked) == 3, "no copy was tried, or not again")
        traffic.wait_for_more(200)
    assert traffic.failures == []
    assert len(asked) == 3


def test_an_instance_killed_under_load_is_replaced_and_no_request_is_lost(local: Local) -> None:
    local.deploy(instances=2)
    for number in range(6):
        local.upload(f"models/{number}.tar.gz", pack({"text": str(number)}))
    before = pids(local)
    with Traffic(lambda number: local.invoke(f"{number % 6}.tar.gz")["text"]) as traffic:
        traffic.wait_for_more()
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(pids(local)) == 2 and min(before) not in pids(local), "it was not replaced")
        traffic.wait_for_more(200)
    assert traffic.failures == []
    assert set(traffic.answers) == set("012345")
    assert not psutil.pid_exists(min(before))
    assert local.describe("endpoint")["ProductionVariants"][0]["CurrentInstanceCount"] == 2


def test_a_request_that_kills_every_container_it_reaches_ends_in_an_error(local: Local) -> None:
    local.deploy(instances=2)
    local.upload("models/dies.tar.gz", behaving(dies=True))
    response = refused(local, "ServiceUnavailable", 503, "dies.tar.gz")
    assert message(response).startswith("The container ended while it served the request (")
    wait_until(lambda: len(pids(local)) == 2, "the dead were not replaced")
    local.upload("models/m.tar.gz", behaving())
    local.invoke("m.tar.gz")


def test_an_update_loses_no_request_and_ends_the_old_instances(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_s=0.02))
    local.deploy(instances=2, Environment={"VERSION": "1"})
    local.create_model("second", Environment={"VERSION": "2", "FAKE_START_S": "0.5"})
    local.create_config("second", "second", instances=3)
    before = pids(local)
    with Traffic(lambda _: local.invoke("m.tar.gz")["environment"]["VERSION"]) as traffic:
        traffic.wait_for_more()
        local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="second")
        assert local.describe("endpoint")["EndpointStatus"] == "Updating"
        with pytest.raises(local.sagemaker.exceptions.ClientError, match="Cannot update in-progress endpoint"):
            local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="second")
        local.wait("endpoint", "InService")
        traffic.wait_for_more()
        wait_until(lambda: not any(map(psutil.pid_exists, before)), "the old instances are still there")
    assert traffic.failures == []
    assert set(traffic.answers) == {"1", "2"}
    description = local.describe("endpoint")
    assert description["EndpointConfigName"] == "second"
    assert description["ProductionVariants"][0]["CurrentInstanceCount"] == 3
    assert traffic.answers[-1] == "2"


def test_an_update_that_does_not_come_up_leaves_the_old_configuration_in_service(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    local.deploy()
    local.create_model("broken", Environment={"FAKE_EXIT": "1"})
    local.create_config("broken", "broken")
    before = pids(local)
    with Traffic(lambda _: local.invoke("m.tar.gz"), clients=2) as traffic:
        local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="broken")
        description = local.wait("endpoint", "InService")
        traffic.wait_for_more(10)
    assert traffic.failures == []
    assert description["EndpointConfigName"] == "endpoint"
    assert "did not pass the ping health check" in description["FailureReason"]
    assert pids(local) == before


def test_an_update_that_fails_for_a_reason_of_this_machine_leaves_the_old_configuration_in_service(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.upload("models/m.tar.gz", behaving())
    local.deploy()
    local.create_config("second", "endpoint")

    def fail(host: str) -> int:
        raise OSError("no free port")

    monkeypatch.setattr(process, "take_port", fail)
    local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="second")
    description = local.wait("endpoint", "InService")
    assert (description["EndpointConfigName"], description["FailureReason"]) == ("endpoint", "InternalFailure")
    local.invoke("m.tar.gz")


def test_a_deletion_lets_requests_in_flight_end_and_ends_the_containers(local: Local) -> None:
    local.upload("models/slow.tar.gz", behaving(invoke_s=1.0))
    local.deploy()
    before = pids(local)
    with ThreadPoolExecutor(1) as caller:
        in_flight = caller.submit(local.invoke, "slow.tar.gz")
        wait_until(lambda: journal(local.instances()[0], "invoke"), "it was not invoked")
        local.delete()
        assert in_flight.result()["pid"] in before
    assert not any(map(psutil.pid_exists, before))
    assert "not found" in message(refused(local, "ValidationError", 400, "slow.tar.gz"))


def test_the_number_of_instances_can_be_changed_under_load(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_s=0.02))
    local.deploy()
    with Traffic(lambda _: local.invoke("m.tar.gz")["pid"]) as traffic:
        for count in (3, 1):
            local.sagemaker.update_endpoint_weights_and_capacities(
                EndpointName="endpoint",
                DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": count}],
            )
            local.wait("endpoint", "InService")
            assert len(pids(local)) == count
            traffic.wait_for_more()
    assert traffic.failures == []


def test_an_instance_that_dies_while_others_drain_is_replaced(local: Local) -> None:
    """Those that are on their way out do not count towards the number that is wanted."""
    local.deploy(instances=3)
    for number in range(3):
        local.upload(f"models/{number}.tar.gz", behaving(invoke_s=2.0))
    with ThreadPoolExecutor(3) as callers:
        answers = [callers.submit(local.invoke, f"{number}.tar.gz") for number in range(3)]
        instances = local.instances()
        wait_until(lambda: all(journal(each, "invoke") for each in instances), "not all were invoked")
        local.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="endpoint",
            DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 1}],
        )
        wait_until(lambda: len(local.instances()) == 1, "none was taken out")
        (kept,) = pids(local)
        os.kill(kept, signal.SIGKILL)
        wait_until(lambda: pids(local) not in ({kept}, set()), "the one that died was not replaced")
        assert [each.exception() for each in answers] == [None] * 3
    description = local.wait("endpoint", "InService")
    assert description["ProductionVariants"][0]["CurrentInstanceCount"] == 1


class ScriptedInstance(Instance):
    """An instance without containers, whose start goes as the next item of ``script`` says."""

    script: ClassVar[list[str]] = []
    started: ClassVar[list[ScriptedInstance]] = []
    may_start: ClassVar[threading.Event]

    def start(self) -> None:
        self.started.append(self)
        goes = self.script.pop(0) if self.script else "lives"
        if goes == "waits":
            assert self.may_start.wait(10)
        elif goes == "dies":
            # as a container that answers its first /ping and ends before its start has returned
            watcher = threading.Thread(target=self._on_container_end, args=("it ended with status 1",))
            watcher.start()
            watcher.join()

    def die(self) -> None:
        self._on_container_end("it was killed")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of two scripted instances, not started."""
    monkeypatch.setattr(fleet, "Instance", ScriptedInstance)
    monkeypatch.setattr(fleet, "RETRY_S", (0.01,))
    monkeypatch.setattr(ScriptedInstance, "script", [])
    monkeypatch.setattr(ScriptedInstance, "started", [])
    monkeypatch.setattr(ScriptedInstance, "may_start", threading.Event(), raising=False)
    definition = VariantDefinition("us-east-1", "endpoint", "v", "ml.m5.large", 30, 1, 1, containers=())
    nothing: Any = None
    context = HostingContext(nothing, nothing, Limits(), Events(), tmp_path)
    made = Fleet(definition, 2, context)
    yield made
    made.stop()


def test_an_instance_that_dies_before_its_start_returns_fails_the_start(scripted: Fleet) -> None:
    ScriptedInstance.script[:] = ["lives", "dies"]
    with pytest.raises(StartFailure, match="died right after it had started: it ended with status 1"):
        scripted.start()
    assert len(ScriptedInstance.started) == 2


def test_a_replacement_that_dies_before_its_start_returns_is_replaced_and_no_other(scripted: Fleet) -> None:
    scripted.start()
    ScriptedInstance.script[:] = ["dies", "dies", "lives"]
    ScriptedInstance.started[0].die()
    wait_until(lambda: len(scripted.instances) == 2, "it was not replaced")
    assert len(ScriptedInstance.started) == 2 + 3
    assert all(each.is_alive() for each in scripted.instances)


def test_an_instance_that_dies_as_a_surplus_one_is_turned_away_is_replaced(
    scripted: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled in to one while a replacement starts: it is not needed, until the only other one dies."""
    scripted.start()
    first, second = scripted.instances
    ScriptedInstance.script[:] = ["waits"]
    threading.Thread(target=first.die).start()  # type: ignore[attr-defined]
    wait_until(lambda: len(ScriptedInstance.started) == 3, "no replacement starts")
    surplus = ScriptedInstance.started[2]
    scripted.set_count(1)
    end = scripted._end

    def end_while_the_other_dies(instance: Instance) -> None:
        if instance is surplus:
            second.die()  # type: ignore[attr-defined]
        end(instance)

    monkeypatch.setattr(scripted, "_end", end_while_the_other_dies)
    ScriptedInstance.may_start.set()
    wait_until(lambda: len(ScriptedInstance.started) == 4, "there is no instance for ever")
    wait_until(lambda: scripted.instances == ScriptedInstance.started[3:], "it does not come up")


def test_instances_that_die_right_after_they_became_ready_are_replaced_ever_later(
    scripted: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_s: list[float] = []

    class Recording(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            pauses_s.append(timeout)
            return self.is_set()

    monkeypatch.setattr(fleet, "RETRY_S", (1.0, 2.0, 4.0))
    scripted.start()
    scripted._stopping = Recording()
    for _ in range(5):
        scripted.instances[0].die()  # type: ignore[attr-defined]
        assert len(scripted.instances) == 2
    assert pauses_s == [0.0, 1.0, 2.0, 4.0, 4.0]
    monkeypatch.setattr(fleet, "EARLY_DEATH_S", 0.0)  # from now on each has served for long
    scripted.instances[0].die()  # type: ignore[attr-defined]
    assert pauses_s[5:] == [0.0]


def test_missing_instances_start_side_by_side(scripted: Fleet) -> None:
    scripted.start()
    ScriptedInstance.script[:] = ["waits"] * 3
    scaling = threading.Thread(target=scripted.set_count, args=(5,))
    scaling.start()
    wait_until(lambda: len(ScriptedInstance.started) == 5, "they start one after another")
    ScriptedInstance.may_start.set()
    scaling.join(10)
    assert len(scripted.instances) == 5


def test_scaling_returns_when_all_are_there_those_that_replace_dead_ones_too(scripted: Fleet) -> None:
    scripted.start()
    ScriptedInstance.script[:] = ["waits"]
    threading.Thread(target=scripted.instances[0].die).start()  # type: ignore[attr-defined]
    wait_until(lambda: len(ScriptedInstance.started) == 3, "no replacement starts")
    scaling = threading.Thread(target=scripted.set_count, args=(3,))
    scaling.start()
    wait_until(lambda: len(scripted.instances) == 2, "none was added")
    assert scaling.is_alive()
    ScriptedInstance.may_start.set()
    scaling.join(10)
    assert len(scripted.instances) == 3


def test_scaling_up_that_cannot_succeed_ends_with_the_reason_and_the_former_number(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "RETRY_S", (0.1,))
    obstacle = tmp_path / "obstacle"
    local.upload("models/m.tar.gz", behaving())
    local.deploy(Environment={"FAKE_EXIT_IF": str(obstacle)})
    obstacle.touch()
    wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 3, "DesiredWeight": 2.0}]
    with Traffic(lambda _: local.invoke("m.tar.gz"), clients=2) as traffic:
        local.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="endpoint", DesiredWeightsAndCapacities=wanted
        )
        description = local.wait("endpoint", "InService")
        traffic.wait_for_more(10)
    assert traffic.failures == []
    assert "did not pass the ping health check" in description["FailureReason"]
    variant = description["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (1, 1)
    assert variant["CurrentWeight"] == 2.0
    obstacle.unlink()
    local.sagemaker.update_endpoint_weights_and_capacities(EndpointName="endpoint", DesiredWeightsAndCapacities=wanted)
    assert "FailureReason" not in local.wait("endpoint", "InService")
    assert len(pids(local)) == 3


def test_a_variant_that_is_being_scaled_says_so_until_it_is_done(local: Local) -> None:
    local.deploy(Environment={"FAKE_START_S": "0.5"})
    assert "VariantStatus" not in local.describe("endpoint")["ProductionVariants"][0]
    local.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="endpoint", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    )
    description = local.describe("endpoint")
    (variant,) = description["ProductionVariants"]
    assert (description["EndpointStatus"], variant["CurrentInstanceCount"]) == ("Updating", 1)
    (status,) = variant["VariantStatus"]
    assert status["Status"] == "Updating" and status["StartTime"]
    (variant,) = local.wait("endpoint", "InService")["ProductionVariants"]
    assert "VariantStatus" not in variant and variant["CurrentInstanceCount"] == 2


def test_an_endpoint_cannot_be_scaled_to_nothing(local: Local) -> None:
    local.deploy()
    wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}]
    with pytest.raises(local.sagemaker.exceptions.ClientError, match="must be at least 1"):
        local.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="endpoint", DesiredWeightsAndCapacities=wanted
        )
    assert local.describe("endpoint")["EndpointStatus"] == "InService"


@pytest.mark.parametrize(
    ("excluded", "count", "weight"), [([], 2, 3.0), (["DesiredInstanceCount"], 1, 3.0), (["DesiredWeight"], 2, 1.0)]
)
def test_an_update_may_retain_what_scaling_has_changed(
    local: Local, excluded: list[str], count: int, weight: float
) -> None:
    local.deploy()
    local.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="endpoint",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2, "DesiredWeight": 3.0}],
    )
    local.wait("endpoint", "InService")
    local.create_config("second", "endpoint")
    local.sagemaker.update_endpoint(
        EndpointName="endpoint",
        EndpointConfigName="second",
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": each} for each in excluded],
    )
    assert local.describe("endpoint")["PendingDeploymentSummary"]["EndpointConfigName"] == "second"
    description = local.wait("endpoint", "InService")
    assert "PendingDeploymentSummary" not in description
    variant = description["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (count, weight)


def test_a_model_that_was_unloaded_is_loaded_again_where_it_is_on_the_disk(local: Local) -> None:
    """Also when that instance is the busier one: a download is saved."""
    local.deploy(instances=2, Environment={"FAKE_CAPACITY": "2"})
    local.upload("models/m.tar.gz", behaving())
    local.upload("models/slow.tar.gz", behaving(invoke_s=2.0))
    local.invoke("m.tar.gz")
    holder = next(each for each in local.instances() if local.loaded(each))
    (other,) = [each for each in local.instances() if each is not holder]
    for number in range(3):
        local.upload(f"models/{number}.tar.gz", behaving())
    for name in ("0", "slow", "1", "2"):  # in turn to the other and the holder, where the last takes m's place
        local.invoke(f"{name}.tar.gz")
    assert local.loaded(holder) == ["2.tar.gz", "slow.tar.gz"]
    assert on_disk(other) == ["0.tar.gz", "1.tar.gz"]
    with ThreadPoolExecutor(1) as caller:
        asked = len(journal(holder, "invoke"))
        slow = caller.submit(local.invoke, "slow.tar.gz")
        wait_until(lambda: len(journal(holder, "invoke")) > asked, "it was not invoked")
        local.invoke("m.tar.gz")
        assert not slow.done()
    assert "m.tar.gz" not in on_disk(other)


def test_variants_share_the_traffic_by_weight_and_can_be_named(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    for name in ("blue", "green"):
        local.create_model(name, Environment={"COLOUR": name})
    variant = {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    local.sagemaker.create_endpoint_config(
        EndpointConfigName="both",
        ProductionVariants=[
            {**variant, "VariantName": "blue", "ModelName": "blue", "InitialVariantWeight": 3},
            {**variant, "VariantName": "green", "ModelName": "green", "InitialVariantWeight": 1},
        ],
    )
    local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="both")
    local.wait("endpoint", "InService")
    tally = Counter(local.invoke("m.tar.gz")["environment"]["COLOUR"] for _ in range(200))
    assert 110 < tally["blue"] < 185
    raw = local.invoke_raw("m.tar.gz", TargetVariant="green")
    assert raw["InvokedProductionVariant"] == "green"


def test_when_the_only_instance_dies_requests_wait_for_the_one_that_replaces_it(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    local.deploy(Environment={"FAKE_START_S": "0.5"})
    before = local.invoke("m.tar.gz")["pid"]
    with Traffic(lambda _: local.invoke("m.tar.gz")["pid"]) as traffic:
        traffic.wait_for_more()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: traffic.answers[-1] != before, "nobody answers")
        traffic.wait_for_more()
    assert traffic.failures == []


def test_a_replacement_is_tried_again_whatever_went_wrong(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.deploy()
    (before,) = pids(local)
    take_port, asked = process.take_port, []

    def fail_once(host: str) -> int:
        asked.append(host)
        if len(asked) == 1:
            raise OSError("no free port")
        return take_port(host)

    monkeypatch.setattr(process, "take_port", fail_once)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pids(local) and before not in pids(local), "it was not replaced")
    assert len(asked) == 2


def test_a_busy_model_that_is_not_to_be_kept_leaves_no_copy(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_s=1.0))
    local.deploy(instances=2, MultiModelConfig={"ModelCacheSetting": "Disabled"})
    with ThreadPoolExecutor(16) as callers:
        first = callers.submit(local.invoke, "m.tar.gz")
        wait_until(lambda: any(journal(each, "invoke") for each in local.instances()), "it is not invoked")
        # these find it loaded, and busy; no request comes after them
        list(callers.map(lambda _: local.invoke("m.tar.gz"), range(15)))
        first.result()
    wait_until(lambda: not any(on_disk(each) for each in local.instances()), "a model is left")
