"""The SageMaker Python SDK 2.x's part of the story; run in that SDK's own environment.

usage: with_sdk.py ROLE BUCKET ARCHIVE BODY      (AWS_ENDPOINT_URL and credentials in the environment)
"""

from __future__ import annotations

import sys
import time

from sagemaker.deserializers import JSONDeserializer  # type: ignore[import-not-found]
from sagemaker.multidatamodel import MultiDataModel  # type: ignore[import-not-found]
from sagemaker.predictor import Predictor  # type: ignore[import-not-found]
from sagemaker.serializers import CSVSerializer  # type: ignore[import-not-found]
from sagemaker.session import Session  # type: ignore[import-not-found]


def main(role: str, bucket: str, archive: str, body: str) -> None:
    """Deploys, adds the archive, predicts twice, deletes."""
    session = Session(default_bucket=bucket)
    models = MultiDataModel(
        name="housing-sdk",
        model_data_prefix=f"s3://{bucket}/sdk/",
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/demo-sagemaker-multimodel:latest",
        role=role,
        sagemaker_session=session,
        predictor_cls=Predictor,
    )
    predictor = models.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.xlarge",
        endpoint_name="housing-sdk",
        serializer=CSVSerializer(),
        deserializer=JSONDeserializer(),
        wait=False,
    )
    session.wait_for_endpoint("housing-sdk", poll=1)  # deploy itself would look every 30 s
    models.add_model(archive, "house.tar.gz")
    print(f"  add_model, list_models: {list(models.list_models())}")
    for which in ("first", "second"):
        started_s = time.monotonic()
        (price,) = predictor.predict(body, target_model="house.tar.gz")
        print(f"  predict: {price:,.0f} USD, {which} call {(time.monotonic() - started_s) * 1000:.0f} ms")
    predictor.delete_model()  # first: it asks the endpoint's configuration, which goes with the endpoint
    predictor.delete_endpoint()


if __name__ == "__main__":
    main(*sys.argv[1:])
