"""How a model wants to be served: what it says in ``serving.properties``, by DJL Serving's names, checked.

docs/serving_properties.md says what each name does. The front end reads five of them itself, with the same ranges:
front_end/src/mme/ServingProperties.java.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.frameworks.properties import FILE, Entry, read_entries
from mme.settings import DEFAULT_HANDLER, Settings

logger = logging.getLogger(__name__)

OPTION = "option."  # options of a model's own program begin so
_SHOWN_CHARACTERS = 40


class _Number(NamedTuple):
    field: str
    what: str
    lowest: int
    highest: int


_NUMBERS = {
    "minWorkers": _Number("min_workers", "how many workers the model has at least", 0, 1024),
    "maxWorkers": _Number("max_workers", "how many workers the model has at most", 1, 1024),
    "batch_size": _Number("batch_size", "how many requests a worker is given at once at most", 1, 1024),
    "max_batch_delay": _Number("max_batch_delay_ms", "how long a batch waits to be full, in ms", 0, 3_600_000),
    "max_idle_time": _Number(
        "max_idle_time_s", "after how long without a request a worker is idle, in s", 0, 31_536_000
    ),
    "job_queue_size": _Number("job_queue_size", "how many requests may wait", 1, 1_000_000),
    "option.required_memory_mb": _Number(
        "required_memory_mb", "the memory that the model needs, in MiB", 1, 999_999_999
    ),
    "required_memory_mb": _Number("required_memory_mb", "the memory that the model needs, in MiB", 1, 999_999_999),
    "option.predict_timeout": _Number("predict_timeout_s", "how long an answer may take, in s", 1, 86400),
    "option.model_loading_timeout": _Number("model_loading_timeout_s", "how long a load may take, in s", 1, 86400),
}
_TEXTS = {"engine": "engine", "option.entryPoint": "entry_point"}
_FLAGS = {"option.never_sleep": "never_sleep"}
_FLAG_VALUES = {"true": True, "false": False}


@dataclass(frozen=True)
class ServingProperties:
    """What one model says; None is what it leaves to the server's settings. Fields carry units in their names."""

    engine: str | None = None
    entry_point: str | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    max_idle_time_s: int | None = None
    job_queue_size: int | None = None
    required_memory_mb: int | None = None
    predict_timeout_s: int | None = None
    model_loading_timeout_s: int | None = None
    never_sleep: bool = False
    others: tuple[str, ...] = ()  # names that mean nothing here, in the file's order

    @classmethod
    def of(cls, model_dir: Path) -> ServingProperties:
        """Those of the model in ``model_dir``. Raises ``ModelLoadError``, which names line and key of a bad value."""
        values: dict[str, Any] = {}
        lines: dict[str, Entry] = {}
        given = {each.name: each for each in read_entries(model_dir)}
        for name, field in _FLAGS.items():
            if name in given:
                values[field] = _flag(model_dir, given[name])
        for name in [*_TEXTS, *_NUMBERS]:
            if name not in given:
                continue
            entry = given[name]
            number = _NUMBERS.get(name)
            field = number.field if number else _TEXTS[name]
            values[field] = _number(model_dir, entry, number) if number else entry.value or None
            lines[field] = entry
        least, most = values.get("min_workers"), values.get("max_workers")
        if least is not None and most is not None and least > most:
            raise _refusal(model_dir, lines["min_workers"], f"no more than maxWorkers, which is {most}")
        known = {*_TEXTS, *_NUMBERS, *_FLAGS}
        others = tuple(name for name in given if name not in known)
        return cls(**values, others=others)

    def is_engine_of(self, framework: str) -> bool:
        """Is the engine named that DJL Serving loads models of this framework with? Python does it for any."""
        return (self.engine or "").lower() in ("python", framework, f"{framework}runtime")

    def without_meaning(self, options: Collection[str], *, runs_code: bool) -> Sequence[str]:
        """The names that nobody reads. ``options`` are the framework's own; a program is given all that are options."""
        return [name for name in self.others if name not in options and not (runs_code and name.startswith(OPTION))]


def check(model_dir: Path, handler: str, settings: Settings) -> ServingProperties:
    """What a model says that ``handler`` is to serve, as MMS calls it; warns once of what it asks for in vain.

    Raises ``ModelLoadError``, which names line and key of a bad value.
    """
    properties = ServingProperties.of(model_dir)
    if not properties.others and not properties.engine:
        return properties
    found = registry.frameworks_of(model_dir, settings)
    has_servers_handler = handler.partition(":")[0].removesuffix(".py") == DEFAULT_HANDLER
    runs_code = not has_servers_handler or registry.has_program(found)
    options = {option for each in found for option in registry.description(each).options}
    unknown = properties.without_meaning(options, runs_code=runs_code)
    if unknown:
        logger.warning("%s: nothing here reads %s.", model_dir / FILE, ", ".join(unknown))
    if properties.engine and found and not runs_code and not properties.is_engine_of(found[0]):
        logger.warning(
            "%s: engine=%s is not heeded: by its files the model is one of %s.",
            *(model_dir / FILE, properties.engine, found[0]),
        )
    return properties


def _number(model_dir: Path, entry: Entry, number: _Number) -> int:
    if re.fullmatch(r"[0-9]{1,12}", entry.value) and number.lowest <= int(entry.value) <= number.highest:
        return int(entry.value)
    allowed = f"{number.what}, as a whole number from {number.lowest} to {number.highest}"
    raise _refusal(model_dir, entry, allowed)


def _flag(model_dir: Path, entry: Entry) -> bool:
    value = _FLAG_VALUES.get(entry.value.lower())
    if value is None:
        raise _refusal(model_dir, entry, "true or false")
    return value


def _refusal(model_dir: Path, entry: Entry, allowed: str) -> ModelLoadError:
    shown = entry.value[:_SHOWN_CHARACTERS]
    return ModelLoadError(
        f"{model_dir / FILE}, line {entry.line}: {entry.name}={shown} is not allowed: it takes {allowed}."
    )
