"""From numbers to the text that Prometheus reads, worded by its official client.

The client takes some 10 µs for a line: a second for 1,000 models, each time. So it words each model's lines once, with
numbers that say which is which, and only the numbers are put in anew. Names, labels, escaping, the order of lines and
what stands around them are the client's, in each of the formats that it knows.
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

Row = tuple[tuple[tuple[str, str], ...], Any]  # a subject's labels, and the subject


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _Format:
    """One of the client's formats, and the lines that it has worded."""

    def __init__(self, encode: Callable[[Collector], bytes]) -> None:
        self._encode = encode
        self._heads: dict[str, str] = {}
        self._lines: dict[str, dict[Any, tuple[str, Callable[[Any], Any] | None]]] = {}
        self.end = _END if self._text(Metric("any", "", "gauge")).endswith(_END) else ""

    def _text(self, metric: Metric) -> str:
        return self._encode(_One(metric)).decode()

    def render(self, families: Sequence[Family[Any]], rows: Sequence[Row]) -> Iterator[str]:
        """The lines of each family, for each of the ``rows``; the families are those of one kind of subject."""
        for family in families:
            if family.name not in self._heads:
                empty = family.metric({}, [0] * family.size)
                empty.samples = []
                self._heads[family.name] = self._text(empty).removesuffix(self.end)
            yield self._heads[family.name]
            lines, values_of = self._lines.setdefault(family.name, {}), family.values
            for labels, subject in rows:
                line = lines.get(labels)
                if line is None:
                    line = lines[labels] = self._worded(family, dict(labels))
                template, order = line
                values = values_of(subject)
                yield template % (tuple(values) if order is None else order(values))

    def forget_all_but(self, families: Sequence[Family[Any]], rows: Sequence[Row]) -> None:
        """Drops lines of subjects that have gone, once they are as many as those that are left."""
        known = {labels for labels, _ in rows}
        for family in families:
            lines = self._lines.get(family.name, {})
            if len(lines) > 2 * len(known):
                for labels in lines.keys() - known:
                    del lines[labels]

    def _worded(self, family: Family[Any], labels: dict[str, str]) -> tuple[str, Callable[[Any], Any] | None]:
        """A subject's lines with a place for each number, and what puts its numbers into their order."""
        text = self._text(family.metric(labels, range(family.size))).removesuffix(self.end)
        lines, order = [], []
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            found = _NUMBER_AT_END.search(line)
            assert found is not None, line
            order.append(int(found[1]))
            lines.append(line[: found.start()].replace("%", "%%") + " %s\n")
        is_in_order = order == list(range(family.size))
        return "".join(lines), None if is_in_order else itemgetter(*order)


class Renderer:
    """``render`` for whoever accepts ``accept``."""

    def __init__(self) -> None:
        self._formats: dict[str, _Format] = {}

    def render(self, groups: Sequence[tuple[Sequence[Family[Any]], Sequence[Row]]], accept: str) -> tuple[bytes, str]:
        """The text, and its content type. ``groups``: families, and the subjects that they say something about."""
        encode, content_type = choose_encoder(accept)
        form = self._formats.get(content_type)
        if form is None:
            if len(self._formats) >= _MOST_FORMATS:
                self._formats.clear()
            form = self._formats[content_type] = _Format(encode)
        parts: list[str] = []
        for families, rows in groups:
            parts.extend(form.render(families, rows))
            form.forget_all_but(families, rows)
        return ("".join(parts) + form.end).encode(), content_type
