"""Who is who: the root user, and the users, roles, sessions and keys that IAM and STS (moto's) hold."""

from __future__ import annotations

import datetime
import json
import logging
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.sts.models import sts_backends

from local_endpoint.access.policies import Policy, PolicyError, Principal, parse_policy
from local_endpoint.configuration import ACCOUNT, RootKey

logger = logging.getLogger(__name__)

ROOT_ARN = f"arn:aws:iam::{ACCOUNT}:root"
# What takes the place of a policy that cannot be understood: nothing is allowed by mistake.
DENY_ALL = parse_policy('{"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*", "Principal": "*"}}')
_KEY_CHARACTERS = string.ascii_uppercase + "234567"
_SECRET_CHARACTERS = string.ascii_letters + string.digits + "+/"


@dataclass(frozen=True)
class Identity:
    """A principal and the policies that it brings. ``values`` are of condition keys, under lower-case names."""

    principal: Principal
    is_root: bool = False
    policies: tuple[Policy, ...] = ()
    boundary: Policy | None = None
    session: Policy | None = None
    values: dict[str, str] = field(default_factory=dict)


ROOT = Identity(Principal(ROOT_ARN, ACCOUNT), is_root=True)
ANYONE = Identity(Principal("", ""), values={"aws:principaltype": "Anonymous"})


@dataclass(frozen=True)
class Key:
    """An access key. ``token`` and ``expires`` are None where it is of long term."""

    secret: str
    token: str | None
    expires: datetime.datetime | None
    holder: Any
    """What ``Directory.identity`` makes an identity of."""


def random_root_key() -> RootKey:
    """In AWS's form."""
    return RootKey(
        "AKIA" + "".join(secrets.choice(_KEY_CHARACTERS) for _ in range(16)),
        "".join(secrets.choice(_SECRET_CHARACTERS) for _ in range(40)),
    )


class Directory:
    """Looks everything up at the moment that it is asked: a policy that is changed holds for the next request."""

    def __init__(self, root_key: RootKey) -> None:
        self._root_key = root_key
        # moto keeps boundaries of roles, but none of users; by the user's name
        self.user_boundaries: dict[str, str] = {}

    @property
    def _iam(self) -> Any:
        return iam_backends[ACCOUNT]["aws"]

    def key(self, access_key: str) -> Key | None:
        """None where there is no such key, or an inactive one."""
        if access_key == self._root_key.access_key:
            return Key(self._root_key.secret, None, None, None)
        found = self._iam.access_keys.get(access_key)
        if found is not None and found.user_name in self._iam.users:
            user = self._iam.users[found.user_name]
            is_active = found.status == "Active" and found in list(user.access_keys)
            return Key(found.secret_access_key, None, None, user) if is_active else None
        for session in list(sts_backends[ACCOUNT]["aws"].assumed_roles):
            if session.access_key_id == access_key:
                return Key(session.secret_access_key, session.session_token, session.expiration, session)
        return None

    def identity(self, key: Key) -> Identity:
        """Whose key it is."""
        if key.holder is None:
            return ROOT
        return self._session(key.holder) if key.token is not None else self._user(key.holder)

    def _user(self, user: Any) -> Identity:
        groups = [group for group in list(self._iam.groups.values()) if user in list(group.users)]
        policies = [policy for holder in (user, *groups) for policy in _policies_of(holder)]
        values = {"aws:username": user.name, "aws:userid": user.id, "aws:principaltype": "User"}
        return Identity(
            Principal(user.arn, ACCOUNT),
            policies=tuple(policies),
            boundary=self._boundary(self.user_boundaries.get(user.name)),
            values=values | _tag_values(user.tags or []) | _principal_values(user.arn),
        )

    def _session(self, session: Any) -> Identity:
        role = self.role(session.role_arn)
        issued = session.access_key.create_date
        values = {
            "aws:userid": session.user_id,
            "aws:principaltype": "AssumedRole",
            "aws:multifactorauthpresent": "false",
            "aws:tokenissuetime": issued.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        own = Identity(Principal(session.arn, ACCOUNT, session.role_arn)) if role is None else self._of_role(role)
        return Identity(
            Principal(session.arn, ACCOUNT, session.role_arn),
            policies=own.policies,
            boundary=own.boundary,
            session=_parsed(session.policy, session.arn) if session.policy else None,
            values=own.values | values | _principal_values(session.role_arn),
        )

    def user_exists(self, name: str) -> bool:
        return name in self._iam.users

    def iam_arn(self, kind: str, name: str) -> str | None:
        """Of a user, group, role or instance profile, with its path; None where there is none."""
        holders = {
            "user": self._iam.users,
            "group": self._iam.groups,
            "role": self._iam.roles,
            "instance-profile": self._iam.instance_profiles,
        }[kind]
        return next((each.arn for each in list(holders.values()) if each.name == name), None)

    # ---- roles ----

    def role(self, arn: str) -> Any:
        """moto's role, or None."""
        return next((role for role in list(self._iam.roles.values()) if role.arn == arn), None)

    def execution_role(self, arn: str) -> Identity | None:
        """The role as SageMaker has it when it assumed it; None if there is none of this ARN."""
        role = self.role(arn)
        if role is None:
            return None
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role.name}/SageMaker"
        own = self._of_role(role)
        return Identity(Principal(session, ACCOUNT, arn), False, own.policies, own.boundary, None, own.values)

    def _of_role(self, role: Any) -> Identity:
        return Identity(
            Principal(role.arn, ACCOUNT, role.arn),
            policies=tuple(_policies_of(role)),
            boundary=self._boundary(role.permissions_boundary_arn),
            values=_tag_values(role.tags or []) | _principal_values(role.arn),
        )

    def trust_policy(self, arn: str) -> Policy | None:
        """Who may assume the role; None where there is none of this ARN."""
        role = self.role(arn)
        return _parsed(role.assume_role_policy_document, arn) if role is not None else None

    def _boundary(self, arn: str | None) -> Policy | None:
        if not arn:
            return None
        policy = self._iam.managed_policies.get(arn)
        # a boundary that is not there allows nothing
        return _managed(policy) if policy is not None else DENY_ALL

    # ---- buckets ----

    @staticmethod
    def bucket_policy(bucket: str) -> Policy | None:
        found = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
        if found is None or not found.policy:
            return None
        return _parsed(found.policy, f"bucket {bucket}")


def _policies_of(holder: Any) -> Iterable[Policy]:
    """Inline and managed ones of a user, group or role of moto's."""
    for name, document in list(holder.policies.items()):
        yield _parsed(document, f"{holder.arn}: {name}")
    for policy in list(holder.managed_policies.values()):
        yield _managed(policy)


def _managed(policy: Any) -> Policy:
    version = next(each for each in policy.versions if each.is_default_version)
    return _parsed(version.document, policy.arn)


def _parsed(document: str | bytes | dict[str, Any], whose: str) -> Policy:
    if isinstance(document, bytes):
        document = document.decode("utf-8", "replace")
    try:
        return parse_policy(document if isinstance(document, str) else json.dumps(document))
    except PolicyError as error:
        logger.warning("the policy of %s is taken as one that denies everything: %s", whose, error)
        return DENY_ALL


def _tag_values(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    return {f"aws:principaltag/{tag['Key'].lower()}": tag["Value"] for tag in tags}


def _principal_values(arn: str) -> dict[str, str]:
    return {"aws:principalarn": arn, "aws:principalaccount": ACCOUNT}
