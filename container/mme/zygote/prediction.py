"""One batch of requests through a handler: what ``mms.service.Service.predict`` (1.1.11) does, in our protocol.

Handlers find the context, the metrics and the answers to their exceptions as with MMS. What differs: bodies are not
copied (``protocol.predict_response``), and a handler that raises ``SystemExit`` fails its request like any other.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from mms import service as mms_service
from mms.metrics.metrics_store import MetricsStore
from mms.service import PREDICTION_METRIC, PredictionException, Service

from mme.zygote import protocol

logger = logging.getLogger("mme.worker")


@dataclass(frozen=True)
class Prediction:
    """The response to a batch, the worst status in it, and how long the handler took, where it did not fail."""

    status: int
    response: list[protocol.Buffer]
    handler_s: float | None = None


def predict(service: Service, batch: list[dict[str, Any]]) -> Prediction:
    """Runs the handler of ``service`` on ``batch``; what it raises becomes the status of the whole batch."""
    headers, inputs, request_ids = Service.retrieve_data_for_inference(batch)
    context = service.context
    context.request_ids, context.request_processor = request_ids, headers
    context.metrics = MetricsStore(request_ids, context.model_name)
    started_s = time.monotonic()
    try:
        results = service._entry_point(inputs, context)
    except PredictionException as error:
        logger.error("Prediction error", exc_info=True)
        return _failed(request_ids, error.message, error.error_code)
    except MemoryError:
        logger.error("System out of memory", exc_info=True)
        return out_of_memory(request_ids)
    except (Exception, SystemExit):
        logger.warning("Invoking custom service failed.", exc_info=True)
        return _failed(request_ids, "Prediction failed", 503)
    if not isinstance(results, list):
        logger.warning("model: %s, Invalid return type: %s.", context.model_name, type(results))
        return _failed(request_ids, "Invalid model predict output", 503)
    if len(results) != len(inputs):
        found = context.model_name, len(inputs), len(results)
        logger.warning("model: %s, number of batch response mismatched, expect: %d, got: %d.", *found)
        return _failed(request_ids, "number of batch response mismatched", 503)
    handler_s = time.monotonic() - started_s
    statuses = [context.get_response_status(index)[0] or 200 for index in request_ids]
    return Prediction(max(statuses), _responses(results, request_ids, context), handler_s)


def emit_metrics(service: Service, handler_s: float | None) -> None:
    """Writes what the handler has counted, and its time, as lines that MMS reads."""
    metrics = service.context.metrics
    if metrics is None:
        return
    if handler_s is not None:
        metrics.add_time(PREDICTION_METRIC, round(handler_s * 1000, 2))
    mms_service.emit_metrics(metrics.store)


def out_of_memory(request_ids: dict[int, str] | None = None) -> Prediction:
    """507 for all."""
    return _failed(request_ids or {}, "Out of resources", 507)


def _failed(request_ids: dict[int, str], message: str, status: int) -> Prediction:
    return Prediction(status, protocol.predict_response(None, request_ids, message, status))


def _responses(results: list[Any], request_ids: dict[int, str], context: Any) -> list[protocol.Buffer]:
    return protocol.predict_response(results, request_ids, "Prediction success", 200, context)
