"""The state folder: what outlives a restart, what may not touch it, and what is said where it cannot be used."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from local_endpoint.errors import StateInUse, StateUnreadable
from local_endpoint.storage.object_files import ObjectFiles
from local_endpoint.storage.state import StateFolder
from tests.endpoint.containers import container, deploy
from tests.endpoint.local import BUCKET, Local, behaving, pack
from tests.endpoint.test_descriptions import CONFIG
from tests.endpoint.test_programs import call
from tests.harness.waiting import wait_until


def test_state_outlives_a_restart_and_one_endpoint_uses_it_at_a_time(tmp_path: Path) -> None:
    big = bytes(range(256)) * 20_000
    with Local(state_dir=tmp_path) as local:
        local.upload("models/m.tar.gz", pack({"text": "kept"}))
        local.upload("models/gone.tar.gz", b"x")
        local.s3.delete_object(Bucket="test-models", Key="models/gone.tar.gz")
        local.s3.put_object(Bucket="test-models", Key="odd key/ü+%", Body=big, Metadata={"who_are": "you"})
        etag = local.s3.head_object(Bucket="test-models", Key="odd key/ü+%")["ETag"]
        local.s3.create_bucket(Bucket="deleted-bucket")
        local.s3.delete_bucket(Bucket="deleted-bucket")
        local.deploy()
        assert local.invoke("m.tar.gz")["text"] == "kept"
        local.deploy("deleted")
        local.delete("deleted")
        with pytest.raises(StateInUse, match="used by another local endpoint"):
            StateFolder(tmp_path)
    with Local(state_dir=tmp_path) as local:
        assert [each["Name"] for each in local.s3.list_buckets()["Buckets"]] == ["test-models"]
        keys = [each["Key"] for each in local.s3.list_objects_v2(Bucket="test-models")["Contents"]]
        assert keys == ["models/m.tar.gz", "odd key/ü+%"]
        kept = local.s3.get_object(Bucket="test-models", Key="odd key/ü+%")
        assert kept["Body"].read() == big
        assert (kept["ETag"], kept["Metadata"]) == (etag, {"who_are": "you"})
        local.wait("endpoint", "InService")
        assert local.invoke("m.tar.gz")["text"] == "kept"
        assert local.is_gone("deleted")
        local.upload("models/new.tar.gz", behaving())
    with Local(state_dir=tmp_path) as local:
        assert len(local.s3.list_objects_v2(Bucket="test-models")["Contents"]) == 3


def test_weights_and_numbers_of_instances_that_were_changed_outlive_a_restart(tmp_path: Path) -> None:
    with Local(state_dir=tmp_path) as local:
        local.create_model("m")
        variants = [
            {
                "VariantName": name,
                "ModelName": "m",
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": 1.0,
            }
            for name in ("a", "b")
        ]
        local.sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=variants)
        local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="c")
        local.wait("endpoint", "InService")
        local.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="endpoint",
            DesiredWeightsAndCapacities=[
                {"VariantName": "a", "DesiredWeight": 0.0},
                {"VariantName": "b", "DesiredWeight": 5.0, "DesiredInstanceCount": 2},
            ],
        )
        before = numbers(local.wait("endpoint", "InService"))
        assert before == {"a": (0.0, 1), "b": (5.0, 2)}
        local.upload("models/m.tar.gz", behaving())
    with Local(state_dir=tmp_path) as local:
        assert numbers(local.wait("endpoint", "InService")) == before
        assert {local.invoke_raw("m.tar.gz")["InvokedProductionVariant"] for _ in range(20)} == {"b"}
        assert local.invoke_raw("m.tar.gz", TargetVariant="a")["InvokedProductionVariant"] == "a"
        # another configuration counts anew
        local.sagemaker.create_endpoint_config(EndpointConfigName="d", ProductionVariants=variants)
        local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName="d")
        assert numbers(local.wait("endpoint", "InService")) == {"a": (1.0, 1), "b": (1.0, 1)}
    with Local(state_dir=tmp_path) as local:
        assert numbers(local.wait("endpoint", "InService")) == {"a": (1.0, 1), "b": (1.0, 1)}


def numbers(description: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """Weight and number of instances of each variant."""
    variants = description["ProductionVariants"]
    return {each["VariantName"]: (each["CurrentWeight"], each["CurrentInstanceCount"]) for each in variants}


def test_an_endpoint_serves_and_is_described_by_a_configuration_that_was_deleted(tmp_path: Path) -> None:
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": "m",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        "ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 2},
    }
    members = {"ExplainerConfig", "MetricsConfig", "DataCaptureConfig"}
    whole = {name: CONFIG[name] for name in members}
    with Local(state_dir=tmp_path) as local:
        local.create_model("m")
        local.sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant], **whole)
        local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="c")
        before = local.wait("endpoint", "InService")
        assert members <= set(before)
        assert {"RoutingConfig", "ManagedInstanceScaling"} <= set(before["ProductionVariants"][0])
        local.sagemaker.delete_endpoint_config(EndpointConfigName="c")
        assert shown(local.describe("endpoint")) == shown(before)
        local.upload("models/m.tar.gz", behaving())
        local.invoke("m.tar.gz")
    with Local(state_dir=tmp_path) as local:
        assert shown(local.wait("endpoint", "InService")) == shown(before)
        local.invoke("m.tar.gz")


def shown(description: dict[str, Any]) -> dict[str, Any]:
    """Without what each answer has of its own."""
    return {name: its for name, its in description.items() if name not in ("ResponseMetadata", "LastModifiedTime")}


def test_an_endpoint_of_several_containers_outlives_a_restart(tmp_path: Path) -> None:
    with Local(state_dir=tmp_path) as local:
        deploy(local, [container("first"), container("second")], "Direct")
    with Local(state_dir=tmp_path) as local:
        local.wait("endpoint", "InService")
        assert local.invoke(TargetContainerHostname="first")["path"] == "/invocations"
        assert local.sagemaker.describe_model(ModelName="endpoint")["InferenceExecutionConfig"] == {"Mode": "Direct"}


def test_what_an_upload_costs_does_not_depend_on_how_many_objects_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Local(state_dir=tmp_path) as local:
        looked_through: list[str] = []
        keep_bucket = StateFolder.keep_bucket

        def note(state: StateFolder, name: str) -> None:
            looked_through.append(name)
            keep_bucket(state, name)

        monkeypatch.setattr(StateFolder, "keep_bucket", note)
        for number in range(3):
            local.upload(f"models/ü {number}+%", b"1")
        local.upload("models/ü 0+%", b"2")
        local.s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "models/ü 1+%"})
        local.s3.delete_object(Bucket=BUCKET, Key="models/ü 2+%")
        upload = local.s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
        part = local.s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=b"3")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        local.s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload=parts)
        assert looked_through == []
        local.upload("one", b"4")
        local.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "one"}]})
        assert looked_through == [BUCKET]
    assert len(list(tmp_path.glob("s3/*/*.data"))) == 4  # nothing of what was replaced is left
    with Local(state_dir=tmp_path) as local:
        kept = {each["Key"] for each in local.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        bodies = {key: local.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in kept}
        assert bodies == {"models/ü 0+%": b"2", "models/ü 1+%": b"1", "copy": b"1", "parts": b"3"}


def test_an_object_is_kept_whole_whenever_the_local_endpoint_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the rename of the data and that of the record, the object is still the one before."""
    with Local(state_dir=tmp_path) as local:
        local.upload("key", b"before")
        monkeypatch.setattr("local_endpoint.storage.state._write_json", write_nothing)
        local.upload("key", b"after")
        monkeypatch.undo()
    with Local(state_dir=tmp_path) as local:
        kept = local.s3.get_object(Bucket=BUCKET, Key="key")
        body = kept["Body"].read()
        assert kept["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
        assert body == b"before"
        assert len(list(tmp_path.glob("s3/*/*.data"))) == 1


def write_nothing(path: Path, value: object) -> None:
    raise OSError("killed")


def test_a_state_folder_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    with Local(state_dir=tmp_path) as local:
        local.upload("key", b"before")
    (record_file,) = tmp_path.glob(RECORD)
    record = json.loads(record_file.read_text())
    (tmp_path / "s3" / BUCKET / record.pop("data")).rename(record_file.with_suffix(".data"))
    record_file.write_text(json.dumps(record))
    with Local(state_dir=tmp_path) as local:
        assert local.s3.get_object(Bucket=BUCKET, Key="key")["Body"].read() == b"before"
        local.upload("key", b"after")
    with Local(state_dir=tmp_path) as local:
        assert local.s3.get_object(Bucket=BUCKET, Key="key")["Body"].read() == b"after"
    assert len(list(tmp_path.glob("s3/*/*.data"))) == 1


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PATHS = ("/%2e%2e/x", "/%2e%2e", "/%2e/x", "/%2e", "/..%2f..%2fx", "/%2e%2e%2e/x", "/a%00b/x")


def test_no_request_reaches_beyond_the_folders_of_buckets(tmp_path: Path) -> None:
    (tmp_path / "neighbour").write_text("mine")
    state = tmp_path / "state"
    with Local(state_dir=state) as local:
        local.upload("models/m.tar.gz", pack({"text": "kept"}))
        local.create_model("kept")
        before = all_files(tmp_path)
        session = requests.Session()
        for method, path in itertools.product(("PUT", "POST", "DELETE"), PATHS):
            request = requests.Request(method, local.url, data=b"x").prepare()
            request.url = local.url + path  # as it stands: no library is to tidy it
            session.send(request, timeout=10)
            assert all_files(tmp_path) == before, (method, path)
            assert [folder.name for folder in (state / "s3").iterdir()] == [BUCKET], (method, path)


def test_a_bucket_of_a_name_that_could_be_a_path_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Local(state_dir=tmp_path) as local:
        before = all_files(tmp_path)
        assert requests.put(f"{local.url}/.hidden", timeout=10).status_code == 200  # moto takes any text
        assert all_files(tmp_path) == before
    assert "bucket '.hidden' is not kept in the state folder" in caplog.text


def test_only_buckets_of_this_folder_are_ever_removed(tmp_path: Path) -> None:
    """A folder that was put there by somebody else is not ours to remove, whatever is asked."""
    with Local(state_dir=tmp_path) as local:
        foreign = tmp_path / "s3" / "foreign-folder"
        foreign.mkdir()
        (foreign / "file").write_text("mine")
        requests.put(f"{local.url}/foreign-folder/key", data=b"x", timeout=10)
        requests.delete(f"{local.url}/foreign-folder", timeout=10)
        assert (foreign / "file").read_text() == "mine"


def test_until_everything_is_restored_all_requests_are_put_off_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Local(state_dir=tmp_path) as local:
        local.upload("models/m.tar.gz", pack({"text": "kept"}))
    go_on, restore = threading.Event(), StateFolder.restore

    def restore_late(state: StateFolder, files: ObjectFiles) -> None:
        assert go_on.wait(60)
        restore(state, files)

    monkeypatch.setattr(StateFolder, "restore", restore_late)
    local = Local(state_dir=tmp_path)
    starter = threading.Thread(target=local.app.start)
    starter.start()
    try:
        wait_until(lambda: local.app._server, "there is no server")
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/s3/aws4_request"}
        invocation = f"{local.url}/endpoints/endpoint/invocations"
        target = {"X-Amz-Target": "SageMaker.ListModels"}
        answers = [
            requests.get(local.url, timeout=10),
            requests.put(f"{local.url}/{BUCKET}/models/new.tar.gz", data=b"new", headers=signed, timeout=10),
            requests.delete(f"{local.url}/{BUCKET}", headers=signed, timeout=10),
            requests.post(invocation, data=b"{}", timeout=10),
            requests.post(local.url, data=b"{}", headers=target, timeout=10),
        ]
        assert {answer.status_code for answer in answers} == {503}
        go_on.set()
        starter.join()
        assert requests.get(local.url, timeout=10).status_code == 200
        listed = local.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
        assert [each["Key"] for each in listed] == ["models/m.tar.gz"]
    finally:
        go_on.set()
        starter.join()
        local.app.stop()


RECORD = "s3/*/*[0-9a-f].json"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sagemaker.json", "{"),
        ("sagemaker.json", "[]"),
        ("s3/*/bucket.json", "{"),
        ("s3/*/bucket.json", '{"region": "us-east-1"}'),
        (RECORD, "no json"),
        (RECORD, '{"key": "key"}'),
        (RECORD, json.dumps({"key": "k", "etag": 1, "storage": 2, "metadata": 3, "modified": "then"})),
    ],
)
def test_a_record_that_cannot_be_understood_is_named(tmp_path: Path, file: str, text: str) -> None:
    with Local(state_dir=tmp_path) as local:
        local.upload("key", b"data")
        local.create_model("model")
    (damaged,) = tmp_path.glob(file)
    damaged.write_text(text)
    for _ in range(2):  # nothing of the first failed start is in the way of the second
        with pytest.raises(StateUnreadable) as caught:
            Local(state_dir=tmp_path).app.start()
        assert str(caught.value).startswith(f"{damaged} cannot be understood")


def test_an_object_whose_data_is_lost_is_named(tmp_path: Path) -> None:
    with Local(state_dir=tmp_path) as local:
        local.upload("key", b"data")
    (data,) = tmp_path.glob("s3/*/*.data")
    data.unlink()
    with pytest.raises(StateUnreadable, match=r"\.json cannot be understood \(FileNotFoundError"):
        Local(state_dir=tmp_path).app.start()


def test_the_program_says_what_is_wrong_with_the_state_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sagemaker.json").write_text("{")
    for folder, text in (
        (tmp_path / "file", f"{tmp_path}/file cannot be the state folder (Not a directory)"),
        (tmp_path / "file" / "below", "cannot be the state folder (Not a directory)"),
        (Path("/proc/1/none"), "/proc/1/none cannot be the state folder ("),
        (tmp_path / "broken", f"{tmp_path}/broken/sagemaker.json cannot be understood"),
    ):
        done = call(None, "local_endpoint", "--port", "0", "--state", folder, code=1)
        assert text in done.stderr
        assert "listened" not in done.stderr
