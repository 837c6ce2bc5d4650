"""What AWS would refuse is refused here, in AWS's words where they are known; nothing is pretended."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from botocore.parsers import create_parser
from werkzeug.test import Client

from local_endpoint.app import _create_backend_app
from local_endpoint.hosting.runtimes import process_environment
from tests.endpoint.local import BUCKET, PREFIX, REGION, ROLE, Local, behaving, message, pack, refused
from tests.harness.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
ARN = f"arn:aws:sagemaker:{REGION}:123456789012"
ARCHIVE = f"{PREFIX}only.tar.gz"
JOB_ROLE = {"RoleArn": ROLE}


@pytest.fixture(scope="module")
def shared() -> Iterator[Local]:
    """One local endpoint for tests that use names of their own; ``serving`` is an endpoint that is in service."""
    with Local() as running:
        running.upload("models/only.tar.gz", pack({"text": "only"}))
        running.deploy("serving")
        yield running


def refusal(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def sagemaker_call(local: Local, operation: str, parameters: dict[str, Any]) -> requests.Response:
    """As it is on the wire: boto3 checks what it sends."""
    headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    return requests.post(local.url, headers=headers, data=json.dumps(parameters), timeout=10)


# ---- CreateModel ----

BIG = {f"K{number}": "x" * 1000 for number in range(33)}


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ({"ModelDataUrl": f"{PREFIX}missing.tar.gz"}, f"Could not find model data at {PREFIX}missing.tar.gz."),
        (
            {"ModelDataUrl": "s3://no-such-bucket/m.tar.gz"},
            "Could not find model data at s3://no-such-bucket/m.tar.gz.",
        ),
        (
            {"Environment": BIG},
            "The environment variables of all containers have 33,089 bytes together, names and values. "
            "A model may have 32,768 (32 KB) at most.",
        ),
    ],
    ids=["no data", "no bucket", "a large environment"],
)
def test_a_model_that_aws_would_refuse_is_refused(shared: Local, container: dict[str, Any], text: str) -> None:
    container = {"Image": "an-image", **container}
    call = shared.sagemaker.create_model
    found = refusal(call, ModelName="refused", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    assert found == ("ValidationException", text)


def test_the_environment_of_all_containers_counts(shared: Local) -> None:
    half = dict(list(BIG.items())[:17])
    containers = [{"Image": "i", "Environment": half, "ContainerHostname": name} for name in ("a", "b")]
    call = shared.sagemaker.create_model
    _, text = refusal(call, ModelName="refused", ExecutionRoleArn=ROLE, Containers=containers)
    assert "The environment variables of all containers have 34," in text


def test_data_that_a_policy_denies_is_said_to_be_inaccessible(shared: Local) -> None:
    shared.s3.create_bucket(Bucket="closed")
    shared.upload("m.tar.gz", b"", bucket="closed")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::closed/*"}
    shared.s3.put_bucket_policy(Bucket="closed", Policy=json.dumps({"Statement": [statement]}))
    _, text = refusal(shared.create_model, name="refused", url="s3://closed/m.tar.gz", multi=False)
    assert text.startswith(f'Could not access model data at s3://closed/m.tar.gz. Please ensure that the role "{ROLE}"')


@pytest.mark.parametrize(
    ("name", "value", "who"),
    [
        ("LD_PRELOAD", "/tmp/x.so", "the dynamic loader"),
        ("ld_library_path", "/tmp", "the dynamic loader"),
        ("PYTHONPATH", "/tmp", "the Python interpreter"),
        ("PYTHONSTARTUP", "/tmp/x", "the Python interpreter"),
        ("JAVA_TOOL_OPTIONS", "-XX:OnOutOfMemoryError=x", "the Java runtime"),
        ("_JAVA_OPTIONS", "-javaagent:x", "the Java runtime"),
        ("JAVA_HOME", "/tmp", "the Java runtime"),
        ("PATH", "/tmp", "the shell"),
        ("BASH_ENV", "/tmp/x", "the shell"),
        ("TMPDIR", "/tmp", "the shell"),
        ("NODE_OPTIONS", "--require=x", "another interpreter"),
        ("OMP_TOOL_LIBRARIES", "/tmp/x.so", "a library that loads"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-Xmx1g -javaagent:/tmp/x", "-javaagent:/tmp/x in SAGEMAKER"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-XX:OnOutOfMemoryError=reboot", "-XX:OnOutOfMemoryError=reboot in"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "@/tmp/file", "@/tmp/file in"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-Dlog4j.configuration=file:x", "-Dlog4j.configuration=file:x in"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-XX:+UnlockDiagnosticVMOptions -XX:+PrintAssembly", "-XX:+UnlockDiag"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-XX:+PrintAssembly", "-XX:+PrintAssembly in"),
        ("SAGEMAKER_MODEL_SERVER_VMARGS", "-XX:OnError=1", "-XX:OnError=1 in"),
    ],
)
def test_a_variable_that_would_make_a_process_of_this_machine_run_something_is_refused(
    shared: Local, name: str, value: str, who: str
) -> None:
    code, text = refusal(shared.create_model, name="refused", Environment={"HARMLESS": "1", name: value})
    assert code == "ValidationException"
    assert who in text
    assert "or use --runtime docker." in text


LIBRARIES = (
    *("HDF5_PLUGIN_PATH", "OPENCV_VIDEOIO_PLUGIN_PATH", "OPENCV_CORE_PLUGIN_PARALLEL", "NUMBA_CACHE_DIR"),
    *(
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "COVERAGE_PROCESS_START",
        "MPLBACKEND",
        "MPLCONFIGDIR",
        "HF_HOME",
        "TORCH_HOME",
    ),
    *("SSLKEYLOGFILE", "TFHUB_CACHE_DIR", "hdf5_plugin_path"),
)
INSTALLERS = (
    "PIP_INDEX_URL",
    "PIP_CONFIG_FILE",
    "UV_INDEX",
    "UV_PYTHON",
    "CC",
    "CFLAGS",
    "CONDA_PREFIX",
    "https_proxy",
    "REQUESTS_CA_BUNDLE",
)
SERVERS_OWN = ("MME_PACKAGES_DIR", "MME_MODEL_ROOTS", "MME_RUNTIME_DIR", "MME_HOST", "MME_USER")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (LIBRARIES, "a library that loads further ones would act on it"),
        (INSTALLERS, "an installer or a compiler would act on it"),
        (SERVERS_OWN, "it is the server's own to set"),
        (("MME_UNKNOWN", "MME_ZYGOTE_SOCKET", "mme_workers"), "it is none of the container's settings"),
    ],
)
def test_a_variable_of_a_library_an_installer_or_the_server_is_refused(names: tuple[str, ...], why: str) -> None:
    for name in names:
        reason = process_environment.refusal({name: "/tmp/x"})
        assert reason is not None, name
        assert f"variable {name} is refused" in reason and why in reason and "use --runtime docker." in reason


def test_every_setting_of_the_container_is_either_a_models_or_the_servers_own() -> None:
    documented = {match[1] for match in re.finditer(r"^\| `(\w+)` \|", (ROOT / "docs/settings.md").read_text(), re.M)}
    assert len(documented) > 40
    own = {name for name in documented if name.startswith("MME_")}
    assert own == process_environment.OWN_SETTINGS | process_environment.SERVERS_OWN
    for name in documented - process_environment.SERVERS_OWN - {"JAVA_HOME", "PYTHONPATH"}:
        value = "-Xmx512m" if name == process_environment.VMARGS else "1"
        assert process_environment.refusal({name: value}) is None
    for name in ("SAGEMAKER_SUBMIT_DIRECTORY", "MODEL_DIR", "MY_PATH", "HF_TASK", "OMP_NUM_THREADS", "THRESHOLD"):
        assert process_environment.refusal({name: "1"}) is None


def test_the_containers_own_settings_and_names_that_mean_nothing_are_passed_on(shared: Local) -> None:
    environment = {
        "MME_WORKERS": "spawn",
        "SAGEMAKER_MODEL_SERVER_VMARGS": "-Xmx1g -XX:-UseContainerSupport -XX:MaxRAMPercentage=50.0",
        "TURN": "1",
        "MY_PATH": "/x",
    }
    shared.upload("models/environment.tar.gz", behaving())
    shared.deploy("environment", Environment=environment)
    got = shared.invoke("environment.tar.gz", endpoint="environment")["environment"]
    assert {name: got.get(name) for name in environment} == environment


# ---- configurations ----


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"}}},
            "AsyncInferenceConfig is not available on this local endpoint: there are no asynchronous invocations. "
            "Leave it out and use InvokeEndpoint.",
        ),
        (
            {"ShadowProductionVariants": [{"VariantName": "s", "ModelName": "serving"}]},
            "ShadowProductionVariants is not available on this local endpoint: no traffic would be copied. "
            "Leave them out, or make an endpoint of its own for them.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_of_which_nothing_would_come_is_refused(
    shared: Local, members: dict[str, Any], text: str
) -> None:
    variant = {"VariantName": "v", "ModelName": "serving", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    call = shared.sagemaker.create_endpoint_config
    found = refusal(call, EndpointConfigName="refused", ProductionVariants=[variant], **members)
    assert found == ("ValidationException", text)


# ---- UpdateEndpoint and InvokeEndpoint ----


def test_a_failed_endpoint_can_only_be_deleted(shared: Local) -> None:
    shared.deploy("failed", wanted="Failed", Environment={"FAKE_EXIT": "1"})
    text = (
        f'Cannot update failed endpoint "{ARN}:endpoint/failed". DeleteEndpoint is the only operation that can be '
        "performed on a failed endpoint."
    )
    found = refusal(shared.sagemaker.update_endpoint, EndpointName="failed", EndpointConfigName="serving")
    assert found == ("ValidationException", text)
    wanted = [{"VariantName": "AllTraffic", "DesiredWeight": 1.0}]
    call = shared.sagemaker.update_endpoint_weights_and_capacities
    assert refusal(call, EndpointName="failed", DesiredWeightsAndCapacities=wanted)[1] == text
    shared.delete("failed")


def test_an_update_needs_the_old_configuration_too(shared: Local) -> None:
    shared.deploy("updated")
    shared.sagemaker.delete_endpoint_config(EndpointConfigName="updated")
    found = refusal(shared.sagemaker.update_endpoint, EndpointName="updated", EndpointConfigName="serving")
    text = f'Could not find endpoint configuration "{ARN}:endpoint-config/updated".'
    assert found == ("ValidationException", text)
    assert shared.describe("updated")["EndpointStatus"] == "InService"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({}, 'Specify DesiredWeight or DesiredInstanceCount for variant "AllTraffic".'),
        (
            {"ServerlessUpdateConfig": {"MaxConcurrency": 1}},
            'ServerlessUpdateConfig is not for variant "AllTraffic": it is not serverless.',
        ),
    ],
)
def test_a_change_of_a_variant_that_changes_nothing_is_refused(
    shared: Local, wanted: dict[str, Any], text: str
) -> None:
    call = shared.sagemaker.update_endpoint_weights_and_capacities
    wanted = {"VariantName": "AllTraffic", **wanted}
    assert refusal(call, EndpointName="serving", DesiredWeightsAndCapacities=[wanted]) == ("ValidationException", text)


def test_the_case_of_a_name_matters_to_an_invocation_and_to_nothing_else(shared: Local) -> None:
    shared.upload("models/case.tar.gz", behaving())
    shared.invoke("case.tar.gz", endpoint="serving")
    response = refused(shared, "ValidationError", 400, "case.tar.gz", endpoint="Serving")
    assert message(response) == "Endpoint Serving of account 123456789012 not found."
    assert shared.describe("SERVING")["EndpointName"] == "serving"


def test_an_update_under_another_case_does_not_rename_the_endpoint(shared: Local) -> None:
    shared.upload("models/case.tar.gz", behaving())
    shared.deploy("Cased")
    shared.sagemaker.update_endpoint(EndpointName="cased", EndpointConfigName="serving")
    shared.wait("Cased", "InService")
    shared.invoke("case.tar.gz", endpoint="Cased")


# ---- target models ----


@pytest.mark.parametrize("prefix", ["slashes", "slashes/"])
@pytest.mark.parametrize("target", ["m.tar.gz", "/m.tar.gz"])
def test_prefix_and_target_are_joined_by_exactly_one_slash(shared: Local, prefix: str, target: str) -> None:
    name = f"slashes-{prefix.count('/')}-{target.count('/')}"
    shared.upload("slashes/m.tar.gz", pack({"text": "found"}))
    shared.deploy(name, url=f"s3://{BUCKET}/{prefix}")
    assert shared.invoke(target, endpoint=name)["text"] == "found"
    assert shared.invoke("m.tar.gz", endpoint=name)["text"] == "found"
    assert len(shared.loaded(shared.instances(name)[0])) == 1


# ---- what moto would pretend ----


@pytest.mark.parametrize(
    "operation",
    [
        "CreateTransformJob",
        "CreateProcessingJob",
        "CreateCompilationJob",
        "CreateHyperParameterTuningJob",
        "CreateAutoMLJob",
        "CreateAutoMLJobV2",
        "Search",
    ],
)
def test_what_would_be_pretended_is_refused_by_name(shared: Local, operation: str) -> None:
    answer = sagemaker_call(shared, operation, {})
    assert answer.status_code == 400
    assert answer.json()["__type"] == "ValidationException"
    assert answer.json()["message"].startswith(f"{operation} is not available on this local endpoint: nothing would ")


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("CreateInferenceComponent", "UnsupportedOperation"),
        ("CreateMonitoringSchedule", "UnsupportedOperation"),
        ("ListMonitoringSchedules", "UnsupportedOperation"),
        ("CreateInferenceExperiment", "UnsupportedOperation"),
        ("NoSuchOperation", "UnknownOperationException"),
    ],
)
def test_what_nobody_has_is_a_plain_refusal(shared: Local, operation: str, code: str) -> None:
    answer = sagemaker_call(shared, operation, {})
    assert (answer.status_code, answer.json()["__type"]) == (400, code)
    assert operation in answer.json()["message"]


TEMPLATE = {
    "Resources": {
        "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "made-by-a-stack"}},
        "Model": {"Type": "AWS::SageMaker::Model", "Properties": {"ExecutionRoleArn": ROLE}},
    }
}


@pytest.mark.parametrize(
    ("headers", "parser"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, "query"),
        ({"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "CloudFormation.ListStacks"}, "json"),
        ({"Content-Type": "application/json"}, "rest-json"),
    ],
)
def test_a_service_whose_packages_are_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], parser: str
) -> None:
    monkeypatch.setitem(sys.modules, "moto.cloudformation.parsing", None)
    answer = Client(_create_backend_app("cloudformation")).post("/", headers=headers)
    found = {name.lower(): value for name, value in answer.headers.items()}
    wire = {"status_code": answer.status_code, "headers": found, "body": answer.data}
    error = create_parser(parser).parse(wire, None)["Error"]  # as an SDK reads it
    assert (answer.status_code, error["Code"]) == (400, "UnsupportedOperation")
    assert "cloudformation is not available on this local endpoint: the Python package" in answer.text


def test_nothing_heavy_of_moto_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, local_endpoint.app; print([each for each in sys.modules if each.startswith('moto.cloudf')])"
    assert run_python(code) == "[]\n"


def test_a_stack_of_sagemakers_resources_is_refused_whole(shared: Local) -> None:
    client = shared.client("cloudformation")
    code, text = refusal(client.create_stack, StackName="stack", TemplateBody=json.dumps(TEMPLATE))
    assert code == "ValidationError"
    assert text.startswith("AWS::SageMaker::Model cannot be made by a stack on this local endpoint.")
    assert client.list_stacks()["StackSummaries"] == []
    shared.upload("template.json", json.dumps(TEMPLATE).encode())
    url = f"https://{BUCKET}.s3.amazonaws.com/template.json"
    assert "AWS::SageMaker::Model" in refusal(client.create_stack, StackName="stack", TemplateURL=url)[1]
    assert "made-by-a-stack" not in [each["Name"] for each in shared.s3.list_buckets()["Buckets"]]
    allowed = {"Resources": {"Bucket": TEMPLATE["Resources"]["Bucket"]}}
    client.create_stack(StackName="stack", TemplateBody=json.dumps(allowed))
    _, text = refusal(client.update_stack, StackName="stack", TemplateBody=json.dumps(TEMPLATE))
    assert "AWS::SageMaker::Model" in text
    # as CDK does: a change set makes the stack, or changes it
    for name, kind in (("new", "CREATE"), ("stack", "UPDATE")):
        change = {"StackName": name, "ChangeSetName": "change", "ChangeSetType": kind}
        for template in ({"TemplateBody": json.dumps(TEMPLATE)}, {"TemplateURL": url}):
            code, text = refusal(client.create_change_set, **change, **template)
            assert code == "ValidationError"
            assert text.startswith("AWS::SageMaker::Model cannot be made by a stack on this local endpoint.")
    assert [each["StackName"] for each in client.list_stacks()["StackSummaries"]] == ["stack"]
    client.create_change_set(**{**change, "TemplateBody": json.dumps({"Resources": {}})})


POLICY = {
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 70.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    },
}
SCHEDULE = {"Schedule": "rate(1 day)", "ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 2}}


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        ("endpoint/none/variant/AllTraffic", f'Could not find endpoint "{ARN}:endpoint/none"'),
        ("endpoint/serving/variant/none", 'Could not find variant "none" of endpoint "serving"'),
        ("inference-component/none", "scalable targets are endpoint/NAME/variant/VARIANT"),
    ],
)
@pytest.mark.parametrize("operation", ["RegisterScalableTarget", "PutScalingPolicy", "PutScheduledAction"])
def test_what_does_not_exist_cannot_be_scaled(shared: Local, operation: str, resource: str, text: str) -> None:
    client = shared.client("application-autoscaling")
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "RegisterScalableTarget": (client.register_scalable_target, {"MinCapacity": 1, "MaxCapacity": 2}),
        "PutScalingPolicy": (client.put_scaling_policy, {"PolicyName": "policy", **POLICY}),
        "PutScheduledAction": (client.put_scheduled_action, {"ScheduledActionName": "action", **SCHEDULE}),
    }
    call, arguments = calls[operation]
    dimension = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
    code, told = refusal(call, ResourceId=resource, **dimension, **arguments)
    assert code == "ValidationException"
    assert told.startswith(f"{operation}: ")
    assert text in told
    serving = {"ResourceId": "endpoint/serving/variant/AllTraffic", **dimension}
    client.register_scalable_target(**serving, MinCapacity=1, MaxCapacity=2)
    call(**serving, **arguments)


# ---- descriptions ----


def test_a_description_shows_what_was_given(shared: Local) -> None:
    shared.create_model("described", Environment={"FAKE_START_S": "1"})
    routing = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    managed = {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 2}
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 5,
        "DestinationS3Uri": "s3://b/c",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    variant = {
        "VariantName": "v",
        "ModelName": "described",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "RoutingConfig": routing,
        "ManagedInstanceScaling": managed,
    }
    shared.sagemaker.create_endpoint_config(
        EndpointConfigName="described", ProductionVariants=[variant], DataCaptureConfig=capture
    )
    policy: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}
    }
    shared.sagemaker.create_endpoint(EndpointName="described", EndpointConfigName="described", DeploymentConfig=policy)
    creating = shared.describe("described")
    pending = creating["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == "described"
    expected = {"VariantName": "v", "DesiredInstanceCount": 1, "DesiredWeight": 1.0, "InstanceType": "ml.m5.large"}
    assert expected.items() <= pending["ProductionVariants"][0].items()
    served = shared.wait("described", "InService")
    assert "PendingDeploymentSummary" not in served
    assert served["LastDeploymentConfig"] == policy
    summary = served["ProductionVariants"][0]
    assert (summary["RoutingConfig"], summary["ManagedInstanceScaling"]) == (routing, managed)
    assert served["DataCaptureConfig"]["EnableCapture"] is True
    assert served["DataCaptureConfig"]["CaptureStatus"] == "Stopped"  # nothing is captured here
    assert served["DataCaptureConfig"]["DestinationS3Uri"] == "s3://b/c"

    update = shared.sagemaker.update_endpoint
    update(EndpointName="described", EndpointConfigName="serving", RetainDeploymentConfig=True)
    pending = shared.describe("described")["PendingDeploymentSummary"]
    assert pending["ProductionVariants"][0]["DesiredInstanceCount"] == 1
    assert shared.wait("described", "InService")["LastDeploymentConfig"] == policy
    update(EndpointName="described", EndpointConfigName="described")
    assert "LastDeploymentConfig" not in shared.wait("described", "InService")


def test_endpoints_are_sorted_by_their_status_where_that_is_asked_for(shared: Local) -> None:
    shared.deploy("sorted-1", wanted="Failed", Environment={"FAKE_EXIT": "1"})
    shared.deploy("sorted-2")
    shared.deploy("sorted-3", wanted="Failed", Environment={"FAKE_EXIT": "1"})
    listed = shared.sagemaker.list_endpoints(NameContains="sorted", SortBy="Status", SortOrder="Ascending")
    assert [each["EndpointName"] for each in listed["Endpoints"]] == ["sorted-1", "sorted-3", "sorted-2"]


# ---- what only raw requests bring ----


def test_a_member_that_is_null_is_one_that_was_not_given(shared: Local) -> None:
    container: dict[str, Any] = {"Image": "i", "Mode": "MultiModel", "ModelDataUrl": PREFIX}
    container |= dict.fromkeys(("MultiModelConfig", "Environment"))
    answer = sagemaker_call(
        shared, "CreateModel", {"ModelName": "nulls", "ExecutionRoleArn": ROLE, "PrimaryContainer": container}
    )
    assert answer.status_code == 200
    variant = {"VariantName": "v", "ModelName": "nulls", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    variants = [{**variant, "VolumeSizeInGB": None}]
    parameters = {"EndpointConfigName": "nulls", "ProductionVariants": variants}
    assert sagemaker_call(shared, "CreateEndpointConfig", parameters).status_code == 200
    shared.sagemaker.create_endpoint(EndpointName="nulls", EndpointConfigName="nulls")
    shared.wait("nulls", "InService")


@pytest.mark.parametrize(
    ("operation", "parameters", "text"),
    [
        ("ListModels", {"MaxResults": 1.5}, "Value '1.5' at 'maxResults' failed to satisfy constraint"),
        ("ListModels", {"CreationTimeAfter": "2026-01-01T00:00:00Z"}, "at 'creationTimeAfter' failed to satisfy"),
    ],
)
def test_a_value_of_another_type_is_refused(
    shared: Local, operation: str, parameters: dict[str, Any], text: str
) -> None:
    answer = sagemaker_call(shared, operation, parameters)
    assert (answer.status_code, answer.json()["__type"]) == (400, "ValidationException")
    assert text in answer.json()["message"]


def test_a_request_of_the_control_plane_that_is_too_large_is_refused_not_emptied(shared: Local) -> None:
    answer = sagemaker_call(shared, "ListModels", {"NameContains": "x" * 6_300_000})
    assert (answer.status_code, answer.json()["__type"]) == (413, "RequestEntityTooLargeException")


def test_tags_are_found_by_an_arn_in_any_case(shared: Local) -> None:
    shared.create_model("Tagged-Case")
    resource = f"{ARN}:model/Tagged-Case"
    shared.sagemaker.add_tags(ResourceArn=resource, Tags=[{"Key": "k", "Value": "v"}])
    assert shared.sagemaker.list_tags(ResourceArn=resource)["Tags"] == [{"Key": "k", "Value": "v"}]
    assert shared.sagemaker.list_tags(ResourceArn=resource.lower())["Tags"] == [{"Key": "k", "Value": "v"}]


def test_a_header_with_underscores_is_not_one_with_dashes(shared: Local) -> None:
    shared.upload("models/underscored.tar.gz", behaving())
    answer = shared.post({"X_Amzn_SageMaker_Target_Model": "underscored.tar.gz"}, endpoint="serving")
    assert "is missing a target model header" in answer.json()["Message"]
    both = {
        "X-Amzn-SageMaker-Target-Model": "underscored.tar.gz",
        "X_Amzn_SageMaker_Target_Model": "other.tar.gz",
        "Content-Type": "application/json",
    }
    assert shared.post(both, endpoint="serving").status_code == 200
