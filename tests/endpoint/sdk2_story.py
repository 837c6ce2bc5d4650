"""What a user of the SageMaker Python SDK 2.x does with a multi-model endpoint; run in that SDK's own environment.

usage: sdk2_story.py ROLE BUCKET FOLDER_OF_ARCHIVES      (AWS_ENDPOINT_URL and credentials in the environment)
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import boto3
from sagemaker.deserializers import JSONDeserializer  # type: ignore[import-not-found]
from sagemaker.multidatamodel import MultiDataModel  # type: ignore[import-not-found]
from sagemaker.predictor import Predictor  # type: ignore[import-not-found]
from sagemaker.serializers import JSONSerializer  # type: ignore[import-not-found]
from sagemaker.session import Session  # type: ignore[import-not-found]


def main(role: str, bucket: str, folder: Path) -> None:
    boto3.client("s3").create_bucket(Bucket=bucket)
    # a default bucket and a whole role ARN: otherwise the SDK asks the real STS, whatever AWS_ENDPOINT_URL says
    session = Session(default_bucket=bucket)
    multi_model = MultiDataModel(
        name="sdk-model",
        model_data_prefix=f"s3://{bucket}/sdk/",
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest",
        role=role,
        env={"FAKE_SAYS": "the container speaks"},
        sagemaker_session=session,
        predictor_cls=Predictor,
    )
    predictor = multi_model.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.xlarge",
        endpoint_name="sdk-endpoint",
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(),
        wait=False,
    )
    # as deploy does with wait=True, looking every 30 s; what the container writes is logged here
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    session.wait_for_endpoint("sdk-endpoint", poll=1, live_logging=True)
    multi_model.add_model(str(folder / "one.tar.gz"))
    boto3.client("s3").upload_file(str(folder / "two.tar.gz"), bucket, "elsewhere/two.tar.gz")
    multi_model.add_model(f"s3://{bucket}/elsewhere/two.tar.gz", model_data_path="nested/two.tar.gz")
    listed = sorted(multi_model.list_models())
    assert listed == ["nested/two.tar.gz", "one.tar.gz"], listed
    assert predictor.predict([[1, 2, 3, 4]], target_model="one.tar.gz") == {"predictions": [[1, 2, 3, 4]]}
    assert predictor.predict([[1, 2, 3, 4]], target_model="nested/two.tar.gz") == {"predictions": [[2, 4, 6, 8]]}
    try:
        predictor.predict([[1]], target_model="missing.tar.gz")
    except predictor.sagemaker_session.sagemaker_runtime_client.exceptions.ValidationError as error:
        assert "Failed to download model data" in str(error)
    else:
        raise AssertionError("a missing model answered")
    scale(predictor, session)
    assert predictor.predict([[1, 2, 3, 4]], target_model="one.tar.gz") == {"predictions": [[1, 2, 3, 4]]}
    predictor.delete_model()
    predictor.delete_endpoint()
    print("the story is told")


def scale(predictor: Predictor, session: Session) -> None:
    """The SDK makes a new configuration of the one that serves, and leaves that behind."""
    before = session.sagemaker_client.describe_endpoint(EndpointName="sdk-endpoint")["EndpointConfigName"]
    predictor.update_endpoint(initial_instance_count=2, instance_type="ml.m5.xlarge", wait=False)
    described = session.wait_for_endpoint("sdk-endpoint", poll=1)
    assert described["EndpointStatus"] == "InService", described
    assert described["EndpointConfigName"] != before, described
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 2, described
    session.delete_endpoint_config(before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
