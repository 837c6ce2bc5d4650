"""The handler that stock MMS is measured with for models of tables: the Inference Toolkit's default one.

``model_fn`` alone is the user's, as every script for the toolkit has it; the body is decoded, given to the model's
``predict`` and its answer encoded by the toolkit's own defaults. MMS calls ``handle``, once with ``data`` None at load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sagemaker_inference import content_types, decoder
from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
from sagemaker_inference.transformer import Transformer


class TablesHandler(DefaultInferenceHandler):
    """Loads what there is: a booster of XGBoost, or joblib's file of a scikit-learn estimator."""

    def default_model_fn(self, model_dir: str, context: Any = None) -> Any:
        """The model, with the library that it needs."""
        file = Path(model_dir) / "xgboost-model"
        if not file.exists():
            import joblib

            return joblib.load(Path(model_dir) / "model.joblib")
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(file.read_bytes()))
        return booster

    def default_input_fn(self, input_data: Any, content_type: str, context: Any = None) -> Any:
        """Rows (N, columns)."""
        return decoder.decode(input_data, content_type).reshape(1, -1)

    def default_predict_fn(self, data: Any, model: Any, context: Any = None) -> Any:
        """One score per row."""
        if hasattr(model, "inplace_predict"):
            import xgboost

            return model.predict(xgboost.DMatrix(data))
        return model.predict(data)

    def default_output_fn(self, prediction: Any, accept: str, context: Any = None) -> Any:
        """JSON, whatever is accepted."""
        return super().default_output_fn(prediction, content_types.JSON)


_transformer = Transformer(TablesHandler())


def handle(data: Any, context: Any) -> Any:
    """MMS's entry point."""
    if data is None:
        _transformer.validate_and_initialize(model_dir=context.system_properties["model_dir"], context=context)
        return None
    return _transformer.transform(data, context)
