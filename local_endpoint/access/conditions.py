"""The Condition element of a policy's statement: operators, and what a request without the key means to them.

A key that the request lacks   does not match; matches a negated operator, one with …IfExists, and ForAllValues
Several values in the policy   one of them must match; with a negated operator none may
Several values in the request  need ForAnyValue or ForAllValues
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from local_endpoint.access.patterns import Context, MissingVariable, arn_matches, matches, resolve

# Whether the request's value fits the policy's; None where one of them is not of the operator's type. May raise
# ``MissingVariable``.
Comparison = Callable[[str, str, "Context | None"], "bool | None"]
SET_OPERATORS = ("foranyvalue", "forallvalues")


@dataclass(frozen=True)
class Operator:
    """What stands before the key, taken apart."""

    compare: Comparison | None
    """None is ``Null``."""
    is_negated: bool
    if_exists: bool
    over: str | None
    """One of ``SET_OPERATORS``."""

    @classmethod
    def parse(cls, text: str) -> Operator:
        """Raises ``ValueError`` for one that IAM does not know."""
        over, colon, name = text.lower().rpartition(":")
        if colon and over not in SET_OPERATORS:
            raise ValueError(f"{text}: only ForAnyValue and ForAllValues come before an operator")
        base = name.removesuffix("ifexists")
        if base == "null":
            return cls(None, False, False, None)
        if base not in OPERATORS:
            raise ValueError(f"{text} is not a condition operator of IAM")
        compare, is_negated = OPERATORS[base]
        return cls(compare, is_negated, base != name, over or None)


@dataclass(frozen=True)
class Condition:
    """One operator on one key. ``values`` are the policy's; ``key`` is in lower case."""

    operator: Operator
    key: str
    values: tuple[str, ...]

    def holds(self, context: Context, variables: Context | None) -> bool:
        """``variables`` None takes them as plain text."""
        operator = self.operator
        value = context.get(self.key)
        if operator.compare is None:
            return ("false" if value is not None else "true") in [each.lower() for each in self.values]
        if operator.over is not None:
            if value is None:
                return operator.over == "forallvalues"
            several = (value,) if isinstance(value, str) else value
            quantify = any if operator.over == "foranyvalue" else all
            return quantify(self._fits(each, variables) for each in several)
        if value is None:
            return operator.is_negated or operator.if_exists
        return isinstance(value, str) and self._fits(value, variables)

    def _fits(self, value: str, variables: Context | None) -> bool:
        results = [self._compare(wanted, value, variables) for wanted in self.values]
        if self.operator.is_negated:
            return all(result is False for result in results)
        return any(results)

    def _compare(self, wanted: str, value: str, variables: Context | None) -> bool | None:
        assert self.operator.compare is not None
        try:
            return self.operator.compare(wanted, value, variables)
        except MissingVariable:
            return None


# ---- comparisons ----


def _string_equals(wanted: str, value: str, variables: Context | None) -> bool | None:
    return resolve(wanted, variables) == value


def _string_equals_ignoring_case(wanted: str, value: str, variables: Context | None) -> bool | None:
    return resolve(wanted, variables).lower() == value.lower()


def _string_like(wanted: str, value: str, variables: Context | None) -> bool | None:
    return matches(wanted, value, variables)


def _arn(wanted: str, value: str, variables: Context | None) -> bool | None:
    """ArnEquals and ArnLike are the same."""
    if value.count(":") < 5 or wanted.count(":") < 5:
        return None
    return arn_matches(wanted, value, variables)


def _bool(wanted: str, value: str, variables: Context | None) -> bool | None:
    wanted = resolve(wanted, variables).lower()
    return wanted == value.lower() if {wanted, value.lower()} <= {"true", "false"} else None


def _binary(wanted: str, value: str, _: Context | None) -> bool | None:
    try:
        return base64.b64decode(wanted, validate=True) == base64.b64decode(value, validate=True)
    except binascii.Error:
        return None


def _ip_address(wanted: str, value: str, _: Context | None) -> bool | None:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return None


def _numeric(compare: Callable[[float, float], bool]) -> Comparison:
    def comparison(wanted: str, value: str, _: Context | None) -> bool | None:
        try:
            return compare(float(value), float(wanted))
        except ValueError:
            return None

    return comparison


def _date(compare: Callable[[float, float], bool]) -> Comparison:
    def comparison(wanted: str, value: str, _: Context | None) -> bool | None:
        try:
            return compare(_seconds(value), _seconds(wanted))
        except ValueError:
            return None

    return comparison


def _seconds(text: str) -> float:
    """Since 1970: of an ISO 8601 time (UTC unless it says otherwise), or of such a number. Raises ``ValueError``."""
    try:
        return float(text)
    except ValueError:
        time = datetime.datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _orders(prefix: str, of: Callable[[Callable[[float, float], bool]], Comparison]) -> dict[str, Comparison]:
    return {
        f"{prefix}equals": of(lambda value, wanted: value == wanted),
        f"{prefix}lessthan": of(lambda value, wanted: value < wanted),
        f"{prefix}lessthanequals": of(lambda value, wanted: value <= wanted),
        f"{prefix}greaterthan": of(lambda value, wanted: value > wanted),
        f"{prefix}greaterthanequals": of(lambda value, wanted: value >= wanted),
    }


_POSITIVE: dict[str, Comparison] = {
    "stringequals": _string_equals,
    "stringequalsignorecase": _string_equals_ignoring_case,
    "stringlike": _string_like,
    "arnequals": _arn,
    "arnlike": _arn,
    "bool": _bool,
    "binaryequals": _binary,
    "ipaddress": _ip_address,
    **_orders("numeric", _numeric),
    **_orders("date", _date),
}
_NEGATED = {
    "stringnotequals": "stringequals",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "stringnotlike": "stringlike",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
    "notipaddress": "ipaddress",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
}
OPERATORS: dict[str, tuple[Comparison, bool]] = {
    **{name: (comparison, False) for name, comparison in _POSITIVE.items()},
    **{name: (_POSITIVE[positive], True) for name, positive in _NEGATED.items()},
}


def parse_conditions(element: object) -> Sequence[Condition]:
    """From a Condition element. Raises ``ValueError``."""
    if not isinstance(element, dict):
        raise ValueError("Condition is not an object")
    found = []
    for name, keys in element.items():
        operator = Operator.parse(name)
        if not isinstance(keys, dict):
            raise ValueError(f"Condition {name} is not an object")
        for key, values in keys.items():
            listed = values if isinstance(values, list) else [values]
            if any(isinstance(value, (dict, list)) or value is None for value in listed):
                raise ValueError(f"Condition {name} on {key} has a value that is no text, number or truth value")
            found.append(Condition(operator, key.lower(), tuple(_text(value) for value in listed)))
    return found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
