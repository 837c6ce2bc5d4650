"""From numbers to the text that Prometheus reads, worded by its official client.

The client takes some 10 µs for a line: a second for 1,000 models, each time. So it words each model's lines once, with
numbers that say which is which, and only the numbers are put in anew; those of a model that has changed. Names, labels,
escaping, the order of lines and what stands around them are the client's, in each of the formats that it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mme.metrics.families import Family

_NUMBER_AT_END = re.compile(r" ([0-9]+)\.0$")
_MOST_FORMATS = 4  # that are kept at once
_END = "# EOF\n"
_NEXT_FAMILY = "\0"  # in the lines of one subject

Labels = tuple[tuple[str, str], ...]
Row = tuple[Labels, Any]  # a subject's labels, and the subject


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _Group:
    """Families that say something about the same subjects, in one of the client's formats."""

    def __init__(self, families: Sequence[Family[Any]], encode: Callable[[Collector], bytes]) -> None:
        self._families = families
        self._encode = encode
        self._end = _end_of(encode)
        self._heads = [self._head(family) for family in families]
        # What puts a family's numbers into the order of its lines; None: they are in it.
        self._orders = [self._worded(family, {})[1] for family in families]
        self._templates: dict[Labels, str] = {}
        self._last: dict[Labels, tuple[Any, list[str]]] = {}  # a subject, and its lines of each family

    def render(self, rows: Sequence[Row]) -> Iterator[str]:
        """The lines of each family, for each of the ``rows``."""
        sources = list(zip((family.values for family in self._families), self._orders, strict=True))
        texts = []
        for labels, subject in rows:
            last = self._last.get(labels)
            if last is not None and last[0] == subject:
                texts.append(last[1])
                continue
            template = self._templates.get(labels) or self._template(labels)
            numbers: list[float] = []
            for values_of, order in sources:
                values = values_of(subject)
                numbers.extend(values if order is None else order(values))
            texts.append((template % tuple(numbers)).split(_NEXT_FAMILY))
            self._last[labels] = subject, texts[-1]
        self._forget_all_but(rows)
        for at, head in enumerate(self._heads):
            yield head
            yield from [text[at] for text in texts]

    def _forget_all_but(self, rows: Sequence[Row]) -> None:
        """Drops the lines of subjects that have gone, once they are as many as those that are left."""
        if len(self._templates) > 2 * len(rows):
            for labels in self._templates.keys() - {labels for labels, _ in rows}:
                del self._templates[labels], self._last[labels]

    def _text(self, metric: Metric) -> str:
        return self._encode(_One(metric)).decode().removesuffix(self._end)

    def _head(self, family: Family[Any]) -> str:
        empty = family.metric({}, [0] * family.size)
        empty.samples = []
        return self._text(empty)

    def _template(self, labels: Labels) -> str:
        """A subject's lines of all families, with a place for each number."""
        # (a name has no such character; a header of a request may)
        given = {name: value.replace(_NEXT_FAMILY, "\N{REPLACEMENT CHARACTER}") for name, value in labels}
        template = _NEXT_FAMILY.join(self._worded(family, given)[0] for family in self._families)
        self._templates[labels] = template
        return template

    def _worded(self, family: Family[Any], labels: dict[str, str]) -> tuple[str, Callable[[Any], Any] | None]:
        text = self._text(family.metric(labels, range(family.size)))
        lines, order = [], []
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            found = _NUMBER_AT_END.search(line)
            assert found is not None, line
            order.append(int(found[1]))
            lines.append(line[: found.start()].replace("%", "%%") + " %s\n")
        return "".join(lines), None if order == list(range(family.size)) else itemgetter(*order)


def _end_of(encode: Callable[[Collector], bytes]) -> str:
    """What ends a text in this format."""
    return _END if encode(_One(Metric("any", "", "gauge"))).decode().endswith(_END) else ""


class Renderer:
    """Words ``groups``: families that say something about the same subjects."""

    def __init__(self, *groups: Sequence[Family[Any]]) -> None:
        self._groups = groups
        self._formats: dict[str, list[_Group]] = {}  # by content type

    def render(self, rows: Sequence[Sequence[Row]], accept: str) -> tuple[bytes, str]:
        """The text for who accepts ``accept``, and its content type. ``rows``: the subjects of each group."""
        encode, content_type = choose_encoder(accept)
        if content_type not in self._formats:
            if len(self._formats) >= _MOST_FORMATS:
                self._formats.clear()
            self._formats[content_type] = [_Group(families, encode) for families in self._groups]
        parts: list[str] = []
        for group, of_group in zip(self._formats[content_type], rows, strict=True):
            parts.extend(group.render(of_group))
        parts.append(_end_of(encode))
        return "".join(parts).encode(), content_type
