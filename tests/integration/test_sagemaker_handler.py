"""``SAGEMAKER_HANDLER``: one handler for all models at once, as users of MMS and of the toolkit write it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from tests.harness.scripts import script
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until


def load(server: ServerProcess, name: str) -> None:
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"


def ask(server: ServerProcess, name: str, body: str) -> object:
    answer = server.invoke(name, body)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return answer.json()


TEMPLATE_STYLE = """
    import os

    class ModelHandler(object):
        def __init__(self):
            self.initialized = False
            self.model = None

        def initialize(self, context):
            self.initialized = True
            with open(os.path.join(context.system_properties.get("model_dir"), "factor")) as file:
                self.model = int(file.read())

        def preprocess(self, request):
            return [int(each.get("body").decode()) for each in request]

        def inference(self, model_input):
            return [self.model * each for each in model_input]

        def postprocess(self, inference_output):
            return [str(each) for each in inference_output]

        def handle(self, data, context):
            return self.postprocess(self.inference(self.preprocess(data)))

    _service = ModelHandler()

    def handle(data, context):
        if not _service.initialized:
            _service.initialize(context)
        if data is None:
            return None
        return _service.handle(data, context)
"""

INFERENCE_HANDLER = """
    import os
    from sagemaker_inference import content_types, decoder, default_inference_handler, encoder

    class FactorHandler(default_inference_handler.DefaultInferenceHandler):
        def default_model_fn(self, model_dir):
            with open(os.path.join(model_dir, "factor")) as file:
                return int(file.read())

        def default_input_fn(self, input_data, content_type):
            return decoder.decode(input_data, content_type)

        def default_predict_fn(self, data, model):
            return data * model

        def default_output_fn(self, prediction, accept):
            return encoder.encode(prediction, accept)
"""

TOOLKIT_STYLE = """
    import os
    import sys

    from sagemaker_inference.default_handler_service import DefaultHandlerService
    from sagemaker_inference.transformer import Transformer

    from factor_handler import FactorHandler

    class HandlerService(DefaultHandlerService):
        def __init__(self):
            self._initialized = False
            super().__init__(transformer=Transformer(default_inference_handler=FactorHandler()))

        def initialize(self, context):
            if not self._initialized:
                sys.path.append(os.path.join(context.system_properties.get("model_dir"), "code"))
                self._initialized = True
            super().initialize(context)
"""


@pytest.fixture(scope="module", params=["template_style", "toolkit_style"])
def handler_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("handlers")
    sources = {"template_style": TEMPLATE_STYLE, "toolkit_style": TOOLKIT_STYLE, "factor_handler": INFERENCE_HANDLER}
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    with ServerProcess(MME_PRELOAD="none", SAGEMAKER_HANDLER=request.param, PYTHONPATH=str(folder)) as running:
        yield running


def test_a_handler_of_ones_own_serves_all_models_at_once(handler_server: ServerProcess) -> None:
    for factor in (2, 3):
        folder = handler_server.model_dir(f"times-{factor}")
        (folder / "factor").write_text(str(factor))
        (folder / "serving.properties").write_text(f"option.mine=1\nnobodys.{factor}=1\n")
        load(handler_server, f"times-{factor}")
        line = f"serving.properties: nothing here reads nobodys.{factor}."
        wait_until(lambda line=line: line in handler_server.log(), "the front end has read what the worker wrote")  # type: ignore[misc]
        assert handler_server.log().count(line) == 1
    for factor in (2, 3, 2):
        assert ask(handler_server, f"times-{factor}", "7") == 7 * factor


@pytest.mark.parametrize("handler_server", ["toolkit_style"], indirect=True)
def test_a_toolkits_handler_runs_each_models_own_code(handler_server: ServerProcess) -> None:
    for number in (1, 2):
        folder = script(
            handler_server.model_dir(f"coded-{number}"),
            "import helper\ndef predict_fn(data, model): return [helper.NAME, int(data) * model]",
            helper=f"NAME = {number}",
        )
        (folder / "factor").write_text("5")
        load(handler_server, f"coded-{number}")
    assert [ask(handler_server, f"coded-{number}", "7") for number in (1, 2)] == [[1, 35], [2, 35]]
