"""Load, list, get, invoke, unload: SageMaker's container APIs over HTTP (CONTRACT 1.2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import models, onnx_models, scripts, tables
from tests.harness.server import ServerProcess

Loader = Callable[..., str]
ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])
NO_JSON = "not JSON"
LONGER_THAN_A_TEST_MS = 600_000
BATCH_IS_AWAITED_S = 1.0  # for so long no request of an unfinished batch is answered


@pytest.mark.quick
def test_ping_answers_200(server: ServerProcess) -> None:
    assert server.ping().status_code == 200


def test_list_answers_200_and_a_list(server: ServerProcess) -> None:
    answer = server.list_models()
    assert answer.status_code == 200
    assert isinstance(answer.json()["models"], list)


@pytest.mark.quick
def test_a_model_lives_from_load_to_unload(server: ServerProcess, name: str) -> None:
    models.multiplier(server.model_dir(name), factor=3)

    assert server.load(name).status_code == 200

    listed = {model["modelName"]: model["modelUrl"] for model in server.list_models().json()["models"]}
    assert listed[name] == server.model_url(name)
    described = json.loads(server.describe(name).text)
    described = described[0] if isinstance(described, list) else described
    assert described["modelName"] == name
    assert described["modelUrl"] == server.model_url(name)

    answer = server.invoke(name, ONE_ROW)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}

    assert server.unload(name).status_code == 200
    assert name not in {model["modelName"] for model in server.list_models().json()["models"]}
    assert server.describe(name).status_code == 404
    assert server.invoke(name, ONE_ROW).status_code == 404
    assert server.unload(name).status_code == 404


def torch_linear(folder: Path) -> Path:
    """Twice what it is sent, as ``torch.export`` writes it; skipped where PyTorch is not."""
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not in the default image: FLAVOUR=torch brings it")

    class Twice(torch.nn.Module):
        def forward(self, data: Any) -> Any:
            return 2 * data

    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(torch.export.export(Twice(), (torch.zeros(1, 2),)), str(folder / "model.pt2"))
    return folder


# What makes a model of each framework, what it is sent, what it answers, and a request that it cannot answer.
HOUSE = tables.houses(1, seed=1)[0].astype(float)
FRAMEWORKS: dict[str, tuple[Callable[[Path], Path], Any, Callable[[], Any], Any]] = {
    "mxnet": (models.multiplier, [[1, 2, 3, 4]], lambda: {"predictions": [[2, 4, 6, 8]]}, [[1, 2]]),
    "onnx": (onnx_models.onnx_double, [[1, 2]], lambda: {"predictions": [[2, 4]]}, [[1]]),
    "xgboost": (
        tables.xgboost_model,
        HOUSE.tolist(),
        lambda: pytest.approx(tables.booster().inplace_predict(HOUSE.astype(np.float32)).tolist()),
        [[1, 2]],
    ),
    "sklearn": (
        tables.sklearn_model,
        HOUSE.tolist(),
        lambda: pytest.approx(tables.linear_model().predict(HOUSE).tolist()),
        [[1, 2]],
    ),
    "lightgbm": (
        tables.lightgbm_model,
        HOUSE.tolist(),
        lambda: pytest.approx(tables.lightgbm_booster().predict(HOUSE).tolist()),
        [[1, 2]],
    ),
    "pytorch": (torch_linear, [[1, 2]], lambda: {"predictions": [[2, 4]]}, [[1, 2, 3]]),
    "script": (scripts.adder, [1, 2], lambda: [2, 3], NO_JSON),
    "djl": (scripts.thousand_models, [[3]], lambda: pytest.approx(6), [[]]),
    "mms": (scripts.reverser, "[1, 2]", lambda: "]2 ,1[", ""),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_of_every_framework_lives_from_load_to_unload(server: ServerProcess, name: str, framework: str) -> None:
    make, body, expected, bad_body = FRAMEWORKS[framework]
    make(server.model_dir(name))
    sent, bad = (each if isinstance(each, str) else json.dumps(each) for each in (body, bad_body))
    assert server.load(name).status_code == 200, server.log_tail()
    assert server.load(name).status_code == 409
    for _ in range(2):  # what is refused in between changes nothing
        answer = server.invoke(name, sent)
        assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
        assert (answer.text if isinstance(body, str) else answer.json()) == expected()
        refused = server.invoke(name, bad)
        assert 400 <= refused.status_code < 500, refused.text
        assert "Traceback" not in refused.text
    assert server.unload(name).status_code == 200
    assert server.invoke(name, sent).status_code == 404
    assert server.describe(name).status_code == 404


def test_a_model_can_be_loaded_again_after_unload(server: ServerProcess, name: str) -> None:
    models.multiplier(server.model_dir(name), factor=2)
    for _ in range(2):
        assert server.load(name).status_code == 200
        assert server.invoke(name, ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        assert server.unload(name).status_code == 200


@pytest.mark.quick
def test_loading_a_loaded_model_is_409(server: ServerProcess, loaded: Loader) -> None:
    name = loaded(factor=2)
    assert server.load(name).status_code == 409
    assert server.invoke(name, ONE_ROW).status_code == 200, "the model that was loaded first still answers"


@pytest.mark.quick
def test_loading_from_a_missing_path_is_404(server: ServerProcess, name: str) -> None:
    assert server.load(name).status_code == 404
    assert server.describe(name).status_code == 404


@pytest.mark.parametrize("call", ["describe", "unload"])
def test_an_unknown_model_is_404(server: ServerProcess, name: str, call: str) -> None:
    answer = getattr(server, call)(name)
    assert answer.status_code == 404
    assert name in answer.json()["message"]


def test_invoking_an_unknown_model_is_404(server: ServerProcess, name: str) -> None:
    assert server.invoke(name, ONE_ROW).status_code == 404


def test_two_models_answer_in_parallel(server: ServerProcess, loaded: Loader) -> None:
    double, triple = loaded(factor=2), loaded(factor=3)

    def ask(turn: int) -> tuple[int, float]:
        name, factor = ((double, 2), (triple, 3))[turn % 2]
        answer = server.invoke(name, json.dumps([[turn, 0, 0, 0]]))
        return answer.status_code, answer.json()["predictions"][0][0] - factor * turn

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(40))) == {(200, 0.0)}


def test_the_list_is_paged_beyond_100_models(server: ServerProcess, loaded: Loader) -> None:
    # Without workers: what is listed does not depend on them, and 101 of stock MMS's would take 11 GB.
    names = {loaded(query={"initial_workers": 0}) for _ in range(101)}
    found: list[str] = []
    token = None
    while True:
        page = server.list_models(**({"next_page_token": token} if token else {})).json()
        assert len(page["models"]) <= 100
        found += [model["modelName"] for model in page["models"]]
        token = page.get("nextPageToken")
        if token is None:
            break
    assert len(found) == len(set(found))
    assert names <= set(found)


@pytest.mark.quick
def test_a_model_that_fails_to_load_is_500_and_not_listed(server: ServerProcess, name: str) -> None:
    folder = models.multiplier(server.model_dir(name))
    (folder / "model-0000.params").unlink()

    assert server.load(name).status_code == 500
    assert server.describe(name).status_code == 404
    reason = next(line for line in server.log().splitlines() if "params" in line and name in line)
    assert "model" in reason


def test_a_failed_load_can_be_mended_and_loaded(server: ServerProcess, name: str) -> None:
    folder = models.multiplier(server.model_dir(name), factor=5)
    weights = (folder / "model-0000.params").read_bytes()
    (folder / "model-0000.params").write_bytes(weights[: len(weights) // 2])
    assert server.load(name).status_code == 500
    (folder / "model-0000.params").write_bytes(weights)
    assert server.load(name).status_code == 200
    assert server.invoke(name, ONE_ROW).json() == {"predictions": [[5.0, 10.0, 15.0, 20.0]]}
    server.unload(name)


def test_custom_attributes_come_back(server: ServerProcess, loaded: Loader) -> None:
    name = loaded()
    answer = server.invoke(name, ONE_ROW, headers={"X-Amzn-SageMaker-Custom-Attributes": "trace=42"})
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "trace=42"


def test_long_headers_after_many_short_answers_come_back(server: ServerProcess, loaded: Loader) -> None:
    name = loaded()
    for _ in range(60):  # the front end reads less and less at once
        assert server.invoke(name, ONE_ROW, accept="text/csv").status_code == 200
    assert server.invoke(name, "not JSON").status_code == 400
    answer = server.invoke(name, ONE_ROW, headers={"X-Amzn-SageMaker-Custom-Attributes": "x" * 1024})
    assert answer.status_code == 200
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "x" * 1024


@pytest.mark.quick
def test_an_image_gets_the_five_best_classes(server: ServerProcess, loaded: Loader) -> None:
    import io

    from PIL import Image

    name = loaded(models.tiny_classifier)
    picture = io.BytesIO()
    Image.new("L", (40, 30), 128).save(picture, "PNG")
    answer = server.invoke(name, picture.getvalue(), "image/png")
    assert answer.status_code == 200
    best = answer.json()
    assert len(best) == 5
    assert all(line.startswith("probability=0.") and ", class=" in line for line in best)


def test_a_bad_item_of_a_batch_spoils_no_other(server: ServerProcess, loaded: Loader) -> None:
    # The front end waits for a full batch for longer than this test does: an answer is that of a batch of four.
    name = loaded(factor=2, query={"batch_size": 4, "max_batch_delay": LONGER_THAN_A_TEST_MS})
    bodies = [ONE_ROW, "[[1, 2], [3]]", ONE_ROW, ONE_ROW]
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(server.invoke, name, body) for body in bodies[:3]]
        with pytest.raises(TimeoutError):
            next(as_completed(first, timeout=BATCH_IS_AWAITED_S))
        last = pool.submit(server.invoke, name, bodies[3])
        answers = [each.result(timeout=30) for each in (*first, last)]
    assert [answer.status_code for answer in answers] == [200, 400, 200, 200]
    assert answers[1].json()["type"] == "BadRequestException"
    for answer in (answers[0], answers[2], answers[3]):
        assert answer.json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
