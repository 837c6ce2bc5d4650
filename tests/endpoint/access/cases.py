"""Cases of policy evaluation, made by rule and by a seeded generator. Prints them as JSON for ``record_decisions.mjs``.

A case has what a decision depends on: principal, action, resource, values of condition keys, and the policies.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

ACCOUNT = "123456789012"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/scorer"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/scorer/night"
ENDPOINT = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/digits"
OBJECT = "arn:aws:s3:::models/company_a/m.tar.gz"
BUCKET = "arn:aws:s3:::models"
INVOKE = "sagemaker:InvokeEndpoint"
GET = "s3:GetObject"

Case = dict[str, Any]
Statement = dict[str, Any]


def policy(*statements: Statement, version: str = "2012-10-17") -> dict[str, Any]:
    return {"Version": version, "Statement": list(statements)}


def allow(action: Any = "*", resource: Any = "*", **more: Any) -> Statement:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any = "*", resource: Any = "*", **more: Any) -> Statement:
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


def case(
    *identity: dict[str, Any],
    action: str = INVOKE,
    resource: str = ENDPOINT,
    principal: str = ALICE,
    context: dict[str, Any] | None = None,
    **policies: Any,
) -> Case:
    """``policies`` are boundary, session, resource_policy."""
    return {
        "principal": principal,
        "action": action,
        "resource": resource,
        "context": context or {},
        "identity": list(identity),
        **policies,
    }


def actions() -> Iterator[Case]:
    patterns = ["*", "sagemaker:*", "sagemaker:Invoke*", "SageMaker:invokeendpoint", "sagemaker:InvokeEndpoin?",
                "sagemaker:InvokeEndpoint?", "s3:*", "sagemaker:Describe*", ["s3:GetObject", "sagemaker:Invoke*"],
                "sagemaker:*Endpoint", "sagemaker:*End*int"]  # fmt: skip
    for pattern in patterns:
        yield case(policy(allow(pattern)))
        yield case(policy(allow(), deny(pattern)))
        yield case(policy({"Effect": "Allow", "NotAction": pattern, "Resource": "*"}))
        yield case(policy(allow(), {"Effect": "Deny", "NotAction": pattern, "Resource": "*"}))


def resources() -> Iterator[Case]:
    start = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:"
    patterns = ["*", ENDPOINT, f"{start}endpoint/*", f"{start}endpoint/dig?ts", f"{start}endpoint/DIGITS",
                "arn:aws:sagemaker:*:*:endpoint/digits", f"arn:aws:sagemaker:eu-*:{ACCOUNT}:endpoint/*",
                f"{start}endpoint/other", f"{start}model/*", [f"{start}model/*", ENDPOINT],
                f"{start}endpoint/${{aws:username}}", f"{start}endpoint/d*s*", f"{start}*"]  # fmt: skip
    for pattern in patterns:
        yield case(policy(allow(INVOKE, pattern)))
        yield case(policy(allow(), deny(INVOKE, pattern)))
        yield case(policy({"Effect": "Allow", "Action": INVOKE, "NotResource": pattern}))
        yield case(policy(allow(), {"Effect": "Deny", "Action": INVOKE, "NotResource": pattern}))
    for pattern in ("arn:aws:s3:::models/*", "arn:aws:s3:::models", "arn:aws:s3:::*", "arn:aws:s3:::models/company_b/*",
                    "arn:aws:s3:::models/company_?/*", "arn:aws:s3:::mod*", "arn:aws:s3:::models/${aws:username}/*",
                    "arn:aws:s3:::models/company_a/m.tar.gz*", "arn:aws:s3:::models/company_a/m${*}"):  # fmt: skip
        yield case(policy(allow("s3:*", pattern)), action=GET, resource=OBJECT, context={"aws:username": "company_a"})
        yield case(policy(allow("s3:*", pattern)), action="s3:ListBucket", resource=BUCKET)
        yield case(policy(allow(), deny("s3:*", pattern)), action=GET, resource=OBJECT)
    for pattern in ("*", ENDPOINT, f"{start}endpoint/*"):
        yield case(policy(allow("sagemaker:ListEndpoints", pattern)), action="sagemaker:ListEndpoints", resource="*")


# operator, the policy's values, the key, values that a request may have
TESTS: list[tuple[str, list[Any], str, list[Any]]] = [
    ("StringEquals", ["a.tar.gz", "b.tar.gz"], "sagemaker:TargetModel", ["a.tar.gz", "A.tar.gz", "c"]),
    ("StringEquals", ["a*"], "sagemaker:TargetModel", ["a*", "ab"]),
    ("StringNotEquals", ["a.tar.gz", "b.tar.gz"], "sagemaker:TargetModel", ["a.tar.gz", "A.tar.gz", "c"]),
    ("StringEqualsIgnoreCase", ["A.tar.gz"], "sagemaker:TargetModel", ["a.TAR.gz", "b"]),
    ("StringNotEqualsIgnoreCase", ["A.tar.gz"], "sagemaker:TargetModel", ["a.TAR.gz", "b"]),
    ("StringLike", ["company_a/*", "shared/?.tar.gz"], "sagemaker:TargetModel",
     ["company_a/x/y", "company_b/x", "shared/1.tar.gz", "shared/12.tar.gz"]),
    ("StringNotLike", ["company_a/*"], "sagemaker:TargetModel", ["company_a/x", "company_b/x"]),
    ("StringLike", ["${aws:username}/*"], "sagemaker:TargetModel", ["alice/x", "bob/x"]),
    ("StringLike", ["${aws:PrincipalTag/team, 'none'}/*"], "sagemaker:TargetModel", ["none/x", "red/x"]),
    ("StringLike", ["${aws:PrincipalTag/team}/*"], "sagemaker:TargetModel", ["red/x", "/x"]),
    ("StringLike", ["first", "fi?st*"], "aws:userid", ["first", "second"]),
    ("StringNotEquals", ["first"], "aws:userid", ["first", "second"]),
    ("ArnEquals", [ALICE], "aws:PrincipalArn", [ALICE, ROLE]),
    ("ArnLike", [f"arn:aws:iam::{ACCOUNT}:user/*"], "aws:PrincipalArn", [ALICE, ROLE]),
    ("ArnLike", ["arn:aws:iam::*:user/a?ice"], "aws:PrincipalArn", [ALICE]),
    ("ArnNotLike", [f"arn:aws:iam::{ACCOUNT}:user/*"], "aws:PrincipalArn", [ALICE, ROLE]),
    ("ArnNotEquals", [ALICE], "aws:PrincipalArn", [ALICE, ROLE]),
    ("NumericEquals", [3], "aws:MultiFactorAuthAge", ["3", "3.0", "4"]),
    ("NumericNotEquals", [3], "aws:MultiFactorAuthAge", ["3", "4"]),
    ("NumericLessThan", [300], "aws:MultiFactorAuthAge", ["299", "300", "301"]),
    ("NumericLessThanEquals", [300], "aws:MultiFactorAuthAge", ["299", "300", "301"]),
    ("NumericGreaterThan", [300], "aws:MultiFactorAuthAge", ["299", "300", "301"]),
    ("NumericGreaterThanEquals", [300], "aws:MultiFactorAuthAge", ["299", "300", "301"]),
    ("DateEquals", ["2026-01-01T00:00:00Z"], "aws:CurrentTime", ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    ("DateNotEquals", ["2026-01-01T00:00:00Z"], "aws:CurrentTime", ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    ("DateLessThan", ["2026-06-01T00:00:00Z"], "aws:CurrentTime", ["2026-05-31T23:59:59Z", "2026-06-01T00:00:00Z"]),
    ("DateLessThanEquals", ["2026-06-01T00:00:00Z"], "aws:CurrentTime",
     ["2026-06-01T00:00:00Z", "2026-06-01T00:00:01Z"]),
    ("DateGreaterThan", ["2026-06-01T00:00:00Z"], "aws:CurrentTime", ["2026-05-31T23:59:59Z", "2026-06-01T00:00:01Z"]),
    ("DateGreaterThanEquals", ["2026-06-01T00:00:00Z"], "aws:CurrentTime",
     ["2026-06-01T00:00:00Z", "2026-05-31T23:59:59Z"]),
    ("Bool", ["true"], "aws:SecureTransport", ["true", "false"]),
    ("Bool", [False], "aws:SecureTransport", ["true", "false"]),
    ("IpAddress", ["10.0.0.0/8", "192.168.1.7"], "aws:SourceIp", ["10.9.8.7", "11.0.0.1", "192.168.1.7"]),
    ("NotIpAddress", ["10.0.0.0/8"], "aws:SourceIp", ["10.9.8.7", "11.0.0.1"]),
    ("IpAddress", ["2001:db8::/32"], "aws:SourceIp", ["2001:db8::1", "2001:db9::1"]),
    ("Null", ["true"], "sagemaker:TargetModel", ["a.tar.gz"]),
    ("Null", [False], "sagemaker:TargetModel", ["a.tar.gz"]),
]  # fmt: skip


def operators() -> Iterator[Case]:
    """Each operator for each value, and without the key; with IfExists, too; in Allow and in Deny."""
    context = {"aws:username": "alice"}
    for operator, wanted, key, values in TESTS:
        names = [operator] if operator == "Null" else [operator, f"{operator}IfExists"]
        for name, value in itertools.product(names, [*values, None]):
            given = context if value is None else {**context, key: value}
            condition = {name: {key: wanted if len(wanted) > 1 else wanted[0]}}
            yield case(policy(allow(INVOKE, Condition=condition)), context=given)
            if value is None or value == values[0]:
                yield case(policy(allow(), deny(INVOKE, Condition=condition)), context=given)


def sets() -> Iterator[Case]:
    for over, operator in itertools.product(
        ("ForAnyValue", "ForAllValues"), ("StringEquals", "StringLike", "StringNotEquals", "StringNotLike")
    ):
        for given in (None, ["team"], ["team", "stage"], ["other"], ["team", "other"], ["other", "more"]):
            condition = {f"{over}:{operator}": {"aws:TagKeys": ["team", "sta*", "stage"]}}
            context = {} if given is None else {"aws:TagKeys": given}
            resource = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model/m"
            yield case(
                policy(allow("sagemaker:*", Condition=condition)),
                action="sagemaker:CreateModel", resource=resource, context=context,
            )  # fmt: skip
            yield case(
                policy(allow(), deny("sagemaker:*", Condition=condition)),
                action="sagemaker:CreateModel", resource=resource, context=context,
            )  # fmt: skip


def several_conditions() -> Iterator[Case]:
    both = {"StringLike": {"sagemaker:TargetModel": "a/*"}, "Bool": {"aws:SecureTransport": "true"}}
    one_operator = {"StringEquals": {"sagemaker:TargetModel": "a/1", "aws:username": "alice"}}
    for target, secure in itertools.product(("a/1", "b/1", None), ("true", "false", None)):
        context = {
            key: value
            for key, value in (
                ("sagemaker:TargetModel", target), ("aws:SecureTransport", secure), ("aws:username", "alice"),
            )
            if value is not None
        }  # fmt: skip
        yield case(policy(allow(INVOKE, Condition=both)), context=context)
        yield case(policy(allow(), deny(INVOKE, Condition=both)), context=context)
        yield case(policy(allow(INVOKE, Condition=one_operator)), context=context)


def kinds_of_policies() -> Iterator[Case]:
    """Identity, boundary, session and resource-based policies, each absent, allowing, denying or silent."""
    choices = {
        "allow": policy(allow("s3:*")),
        "deny": policy(allow("s3:*"), deny(GET)),
        "silent": policy(allow("s3:PutObject")),
    }
    some: list[str] = list(choices)
    for identity, boundary, session in itertools.product(some, ["", *some], ["", *some]):
        yield case(
            choices[identity],
            action=GET,
            resource=OBJECT,
            principal=SESSION if session else ALICE,
            **({"boundary": choices[boundary]} if boundary else {}),
            **({"session": choices[session]} if session else {}),
        )
    named = ["*", ALICE, ROLE, SESSION, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{ACCOUNT}:user/bob"]
    for principal, who in itertools.product((ALICE, SESSION), named):
        for effect, identity in itertools.product(("Allow", "Deny"), ("allow", "silent", "deny")):
            statement = {"Effect": effect, "Principal": {"AWS": who}, "Action": GET, "Resource": f"{BUCKET}/*"}
            yield case(
                choices[identity], action=GET, resource=OBJECT, principal=principal, resource_policy=policy(statement)
            )
        statement = {"Effect": "Allow", "Principal": {"AWS": who}, "Action": GET, "Resource": f"{BUCKET}/*"}
        yield case(
            choices["silent"], action=GET, resource=OBJECT, principal=principal,
            resource_policy=policy(statement), boundary=choices["silent"],
        )  # fmt: skip


def at_random(count: int, seed: int = 11) -> Iterator[Case]:
    """Policies of one to four statements from small vocabularies, so that they often meet the request."""
    chance = random.Random(seed)

    def condition() -> dict[str, Any]:
        operator, wanted, key, _ = chance.choice([test for test in TESTS if test[2] in KEYS])
        prefix = chance.choice(["", "", "", "ForAnyValue:", "ForAllValues:"]) if operator != "Null" else ""
        suffix = chance.choice(["", "", "IfExists"]) if operator != "Null" else ""
        return {f"{prefix}{operator}{suffix}": {key: chance.sample(wanted, chance.randint(1, len(wanted)))}}

    def statement() -> Statement:
        made: Statement = {"Effect": chance.choice(["Allow", "Allow", "Allow", "Deny"])}
        action = chance.choice(["*", "sagemaker:*", INVOKE, "sagemaker:Invoke*", "sagemaker:Describe*", "s3:*"])
        made["NotAction" if chance.random() < 0.2 else "Action"] = action
        start = f"arn:aws:sagemaker:*:{ACCOUNT}:endpoint/"
        resource = chance.choice(["*", "*", ENDPOINT, f"{start}*", f"{start}d?g*", f"{start}other"])
        made["NotResource" if chance.random() < 0.2 and resource != "*" else "Resource"] = resource
        if chance.random() < 0.6:
            made["Condition"] = condition()
        return made

    def document() -> dict[str, Any]:
        return policy(*[statement() for _ in range(chance.randint(1, 4))])

    for _ in range(count):
        context: dict[str, Any] = {"aws:username": "alice"}
        for key, values in KEYS.items():
            if chance.random() < 0.7:
                context[key] = chance.choice(values)
        more: dict[str, Any] = {name: document() for name in ("boundary", "session") if chance.random() < 0.15}
        yield case(
            *[document() for _ in range(chance.randint(1, 3))],
            principal=SESSION if "session" in more else ALICE,
            context=context,
            **more,
        )


KEYS = {
    "sagemaker:TargetModel": ["a.tar.gz", "company_a/x", "alice/x", "shared/1.tar.gz"],
    "aws:userid": ["first", "second"],
    "aws:PrincipalArn": [ALICE],
    "aws:SourceIp": ["10.9.8.7", "127.0.0.1"],
    "aws:SecureTransport": ["true", "false"],
    "aws:CurrentTime": ["2026-01-01T00:00:00Z", "2026-06-01T00:00:01Z"],
}


def all_cases() -> list[Case]:
    """In a fixed order, each once. Its ``id`` is a digest of all the rest: it changes with the case."""
    makers = (actions, resources, operators, sets, several_conditions, kinds_of_policies)
    made = [*itertools.chain.from_iterable(maker() for maker in makers), *at_random(250)]
    by_id = {hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()[:12]: each for each in made}
    return [{"id": its_id, **each} for its_id, each in by_id.items()]


if __name__ == "__main__":
    print(json.dumps(all_cases()))
