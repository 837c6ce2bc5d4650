"""The evaluator of policies: against recorded decisions of another one, and where that one has no say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local_endpoint.access.policies import Policies, PolicyError, Principal, Request, parse_policy
from tests.endpoint.access import cases

RECORDED: dict[str, str] = json.loads(Path(__file__).with_name("decisions.json").read_text())
ACCOUNT = cases.ACCOUNT


def principal(arn: str) -> Principal:
    return Principal(arn, ACCOUNT, cases.ROLE if arn == cases.SESSION else None)


def decide(case: dict[str, Any]) -> str:
    """In the words of the table."""

    def parsed(name: str) -> Any:
        return parse_policy(json.dumps(case[name])) if name in case else None

    context = {
        key.lower(): tuple(value) if isinstance(value, list) else value for key, value in case["context"].items()
    }
    policies = Policies(
        identity=tuple(parse_policy(json.dumps(each)) for each in case["identity"]),
        boundary=parsed("boundary"),
        session=parsed("session"),
        resource=parsed("resource_policy"),
    )
    decision = policies.decide(Request(case["action"], case["resource"], principal(case["principal"]), context))
    if decision.allowed:
        return "Allowed"
    return "ExplicitlyDenied" if decision.explicit else "ImplicitlyDenied"


def test_decides_as_recorded() -> None:
    made = cases.all_cases()
    assert {each["id"] for each in made} == set(RECORDED), "record the decisions again: see record_decisions.mjs"
    assert len(made) >= 900
    differing = [(each, RECORDED[each["id"]], decide(each)) for each in made if decide(each) != RECORDED[each["id"]]]
    shown = "\n".join(f"{json.dumps(each)}: recorded {theirs}, here {ours}" for each, theirs, ours in differing)
    assert not differing, f"{len(differing)} of {len(made)} cases differ:\n{shown}"


def test_each_decision_is_recorded_often() -> None:
    assert min(Counter(RECORDED.values()).values()) >= 100
    assert len(Counter(RECORDED.values())) == 3


def decision_of(
    statement: dict[str, Any], context: dict[str, str], version: str = "2012-10-17", resource: str = cases.ENDPOINT
) -> str:
    """On InvokeEndpoint, of one statement."""
    return decide(cases.case(cases.policy(statement, version=version), context=context, resource=resource))


def test_a_policy_can_choose_the_container() -> None:
    """The other evaluator does not know the key yet."""
    like = cases.allow(cases.INVOKE, Condition={"StringLike": {"sagemaker:TargetContainerHostname": "fir*"}})
    unlike = cases.allow(cases.INVOKE, Condition={"StringNotLike": {"sagemaker:TargetContainerHostname": "fir*"}})
    assert decision_of(like, {"sagemaker:TargetContainerHostname": "first"}) == "Allowed"
    assert decision_of(like, {"sagemaker:TargetContainerHostname": "second"}) == "ImplicitlyDenied"
    assert decision_of(like, {}) == "ImplicitlyDenied"
    assert decision_of(unlike, {"sagemaker:TargetContainerHostname": "first"}) == "ImplicitlyDenied"
    assert decision_of(unlike, {}) == "Allowed"


def test_variables_are_plain_text_in_an_old_policy() -> None:
    statement = cases.allow(cases.INVOKE, Condition={"StringLike": {"sagemaker:TargetModel": "${aws:username}/*"}})
    alices, literal = "alice/m", "${aws:username}/m"
    for version, target, wanted in (
        ("2012-10-17", alices, "Allowed"),
        ("2012-10-17", literal, "ImplicitlyDenied"),
        ("2008-10-17", alices, "ImplicitlyDenied"),
        ("2008-10-17", literal, "Allowed"),
    ):
        context = {"aws:username": "alice", "sagemaker:TargetModel": target}
        assert decision_of(statement, context, version) == wanted, (version, target)


def test_what_a_variable_stands_for_is_no_pattern() -> None:
    statement = cases.allow(cases.INVOKE, Condition={"StringLike": {"sagemaker:TargetModel": "${aws:userid}/*"}})
    assert decision_of(statement, {"aws:userid": "*", "sagemaker:TargetModel": "bob/m"}) == "ImplicitlyDenied"
    assert decision_of(statement, {"aws:userid": "*", "sagemaker:TargetModel": "*/m"}) == "Allowed"


def test_a_trust_policy_must_name_who_asks() -> None:
    """Otherwise no identity-based policy helps; the account leaves it to them."""
    for named, wanted in (
        (cases.ALICE, "Allowed"),
        (ACCOUNT, "Allowed"),
        (f"arn:aws:iam::{ACCOUNT}:user/bob", "ImplicitlyDenied"),
    ):
        trust = {"Effect": "Allow", "Principal": {"AWS": named}, "Action": "sts:AssumeRole"}
        policies = Policies(
            identity=(parse_policy(json.dumps(cases.policy(cases.allow()))),),
            resource=parse_policy(json.dumps(cases.policy(trust))),
            resource_decides=True,
        )
        request = Request("sts:AssumeRole", cases.ROLE, principal(cases.ALICE), {})
        assert policies.decide(request).allowed == (wanted == "Allowed"), named
        by_trust_alone = Policies(resource=policies.resource, resource_decides=True).decide(request).allowed
        assert by_trust_alone == (named == cases.ALICE), named


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not an object with a Statement"),
        ('{"Version": "2020-01-01", "Statement": []}', "Version '2020-01-01'"),
        ('{"Statement": [{"Effect": "allow", "Action": "*"}]}', "neither Allow nor Deny"),
        ('{"Statement": [{"Effect": "Allow"}]}', "Action is neither text nor a list"),
        ('{"Statement": [{"Effect": "Allow", "Action": "*", "NotAction": "*"}]}', "both Action and NotAction"),
        ('{"Statement": [{"Effect": "Allow", "Action": "*", "Condition": {"Like": {}}}]}', "Like is not a condition"),
        ('{"Statement": [{"Effect": "Allow", "Action": "*", "Condition": {"Some:Bool": {}}}]}', "ForAnyValue"),
        ('{"Statement": [{"Effect": "Allow", "Action": "*", "Principal": 1}]}', "Principal"),
    ],
)
def test_says_what_is_wrong_with_a_document(document: str, told: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(told)):
        parse_policy(document)
