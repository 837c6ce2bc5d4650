"""Lists: which records a List operation shows, in which order, page by page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any

from local_endpoint.control_plane.records import Kind, Parameters
from local_endpoint.errors import ValidationException
from local_endpoint.storage.resources import arn

DEFAULT_PAGE = 10


def filter_and_sort(kind: Kind, records: Iterable[Parameters], parameters: Parameters) -> list[Parameters]:
    """The records that the filters keep, the newest first where nothing else is asked for."""
    name = kind.name_member
    filters: dict[str, Callable[[Parameters, Any], bool]] = {
        "NameContains": lambda record, value: value.lower() in record[name].lower(),
        "StatusEquals": lambda record, value: record["EndpointStatus"] == value,
        "CreationTimeAfter": lambda record, value: record["CreationTime"] >= value,
        "CreationTimeBefore": lambda record, value: record["CreationTime"] <= value,
        "LastModifiedTimeAfter": lambda record, value: record["LastModifiedTime"] >= value,
        "LastModifiedTimeBefore": lambda record, value: record["LastModifiedTime"] <= value,
    }
    chosen = [(filters[each], parameters[each]) for each in filters if each in parameters]
    kept = [record for record in records if all(keeps(record, value) for keeps, value in chosen)]
    keys: dict[str, Callable[[Parameters], Any]] = {
        "Name": lambda record: record[name].lower(),
        "Status": lambda record: record["EndpointStatus"],
    }
    key = keys.get(parameters.get("SortBy", ""), lambda record: record["CreationTime"])
    kept.sort(key=lambda record: (key(record), record[name].lower()))
    if parameters.get("SortOrder", "Descending") == "Descending":
        kept.reverse()
    return kept


def page(
    kind: Kind, region: str, records: list[Parameters], shown: Iterable[str], parameters: Parameters
) -> Parameters:
    """The page that ``NextToken`` and ``MaxResults`` ask for, each record with its ARN and the members ``shown``."""
    start = _start_of(parameters.get("NextToken"))
    end = start + parameters.get("MaxResults", DEFAULT_PAGE)
    answer: Parameters = {
        f"{kind.prefix}s": [
            {
                kind.arn_member: arn(region, kind.key, record[kind.name_member]),
                **{member: record[member] for member in shown},
            }
            for record in records[start:end]
        ]
    }
    if end < len(records):
        answer["NextToken"] = base64.urlsafe_b64encode(str(end).encode()).decode()
    return answer


def _start_of(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise ValidationException("Invalid pagination token.") from None
