"""What a user of the SageMaker Python SDK 2.x does with an inference pipeline; run in that SDK's own environment.

usage: sdk2_pipeline.py ROLE BUCKET FOLDER_OF_ARCHIVES      (AWS_ENDPOINT_URL and credentials in the environment)
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from sagemaker.deserializers import JSONDeserializer  # type: ignore[import-not-found]
from sagemaker.model import Model  # type: ignore[import-not-found]
from sagemaker.pipeline import PipelineModel  # type: ignore[import-not-found]
from sagemaker.predictor import Predictor  # type: ignore[import-not-found]
from sagemaker.serializers import JSONSerializer  # type: ignore[import-not-found]
from sagemaker.session import Session  # type: ignore[import-not-found]

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest"


def main(role: str, bucket: str, folder: Path) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    models = []
    session = Session(default_bucket=bucket)
    for name in ("first", "second"):
        s3.upload_file(str(folder / f"{name}.tar.gz"), bucket, f"pipeline/{name}.tar.gz")
        data = f"s3://{bucket}/pipeline/{name}.tar.gz"
        models.append(Model(IMAGE, model_data=data, role=role, env={"WHO": name}, sagemaker_session=session))
    pipeline = PipelineModel(models, role=role, name="sdk-pipeline", predictor_cls=Predictor, sagemaker_session=session)
    predictor = pipeline.deploy(
        1,
        "ml.m5.xlarge",
        endpoint_name="sdk-pipeline",
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(),
        wait=False,
    )
    session.wait_for_endpoint("sdk-pipeline", poll=1)
    answer = predictor.predict({"raw": 1})
    assert answer["body"] == "made by the first", answer
    assert answer["headers"]["content-type"] == "text/plain", answer
    assert answer["environment"]["WHO"] == "second", answer
    pipeline.delete_model()
    predictor.delete_endpoint()
    print("the story is told")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
