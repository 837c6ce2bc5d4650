"""Patterns of policies: ``*``, ``?`` and ``${variables}`` in actions, resources and the values of conditions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping

# What a request is known by: the values of condition keys, under their lower-case names.
Context = Mapping[str, "str | tuple[str, ...]"]

ARN_SEGMENTS = 6
_TOKEN = re.compile(r"\$\{(?P<variable>[^}]*)\}|(?P<wildcard>[*?])")
_DEFAULT = re.compile(r"(?P<name>[^,]+), '(?P<default>.*)'")
_SEGMENT = re.compile(r"(?:\$\{[^}]*\}|[^:])*")
_WILDCARDS = {"*": ".*", "?": "."}


class MissingVariable(Exception):
    """The request lacks the key that a variable names, or has several values of it."""


def matches(pattern: str, text: str, context: Context | None, *, ignore_case: bool = False) -> bool:
    """Whether the whole of ``text`` matches. Raises ``MissingVariable``.

    ``context`` None takes variables as plain text (a policy of 2008).
    """
    if "${" not in pattern or context is None:
        return _compiled(pattern, ignore_case).fullmatch(text) is not None
    return re.fullmatch(_source(pattern, context), text, _flags(ignore_case)) is not None


def resolve(text: str, context: Context | None) -> str:
    """``text`` with its variables replaced, where wildcards mean nothing. Raises ``MissingVariable``."""
    if "${" not in text or context is None:
        return text
    return _TOKEN.sub(lambda token: token[0] if token["wildcard"] else _value(token["variable"], context), text)


def arn_matches(pattern: str, arn: str, context: Context | None) -> bool:
    """Segment by segment: a wildcard never reaches over a colon, but in the last one. Missing segments are ``*``.

    Raises ``MissingVariable``.
    """
    wanted = list(_segments(pattern))
    given = arn.split(":", ARN_SEGMENTS - 1)
    if len(given) < ARN_SEGMENTS:
        return False
    wanted += ["*"] * (ARN_SEGMENTS - len(wanted))
    # every one, so that a missing variable is noticed wherever it is
    segments = [matches(one, other, context) for one, other in zip(wanted, given, strict=True)]
    return all(segments)


@functools.lru_cache(4096)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    source = "".join(_WILDCARDS.get(character) or re.escape(character) for character in pattern)
    return re.compile(source, _flags(ignore_case))


def _flags(ignore_case: bool) -> int:
    return re.DOTALL | (re.IGNORECASE if ignore_case else 0)


def _source(pattern: str, context: Context) -> str:
    """A regular expression. What a variable stands for is plain text, wildcards in it included."""
    parts, position = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[position : token.start()]))
        if token["wildcard"]:
            parts.append(_WILDCARDS[token["wildcard"]])
        else:
            parts.append(re.escape(_value(token["variable"], context)))
        position = token.end()
    return "".join([*parts, re.escape(pattern[position:])])


def _value(variable: str, context: Context) -> str:
    if variable in ("*", "?", "$"):
        return variable
    with_default = _DEFAULT.fullmatch(variable)
    name = with_default["name"] if with_default else variable
    value = context.get(name.strip().lower())
    if isinstance(value, str) and value:
        return value
    if with_default:
        return with_default["default"]
    raise MissingVariable(name)


def _segments(pattern: str) -> Iterator[str]:
    """Parts between colons, those in variables apart; the last has all that is left."""
    position = 0
    for _ in range(ARN_SEGMENTS - 1):
        match = _SEGMENT.match(pattern, position)
        assert match is not None  # it may be empty
        yield match[0]
        position = match.end() + 1
        if position > len(pattern):
            return
    yield pattern[position:]
