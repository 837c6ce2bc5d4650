"""Loads a model and asks it once, in this process, through the same handler that answers in the container."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from scripts.programs.console import Failure

SHOWN_CHARACTERS = 100


def try_model(folder: Path) -> str:
    """Loads the model in ``folder``, sends it one sample of zeros, and returns the answer in short.

    Raises ``Failure`` with the handler's reason where it does not load or does not answer.
    """
    import mms
    from mme.errors import MmeError
    from mms.context import Context, RequestProcessor
    from model_handler import ModelHandler

    context = Context(folder.name, str(folder.absolute()), {}, 1, None, mms.__version__)
    handler = ModelHandler()
    try:
        handler.initialize(context)
    except MmeError as error:
        raise Failure(f"the model does not load: {error}") from None
    inputs = handler.model.inputs
    arrays = {each.name: np.zeros((1, *each.sample_shape), each.dtype) for each in inputs}
    if len(inputs) == 1:
        body, content_type = _npy(arrays[inputs[0].name]), "application/x-npy"
    else:
        body, content_type = (
            json.dumps({name: each.tolist() for name, each in arrays.items()}).encode(),
            "application/json",
        )

    context.request_ids = {0: "trial"}
    context.request_processor = [RequestProcessor({"Content-Type": content_type})]
    answer = handler.handle([{"body": body}], context)[0]
    text = " ".join((answer.decode(errors="replace") if isinstance(answer, bytes | bytearray) else str(answer)).split())
    status, _phrase = context.get_response_status(0)
    if status != 200:
        raise Failure(f"the model loads, but answers a sample of zeros with {status}: {text}")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
