"""A model that is loaded through the handler in this process, as MMS does it, and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import model_handler
from tests.harness import requests as golden


class LoadedModel:
    """``folder`` holds the model."""

    def __init__(self, folder: Path) -> None:
        self.context = golden.context_for(folder)
        model_handler.handle(None, self.context)

    def ask(self, body: Any, content_type: str = "application/json", accept: str = "") -> tuple[int, str, bytes]:
        """Status, Content-Type and body; ``body`` is sent as JSON where it is neither bytes nor text."""
        text = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"Content-Type": content_type, **({"Accept": accept} if accept else {})}
        encoded = text.encode() if isinstance(text, str) else text
        return golden.call(model_handler.handle, self.context, (headers, encoded))[0]

    def answer(self, body: Any, content_type: str = "application/json", accept: str = "") -> Any:
        """The JSON of an answer that must be one."""
        status, answered, answer = self.ask(body, content_type, accept)
        assert (status, answered) == (200, "application/json"), answer
        return json.loads(answer)

    def scores(self, body: Any, content_type: str = "application/json") -> np.ndarray:
        """The same as an array of float32."""
        return np.array(self.answer(body, content_type), np.float32)

    def refusal(self, body: Any, content_type: str = "application/json", status: int = 400) -> str:
        """The message of an answer that must be an error."""
        got, _, answer = self.ask(body, content_type)
        assert got == status, answer
        return json.loads(answer)["message"]


def as_csv(rows: np.ndarray) -> str:
    """Rows of numbers, an empty cell for each that is missing."""
    return "".join(",".join("" if np.isnan(cell) else repr(cell) for cell in row) + "\n" for row in rows.tolist())
