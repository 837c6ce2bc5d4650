"""SageMaker's container APIs as the platform calls them (CONTRACT 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests


class ContainerClient:
    """Calls one container. Every method returns the response as it is; nothing is raised for a status."""

    def __init__(self, url: str, timeout_s: float = 70.0) -> None:
        self.url = url
        self.timeout_s = timeout_s

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Any call; a connection of its own each time, as MMS closes connections after errors."""
        arguments.setdefault("timeout", self.timeout_s)
        return requests.request(method, self.url + path, **arguments)

    def ping(self) -> requests.Response:
        """GET /ping"""
        return self.request("GET", "/ping")

    def load(self, name: str, url: str | None = None, **extra: Any) -> requests.Response:
        """POST /models; ``extra`` goes into the body, too (batch_size, initial_workers …)."""
        body = {"model_name": name, "url": url if url is not None else self.model_url(name)}
        return self.request("POST", "/models", json={**body, **extra}, headers={"Accept": "application/json"})

    def model_url(self, name: str) -> str:
        """Where the platform puts a model, as the container sees it."""
        return f"/opt/ml/models/{name}/model"

    def list_models(self, **query: Any) -> requests.Response:
        """GET /models"""
        return self.request("GET", "/models", params=query)

    def describe(self, name: str) -> requests.Response:
        """GET /models/{name}"""
        return self.request("GET", f"/models/{quote(name, safe='')}")

    def unload(self, name: str) -> requests.Response:
        """DELETE /models/{name}"""
        return self.request("DELETE", f"/models/{quote(name, safe='')}")

    def invoke(
        self,
        name: str,
        body: bytes | str,
        content_type: str | None = "application/json",
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """POST /models/{name}/invoke"""
        return self.post(f"/models/{quote(name, safe='')}/invoke", body, content_type, accept, headers)

    def post(
        self,
        path: str,
        body: bytes | str,
        content_type: str | None = "application/json",
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """POST of a body, with just the headers that are given."""
        sent: dict[str, str | None] = {"Accept": accept, "User-Agent": None, **(headers or {})}
        if content_type is not None:
            sent["Content-Type"] = content_type
        return self.request("POST", path, data=body, headers=sent)
