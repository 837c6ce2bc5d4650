"""SageMaker's XGBoost multi-model notebook, as it is: train a model per city, one endpoint for all, predict, delete.

usage: train_with_sdk.py ROLE BUCKET FOLDER      (AWS_ENDPOINT_URL and credentials in the environment)

Run in an environment of the SageMaker Python SDK 2.x. FOLDER has CITY-train.csv and CITY-validation.csv of each city:
the price in the first column, no header.
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from sagemaker import image_uris  # type: ignore[import-not-found]
from sagemaker.deserializers import CSVDeserializer  # type: ignore[import-not-found]
from sagemaker.estimator import Estimator  # type: ignore[import-not-found]
from sagemaker.inputs import TrainingInput  # type: ignore[import-not-found]
from sagemaker.multidatamodel import MultiDataModel  # type: ignore[import-not-found]
from sagemaker.predictor import Predictor  # type: ignore[import-not-found]
from sagemaker.serializers import CSVSerializer  # type: ignore[import-not-found]
from sagemaker.session import Session  # type: ignore[import-not-found]

NAME = "housing-trained"


def main(role: str, bucket: str, folder: Path) -> None:
    """Trains, deploys, predicts the houses that were held out, deletes. Raises ``AssertionError`` where it is wrong."""
    session = Session(default_bucket=bucket)  # so that the SDK need not ask STS, which has a fixed address
    image = image_uris.retrieve("xgboost", session.boto_region_name, version="1.7-1")
    cities = sorted(path.name.removesuffix("-train.csv") for path in folder.glob("*-train.csv"))
    estimators = {city: start_training(session, role, bucket, image, folder, city) for city in cities}
    for city, estimator in estimators.items():
        session.wait_for_job(estimator.latest_training_job.name, poll=1)
        print(f"  fit: {city}: {last_error(session, estimator)}, {estimator.model_data}", flush=True)

    first = estimators[cities[0]]
    models = MultiDataModel(
        name=NAME,
        model_data_prefix=f"s3://{bucket}/trained/",
        model=first.create_model(role=role, image_uri=image),
        sagemaker_session=session,
    )
    predictor = models.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.xlarge",
        endpoint_name=NAME,
        serializer=CSVSerializer(),
        deserializer=CSVDeserializer(),
        wait=False,
    ) or Predictor(NAME, session, CSVSerializer(), CSVDeserializer())
    session.wait_for_endpoint(NAME, poll=1)  # deploy itself would look every 30 s
    for city, estimator in estimators.items():
        models.add_model(model_data_source=estimator.model_data, model_data_path=f"{city}.tar.gz")
    print(f"  list_models: {sorted(models.list_models())}", flush=True)
    for city in cities:
        rows = [line.split(",", 1) for line in (folder / f"{city}-validation.csv").read_text().splitlines()]
        answer = predictor.predict("\n".join(features for _, features in rows), target_model=f"{city}.tar.gz")
        found = [float(cell) for row in answer for cell in row if cell]
        assert len(found) == len(rows), answer
        errors = [abs(price - float(label)) / float(label) for price, (label, _) in zip(found, rows, strict=True)]
        error = 100 * sum(errors) / len(errors)
        assert error < 15, f"{city}: wrong by {error:.1f} %"
        print(f"  predict: {city}: wrong by {error:.1f} % on {len(rows)} houses that it never saw", flush=True)
    predictor.delete_model()  # first: it asks the endpoint's configuration, which goes with the endpoint
    predictor.delete_endpoint()


def start_training(session: Session, role: str, bucket: str, image: str, folder: Path, city: str) -> Estimator:
    """Uploads a city's data and starts its job."""
    inputs = {}
    for channel in ("train", "validation"):
        uri = session.upload_data(str(folder / f"{city}-{channel}.csv"), bucket, f"training/{city}/{channel}")
        inputs[channel] = TrainingInput(uri, content_type="csv")
    estimator = Estimator(
        image,
        role,
        instance_count=1,
        instance_type="ml.m5.xlarge",
        output_path=f"s3://{bucket}/training/output",
        base_job_name=f"housing-{city.replace('_', '-')}",
        sagemaker_session=session,
    )
    estimator.set_hyperparameters(
        objective="reg:linear", max_depth=4, eta=0.2, min_child_weight=1, num_round=200, early_stopping_rounds=10
    )
    estimator.fit(inputs, wait=False)
    return estimator


def last_error(session: Session, estimator: Estimator) -> str:
    """What its log and its description say."""
    name = estimator.latest_training_job.name
    described = session.describe_training_job(name)
    metrics = {each["MetricName"]: each["Value"] for each in described["FinalMetricDataList"]}
    streams = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamNamePrefix": f"{name}/"}
    pages = boto3.client("logs").get_paginator("filter_log_events").paginate(**streams)
    rounds = [event for page in pages for event in page["events"] if event["message"].startswith("[")]
    assert rounds, "there is no log"
    return f"{len(rounds)} rounds, validation:rmse {metrics['validation:rmse']:,.0f}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
