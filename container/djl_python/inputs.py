"""What a model is asked: properties (the request's headers, and what the server adds) and content by key."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from djl_python.pair_list import PairList

_OF_A_BATCH = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)


class Input:
    """One request, or a batch of them (``get_batches``); the request to load the model, where it is empty."""

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = {}
        self.content = PairList()

    def __str__(self) -> str:
        sizes = ", ".join(f"{key}: {len(value)} bytes" for key, value in zip(*self._pairs(), strict=True))
        return f"Input(properties={self.properties}, content=[{sizes}])"

    def _pairs(self) -> tuple[list[Any], list[Any]]:
        return self.content.get_keys(), self.content.get_values()

    def is_empty(self) -> bool:
        """Is this the request to load the model?"""
        return self.content.is_empty()

    def get_function_name(self) -> str | None:
        """The name of the function that is called."""
        return self.function_name

    # ---- batches ----

    def is_batch(self) -> bool:
        """Are these several requests in one?"""
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        """The number of requests."""
        return int(self.properties.get("batch_size", 1))

    def get_batches(self) -> list[Input]:
        """The requests of a batch one by one; where it is none, this alone."""
        if not self.is_batch():
            return [self]
        batch = [Input() for _ in range(self.get_batch_size())]
        for name, value in self.properties.items():
            if found := _OF_A_BATCH.fullmatch(name):
                batch[int(found[1])].properties[found[2]] = value
        for key, value in zip(*self._pairs(), strict=True):
            if found := _OF_A_BATCH.fullmatch(key or ""):
                batch[int(found[1])].content.add(found[2], value)
        for each in batch:
            each.function_name = self.function_name
        return batch

    # ---- properties ----

    def get_properties(self) -> dict[str, Any]:
        """All properties by name."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A property by its name, in whatever case; None where there is none."""
        return next((value for name, value in self.properties.items() if name.lower() == key.lower()), None)

    # ---- content ----

    def get_content(self) -> PairList:
        """Bytes by key: ``data`` is the request's body."""
        return self.content

    def contains_key(self, key: str) -> bool:
        """Is there content with ``key``?"""
        return self.content.contains(key)

    def get_data(self, key: str | None = None) -> Any:
        """The content as its Content-Type says: JSON, text, an image, arrays, else bytes; None where there is none."""
        content_type = (self.get_property("content-type") or "").lower()
        if self.is_empty():
            return None
        if content_type.startswith("tensor/ndlist"):
            return self.get_as_numpy(key)
        if content_type.startswith("tensor/npz"):
            return self.get_as_npz(key)
        if content_type.startswith("application/json"):
            return self.get_as_json(key)
        if content_type.startswith("text/"):
            return self.get_as_string(key)
        if content_type.startswith("image/"):
            return self.get_as_image(key)
        return self.get_as_bytes(key)

    def get_as_bytes(self, key: str | None = None) -> Any:
        """The content of ``key``, else ``data``, else the first; None where there is none. Raises ``KeyError``."""
        if self.is_empty():
            return None
        if key:
            if not self.contains_key(key):
                raise KeyError(f"The request has no {key}; it has {', '.join(map(str, self.content.get_keys()))}.")
            return self.content.get(key)
        data = self.content.get("data")
        return self.content.value_at(0) if data is None else data

    def get_as_string(self, key: str | None = None) -> str:
        """The content as text in UTF-8."""
        return str(self.get_as_bytes(key), "utf-8")

    def get_as_json(self, key: str | None = None) -> Any:
        """The content, read as JSON. Raises ``ValueError``."""
        return json.loads(self.get_as_string(key))

    def get_as_csv(self, key: str | None = None) -> list[dict[str, str]]:
        """The rows of a CSV with column names in its first line."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))

    def get_as_image(self, key: str | None = None) -> Any:
        """The content as an image of Pillow."""
        from PIL import Image

        return Image.open(io.BytesIO(self.get_as_bytes(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """The arrays of an NDList, DJL's own format, or of an NPZ file."""
        from djl_python.np_util import from_nd_list

        return from_nd_list(self.get_as_bytes(key))

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """The arrays of an NPZ file."""
        import numpy as np

        with np.load(io.BytesIO(self.get_as_bytes(key)), allow_pickle=False) as file:
            return [file[name] for name in file.files]
