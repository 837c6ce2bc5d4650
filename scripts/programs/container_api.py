"""The APIs that SageMaker calls on a multi-model container, for programs: load, list, invoke, unload, ping."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

# SageMaker allows a load 360 s; an invocation 60 s.
LOAD_TIMEOUT_S = 360
INVOKE_TIMEOUT_S = 60
PING_TIMEOUT_S = 2


class ContainerApi:
    """Calls to one server at ``url``. Each method returns the response as it is: the caller judges the status."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between this program and this machine

    def is_healthy(self) -> bool:
        """Does /ping answer, and say Healthy? (MMS answers 200 whatever its state.)"""
        try:
            response = self._session.get(f"{self.url}/ping", timeout=PING_TIMEOUT_S)
            return response.ok and response.json().get("status") == "Healthy"
        except (requests.RequestException, ValueError):
            return False

    def load(self, name: str, folder: Path) -> requests.Response:
        """``POST /models``: loads the model in ``folder`` as ``name``."""
        body = {"model_name": name, "url": str(folder)}
        return self._session.post(f"{self.url}/models", json=body, timeout=LOAD_TIMEOUT_S)

    def models(self) -> list[dict[str, Any]]:
        """``GET /models``, all pages: objects with ``modelName`` and ``modelUrl``."""
        found: list[dict[str, Any]] = []
        parameters: dict[str, str] = {}
        while True:
            response = self._session.get(f"{self.url}/models", params=parameters, timeout=INVOKE_TIMEOUT_S)
            response.raise_for_status()
            page = response.json()
            found += page["models"]
            if not page.get("nextPageToken"):
                return found
            parameters = {"next_page_token": page["nextPageToken"]}

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> requests.Response:
        """``POST /models/NAME/invoke``."""
        url = f"{self.url}/models/{quote(name, safe='')}/invoke"
        return self._session.post(url, data=body, headers=headers, timeout=INVOKE_TIMEOUT_S)

    def unload(self, name: str) -> requests.Response:
        """``DELETE /models/NAME``."""
        return self._session.delete(f"{self.url}/models/{quote(name, safe='')}", timeout=INVOKE_TIMEOUT_S)
