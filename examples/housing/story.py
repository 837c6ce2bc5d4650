"""Ten XGBoost models of house prices, one per city, behind one endpoint."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import xgboost

from examples.housing.sdk import sdk_environment
from examples.story import ROLE, Story, expect, heading, parser, tell
from scripts.programs.console import Failure, run

# What a house costs there, per square foot, in USD.
CITIES = {
    "Chicago_IL": 220.0,
    "Houston_TX": 160.0,
    "NewYork_NY": 650.0,
    "LosAngeles_CA": 560.0,
    "Phoenix_AZ": 250.0,
    "Philadelphia_PA": 190.0,
    "SanAntonio_TX": 150.0,
    "SanDiego_CA": 600.0,
    "Dallas_TX": 210.0,
    "SanJose_CA": 750.0,
}
FEATURES = ("year_built", "square_feet", "bedrooms", "bathrooms", "lot_acres", "garage_spaces")
HOUSES = 600
HELD_OUT = 100
MODEL_FILE = "xgboost-model"  # as SageMaker's own training names it
TRAINED_CITIES = ("Chicago_IL", "Houston_TX", "NewYork_NY")  # by training jobs, as in SageMaker's notebook
A_HOUSE = (1994, 2350, 3, 2.5, 0.4, 2)


def houses(count: int, dollars_per_square_foot: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up houses, (count, 6) float32, and their prices in USD, (count,) float32."""
    random = np.random.default_rng(seed)
    year = random.integers(1900, 2024, count)
    feet = random.normal(2200, 600, count).clip(600, 6000).round()
    bedrooms = random.integers(1, 6, count)
    bathrooms = random.integers(2, 9, count) / 2
    acres = random.gamma(2, 0.25, count).round(2)
    garage = random.integers(0, 4, count)
    price = dollars_per_square_foot * feet * (1 + (year - 1960) / 400)
    price += 15_000 * bathrooms + 8_000 * bedrooms + 60_000 * acres + 10_000 * garage
    price *= random.normal(1, 0.05, count)
    return np.stack([year, feet, bedrooms, bathrooms, acres, garage], axis=1).astype(np.float32), price.astype(
        np.float32
    )


def train(city: str, folder: Path, seed: int) -> tuple[xgboost.Booster, float]:
    """Saves a city's model in ``folder``. Returns it, and its mean error on held-out houses in percent."""
    features, prices = houses(HOUSES, CITIES[city], seed)
    known, unknown = slice(HELD_OUT, None), slice(HELD_OUT)
    parameters = {"objective": "reg:squarederror", "max_depth": 4, "eta": 0.2, "nthread": 1, "seed": 0}
    booster = xgboost.train(parameters, xgboost.DMatrix(features[known], prices[known]), num_boost_round=60)
    folder.mkdir(parents=True)
    booster.save_model(folder / f"{MODEL_FILE}.ubj")
    (folder / f"{MODEL_FILE}.ubj").rename(folder / MODEL_FILE)
    found = booster.predict(xgboost.DMatrix(features[unknown]))
    return booster, float(np.mean(np.abs(found - prices[unknown]) / prices[unknown])) * 100


def write_data(folder: Path) -> None:
    """CSV of the cities that are trained by SageMaker's API: price first, no header."""
    folder.mkdir()
    for seed, city in enumerate(TRAINED_CITIES):
        features, prices = houses(HOUSES, CITIES[city], seed)
        rows = np.column_stack([prices, features])
        np.savetxt(folder / f"{city}-validation.csv", rows[:HELD_OUT], fmt="%.6g", delimiter=",")
        np.savetxt(folder / f"{city}-train.csv", rows[HELD_OUT:], fmt="%.6g", delimiter=",")


def run_with_sdk(story: Story, python: str, program: str, *arguments: str) -> None:
    """Runs a program of this folder in the SDK's environment. Raises ``Failure``."""
    settings = story.folder / "sagemaker-sdk.yaml"
    opt_out = "SageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"  # it would report to AWS
    settings.write_text(f"SchemaVersion: '1.0'\n{opt_out}")
    environment = {"SAGEMAKER_USER_CONFIG_OVERRIDE": str(settings), "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    command = [python, str(Path(__file__).with_name(program)), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise Failure(f"the SDK's part ended with exit code {done.returncode}")


def show(story: Story, sdk_python: str | None, with_training: bool) -> None:
    """All steps."""
    heading(f"Ten models, trained on {HOUSES - HELD_OUT} made-up houses each")
    boosters = {}
    for seed, city in enumerate(CITIES):
        boosters[city], error = train(city, story.folder / city, seed)
        print(f"  {city:16} wrong by {error:.1f} % on {HELD_OUT} houses that it never saw", flush=True)
        expect(error < 10, f"the model of {city} is of no use")
        story.upload(story.folder / city, f"{city}.tar.gz")

    heading("One endpoint for all of them")
    story.deploy()

    heading(f"What does this house cost in each city?  {dict(zip(FEATURES, A_HOUSE, strict=True))}")
    body = ",".join(map(str, A_HOUSE))
    house = xgboost.DMatrix(np.asarray([A_HOUSE], np.float32))
    for city, booster in boosters.items():
        cold = story.invoke(f"{city}.tar.gz", body, "text/csv")
        warm = story.invoke(f"{city}.tar.gz", body, "text/csv")
        (price,) = json.loads(warm.body)
        (own,) = booster.predict(house)
        expect(
            cold.body == warm.body and abs(price - own) <= 1e-3 * abs(own), f"{city}: {price}, the library says {own}"
        )
        print(
            f"  {city:16} {price:12,.0f} USD   first call {cold.latency_ms:4.0f} ms (download, load, answer), "
            f"second {warm.latency_ms:3.0f} ms",
            flush=True,
        )

    heading("A model is updated by a new name; callers of the old one are not touched")
    city = "NewYork_NY"
    CITIES[city] *= 1.2  # prices have risen
    train(city, story.folder / "newer", seed=100)
    story.upload(story.folder / "newer", f"{city}_v2.tar.gz")
    (old,) = json.loads(story.invoke(f"{city}.tar.gz", body, "text/csv").body)
    (new,) = json.loads(story.invoke(f"{city}_v2.tar.gz", body, "text/csv").body)
    expect(new > old, "prices have risen")
    print(f"  {city}.tar.gz: {old:,.0f} USD   {city}_v2.tar.gz: {new:,.0f} USD", flush=True)

    if sdk_python:
        heading("The same with the SageMaker Python SDK 2.x: MultiDataModel")
        archive = story.folder / f"{city}.tar.gz"
        run_with_sdk(story, sdk_python, "with_sdk.py", ROLE, story.bucket, str(archive), body)
    if sdk_python and with_training:
        heading("Models that CreateTrainingJob trains: from Estimator.fit over MultiDataModel to delete_endpoint")
        write_data(story.folder / "data")
        run_with_sdk(story, sdk_python, "train_with_sdk.py", ROLE, story.bucket, str(story.folder / "data"))


def main() -> int:
    """Returns 0 once all was shown."""
    arguments = parser("housing", __doc__ or "")
    arguments.add_argument(
        "--sdk-python", metavar="PYTHON", help="a Python with sagemaker<3 installed: shows MultiDataModel, too"
    )
    arguments.add_argument(
        "--with-training",
        action="store_true",
        help="show training jobs, too, with the SDK (fetched into .cache where --sdk-python names none)",
    )
    given = arguments.parse_args()
    python = given.sdk_python or (sdk_environment() if given.with_training else None)
    return tell("housing", given.port, lambda story: show(story, python, given.with_training))


if __name__ == "__main__":
    run(main)
