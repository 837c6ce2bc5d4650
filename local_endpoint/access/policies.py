"""Policies as IAM has them: parsed, and evaluated for one request. Pure: nothing here knows a server or a store.

    identity-based policies   of a user and its groups, or of a role: one of them must allow
    permissions boundary      of a user or role: must allow, too
    session policy            given to AssumeRole: must allow, too
    resource-based policy     of a bucket, or a role's trust policy: may allow by itself, where it names the principal

An explicit deny in any of them wins.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

from local_endpoint.access.conditions import Condition, parse_conditions
from local_endpoint.access.patterns import Context, MissingVariable, arn_matches, matches

VERSIONS = ("2012-10-17", "2008-10-17")
# Variables came with this version; in older policies, and those without one, they are plain text.
VERSION_WITH_VARIABLES = "2012-10-17"
ALL_RESOURCES = "*"


class PolicyError(ValueError):
    """A document is not a policy; the text says why."""


class Named(IntEnum):
    """How closely a resource-based policy names a principal."""

    NOT = 0
    BY_ACCOUNT = 1
    """Its account: leaves the decision to the account's own policies."""
    BY_ROLE = 2
    """The role of a session: what limits the session limits this, too."""
    ITSELF = 3
    """Its own ARN, or everyone."""


@dataclass(frozen=True)
class Principal:
    """Who asks. ``role_arn`` is that of an assumed role's session; ``arn`` is empty for an unsigned request."""

    arn: str
    account: str
    role_arn: str | None = None

    def named_by(self, listed: Sequence[str]) -> Named:
        """``listed`` are the ARNs, accounts and ``*`` of a Principal element."""
        if "*" in listed or (self.arn and self.arn in listed):
            return Named.ITSELF
        if self.role_arn is not None and self.role_arn in listed:
            return Named.BY_ROLE
        if self.account and {self.account, f"arn:aws:iam::{self.account}:root"} & set(listed):
            return Named.BY_ACCOUNT
        return Named.NOT


@dataclass(frozen=True)
class Request:
    """One action on one resource. ``context`` has the values of condition keys under lower-case names."""

    action: str
    resource: str
    principal: Principal
    context: Context


@dataclass(frozen=True)
class Statement:
    """One statement. A ``not_`` field says that the list before it names the exceptions."""

    allows: bool
    actions: tuple[str, ...]
    not_actions: bool
    resources: tuple[str, ...]
    not_resources: bool
    conditions: tuple[Condition, ...]
    principals: tuple[str, ...] | None
    """None in identity-based policies."""
    not_principals: bool

    def applies(self, request: Request, variables: Context | None) -> bool:
        """Whatever the principal."""
        return (
            any(matches(each, request.action, None, ignore_case=True) for each in self.actions) != self.not_actions
            and self._covers(request.resource, variables)
            and all(condition.holds(request.context, variables) for condition in self.conditions)
        )

    def _covers(self, resource: str, variables: Context | None) -> bool:
        """A pattern whose variable the request lacks covers nothing, and excepts everything."""
        for pattern in self.resources:
            try:
                if _resource_matches(pattern, resource, variables):
                    return not self.not_resources
            except MissingVariable:
                if self.not_resources:
                    return False
        return self.not_resources

    def names(self, principal: Principal) -> Named:
        if self.principals is None:
            return Named.ITSELF
        named = principal.named_by(self.principals)
        if self.not_principals:
            return Named.NOT if named > Named.BY_ACCOUNT else Named.ITSELF
        return named


@dataclass(frozen=True)
class Policy:
    """A policy document."""

    statements: tuple[Statement, ...]
    has_variables: bool

    def denies(self, request: Request) -> bool:
        variables = request.context if self.has_variables else None
        return any(
            not each.allows and each.names(request.principal) and each.applies(request, variables)
            for each in self.statements
        )

    def allows(self, request: Request) -> Named:
        """How closely the statements that allow it name the principal; ``NOT`` where none allows it."""
        variables = request.context if self.has_variables else None
        found = (
            each.names(request.principal)
            for each in self.statements
            if each.allows and each.applies(request, variables)
        )
        return max(found, default=Named.NOT)


class Source(Enum):
    """A kind of policy, as AWS's texts call it."""

    IDENTITY = "identity-based policy"
    BOUNDARY = "permissions boundary"
    SESSION = "session policy"
    RESOURCE = "resource-based policy"

    @property
    def with_article(self) -> str:
        return f"{'an' if self is Source.IDENTITY else 'a'} {self.value}"


