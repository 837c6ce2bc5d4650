"""Loads a model and asks it once, in this process, through the same handler that answers in the container."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import MmeError
from scripts.programs.console import Failure

SHOWN_CHARACTERS = 100


def try_model(folder: Path) -> str:
    """Loads the model in ``folder``, sends it one sample of zeros, and returns the answer in short.

    Raises ``Failure`` with the handler's reason where it does not load or does not answer.
    """
    import mms
    from mms.context import Context, RequestProcessor

    from model_handler import ModelHandler

    context = Context(folder.name, str(folder.absolute()), {}, 1, None, mms.__version__)
    handler = ModelHandler()
    with kept_from_the_terminal():
        try:
            handler.initialize(context)
        except MmeError as error:
            raise Failure(f"the model does not load: {error}") from None
        body, content_type = _sample(handler.model.inputs)
        context.request_ids = {0: "check"}
        context.request_processor = [RequestProcessor({"Content-Type": content_type})]
        answer = handler.handle([{"body": body}], context)[0]
    text = " ".join(answer.decode(errors="replace").split())
    status, _phrase = context.get_response_status(0)
    if status != 200:
        raise Failure(f"the model loads, but answers a sample of zeros with {status}: {text}")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"


def _sample(inputs: Any) -> tuple[bytes, str]:
    """A request body with one sample of zeros, and its Content-Type."""
    arrays = {each.name: each.blank() for each in inputs}
    if len(arrays) > 1 or inputs[0].holds_text:
        return json.dumps({name: each.tolist() for name, each in arrays.items()}).encode(), "application/json"
    buffer = io.BytesIO()
    np.save(buffer, arrays[inputs[0].name])
    return buffer.getvalue(), "application/x-npy"


@contextmanager
def kept_from_the_terminal() -> Iterator[None]:
    """Holds back standard error, what MXNet's library writes there included; shown where something unforeseen fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Failure:
            raise
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
