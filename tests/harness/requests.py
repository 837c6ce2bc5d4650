"""Golden requests: what is sent and what must come back, in files, for every way of sending it.

``tests/requests/valid`` and ``tests/requests/invalid`` hold one JSON file per request:

    {
      "about":           what it shows, one sentence
      "model":           function of tests/harness/models.py, or of onnx_models.py, that makes the model
      "model_arguments": its keyword arguments; none if left out
      "headers":         {"Content-Type": …, "Accept": …}
      "body":            text, or "body_base64": bytes in base64, or "body_json": what is sent as JSON
      "status":          HTTP status of the answer
      "type":            "type" of the error body, for an error
      "message":         strings that the error's message holds, a list
      "content_type":    Content-Type of the answer, for a success
      "response":        the JSON of the answer, numbers within 1e-4; or
      "response_text":   the answer as text; or
      "response_contains": strings in the text of the answer, a list
    }

``load`` reads them; ``check`` compares an answer, whichever way it came.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from mms.context import Context, RequestProcessor

from tests.harness import models, onnx_models

FOLDER = Path(__file__).parent.parent / "requests"
MODULES = (models, onnx_models)  # they have the functions that golden requests name


@dataclass(frozen=True)
class GoldenRequest:
    """One request with the answer that it must get."""

    name: str
    about: str
    model: str
    model_arguments: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    expected: dict[str, Any]

    @property
    def status(self) -> int:
        return self.expected["status"]

    def make_model(self, folder: Path) -> Path:
        """Writes the model that this request is for into ``folder``."""
        arguments = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.model_arguments.items()
        }
        module = next(each for each in MODULES if hasattr(each, self.model))
        return getattr(module, self.model)(folder, **arguments)

    def check(self, status: int, content_type: str | None, body: bytes) -> None:
        """Asserts that this answer is the right one."""
        shown = f"{self.name} ({self.about}): {status} {content_type} {body[:500]!r}"
        assert status == self.status, shown
        if self.status >= 400:
            error = json.loads(body)
            assert set(error) == {"code", "type", "message"}, shown
            assert error["code"] == self.status, shown
            assert error["type"] == self.expected["type"], shown
            assert b"\n" not in body.strip(), shown
            assert "Traceback" not in error["message"], shown
            for part in self.expected["message"]:
                assert part in error["message"], f"{part!r} is not in: {shown}"
            assert content_type == "application/json", shown
            return
        assert content_type == self.expected["content_type"], shown
        if "response" in self.expected:
            assert _close(json.loads(body), self.expected["response"]), shown
        if "response_text" in self.expected:
            assert body.decode() == self.expected["response_text"], shown
        for part in self.expected.get("response_contains", ()):
            assert part in body.decode(), f"{part!r} is not in: {shown}"


def load(kind: str) -> list[GoldenRequest]:
    """All golden requests of ``kind``, ``valid`` or ``invalid``, by name."""
    return [_read(path) for path in sorted((FOLDER / kind).glob("*.json"))]


def _read(path: Path) -> GoldenRequest:
    given = json.loads(path.read_text())
    if "body_base64" in given:
        body = base64.b64decode(given["body_base64"])
    elif "body_json" in given:
        body = json.dumps(given["body_json"]).encode()
    else:
        body = given["body"].encode()
    return GoldenRequest(
        name=path.stem,
        about=given["about"],
        model=given["model"],
        model_arguments=given.get("model_arguments", {}),
        headers=given["headers"],
        body=body,
        expected=given,
    )


def _close(got: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(_close(got[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(_close(one, other) for one, other in zip(got, expected, strict=True))
        )
    if isinstance(expected, float) and isinstance(got, float):
        return abs(got - expected) <= 1e-4
    return got == expected


# ---- in process: as MMS hands requests to a handler ----


def context_for(model_dir: Path, *, name: str = "model", batch_size: int = 1) -> Context:
    """A context as MMS makes it at load time."""
    return Context(name, str(model_dir), None, batch_size, None, "1.1.11")


def as_mms_parts(headers: dict[str, str], body: bytes) -> tuple[dict[str, bytearray], dict[str, Any]]:
    """What MMS makes of a request: the parts by name, and the headers with the type of each part among them.

    As InferenceRequestHandler.java does: multipart bodies are taken apart, urlencoded ones leave no body.
    """
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if content_type.startswith("multipart/form-data"):
        message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        parts, types = {}, {}
        for part in message.get_payload():
            assert isinstance(part, Message)
            match = re.search(r'name="([^"]*)"', part["Content-Disposition"])
            payload = part.get_payload(decode=True)
            assert match is not None and isinstance(payload, bytes)
            parts[match[1]] = bytearray(payload)
            types[match[1]] = {"content-type": part.get_content_type() if part["Content-Type"] else ""}
        return parts, {**types, **headers}
    if content_type == "application/x-www-form-urlencoded":
        return {}, dict(headers)
    return {"body": bytearray(body)}, {"body": {"content-type": content_type.split(";")[0]}, **headers}


def call(handle: Any, context: Context, *requests: tuple[dict[str, str], bytes]) -> list[tuple[int, str, bytes]]:
    """Hands a batch of (headers, body) to an entry function as MMS does: status, Content-Type and body of each."""
    made = [as_mms_parts(headers, body) for headers, body in requests]
    context.request_processor = [RequestProcessor(headers) for _, headers in made]
    context.request_ids = {index: str(index) for index in range(len(made))}
    bodies = handle([parts for parts, _ in made], context)
    assert isinstance(bodies, list) and len(bodies) == len(made)
    return [
        (context.get_response_status(index)[0], context.get_response_content_type(index), body)
        for index, body in enumerate(bodies)
    ]