@dataclass(frozen=True)
class Policies:
    """All that bear on one principal and one resource. ``boundary`` and ``session`` None do not limit anything."""

    identity: tuple[Policy, ...] = ()
    boundary: Policy | None = None
    session: Policy | None = None
    resource: Policy | None = None
    resource_decides: bool = field(default=False)
    """The resource must name the principal or its account (a role's trust policy)."""

    def decide(self, request: Request) -> Decision:
        """The only question that this module answers."""
        for source, policy in self._with_sources():
            if policy.denies(request):
                return Decision(False, source, explicit=True)
        by_resource = self.resource.allows(request) if self.resource is not None else Named.NOT
        if by_resource is Named.ITSELF:
            return Decision(True, Source.RESOURCE)
        if by_resource is Named.NOT and self.resource_decides:
            return Decision(False, Source.RESOURCE)
        if by_resource is not Named.BY_ROLE and not any(policy.allows(request) for policy in self.identity):
            return Decision(False, Source.IDENTITY)
        if self.boundary is not None and not self.boundary.allows(request):
            return Decision(False, Source.BOUNDARY)
        if self.session is not None and not self.session.allows(request):
            return Decision(False, Source.SESSION)
        return Decision(True, Source.IDENTITY)

    def _with_sources(self) -> list[tuple[Source, Policy]]:
        found = [(Source.IDENTITY, policy) for policy in self.identity]
        limits = ((Source.RESOURCE, self.resource), (Source.BOUNDARY, self.boundary), (Source.SESSION, self.session))
        return found + [(source, policy) for source, policy in limits if policy is not None]


@dataclass(frozen=True)
class Decision:
    """Allowed or not, and which kind of policy decided it."""

    allowed: bool
    source: Source
    explicit: bool = False

    def reason(self, action: str) -> str:
        """Why it was denied, in AWS's words."""
        if self.explicit:
            return f"with an explicit deny in {self.source.with_article}"
        return f"because no {self.source.value} allows the {action} action"


# ---- documents ----


@functools.lru_cache(4096)
def parse_policy(document: str) -> Policy:
    """Raises ``PolicyError``. A principal is needed in resource-based policies only: it is read where it is given."""
    try:
        policy = json.loads(document)
    except ValueError as error:
        raise PolicyError(f"The policy is not JSON: {error}") from None
    if not isinstance(policy, dict) or "Statement" not in policy:
        raise PolicyError("The policy is not an object with a Statement")
    version = policy.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise PolicyError(f"Version {version!r} is none of {', '.join(VERSIONS)}")
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    return Policy(tuple(_statement(each) for each in statements), version == VERSION_WITH_VARIABLES)


def _statement(element: Any) -> Statement:
    if not isinstance(element, dict):
        raise PolicyError("A statement is not an object")
    if element.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"Effect {element.get('Effect')!r} is neither Allow nor Deny")
    actions, not_actions = _one_of(element, "Action", "NotAction", None)
    # a trust policy has no resource: it is about its role
    resources, not_resources = _one_of(element, "Resource", "NotResource", ALL_RESOURCES)
    try:
        conditions = tuple(parse_conditions(element.get("Condition", {})))
    except ValueError as error:
        raise PolicyError(str(error)) from None
    has_principal = "Principal" in element or "NotPrincipal" in element
    return Statement(
        allows=element["Effect"] == "Allow",
        actions=actions,
        not_actions=not_actions,
        resources=resources,
        not_resources=not_resources,
        conditions=conditions,
        principals=_principals(element.get("Principal", element.get("NotPrincipal"))) if has_principal else None,
        not_principals="NotPrincipal" in element,
    )


def _one_of(element: dict[str, Any], name: str, not_name: str, default: str | None) -> tuple[tuple[str, ...], bool]:
    if name in element and not_name in element:
        raise PolicyError(f"A statement has both {name} and {not_name}")
    found = element.get(name, element.get(not_name, default))
    listed = found if isinstance(found, list) else [found]
    if not all(isinstance(each, str) for each in listed):
        raise PolicyError(f"{name} is neither text nor a list of texts")
    return tuple(listed), not_name in element


def _principals(element: Any) -> tuple[str, ...]:
    """Services and identity providers among them: their names are no ARN of a user or role."""
    if isinstance(element, str):
        return (element,)
    if not isinstance(element, dict):
        raise PolicyError("Principal is neither * nor an object")
    found: list[str] = []
    for kind, listed in element.items():
        names = listed if isinstance(listed, list) else [listed]
        found += [name if kind == "AWS" else f"{kind}:{name}" for name in names]
    return tuple(found)


def _resource_matches(pattern: str, resource: str, variables: Context | None) -> bool:
    """``*`` as the resource is an action that knows no resources: no ARN covers it."""
    if pattern == ALL_RESOURCES:
        return True
    return resource != ALL_RESOURCES and arn_matches(pattern, resource, variables)
