"""Stands before every request (``--auth``): who sent it, and may they? Refuses in AWS's words or lets it through."""

from __future__ import annotations

import datetime
import functools
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

from local_endpoint.access import permissions, s3_permissions
from local_endpoint.access.identities import ANYONE, Directory, Identity, Key
from local_endpoint.access.moto_changes import BUCKET, KEY, OPERATION
from local_endpoint.access.permissions import Needs, Values, needs_of, protocol_of
from local_endpoint.access.policies import Policies, Policy, PolicyError, Principal, Request, parse_policy
from local_endpoint.access.refusals import Kind, Refusal, answer_to, done
from local_endpoint.access.signatures import TIME_FORMAT, Malformed, Signature, header, read_signature
from local_endpoint.protocols import Protocol, WireAnswer

logger = logging.getLogger(__name__)

CLOCK_SKEW = datetime.timedelta(minutes=15)
# moto finds their operations in ways of their own, which nothing compares with what was authorized (``changed_moto``).
NOT_COMPARED = ("batch", "cloudfront", "polly", "synthetics", "xray")
# moto answers these whatever is signed.
CLOSED_PATHS = ("/moto-api", "/latest/")
# moto gives everybody the same keys, or believes any token: nothing that could be checked later.
UNAVAILABLE_STS = ("GetSessionToken", "GetFederationToken", "AssumeRoleWithSAML", "AssumeRoleWithWebIdentity")
# moto forgets them: what they limit would not be limited.
UNAVAILABLE_ASSUME_ROLE = ("PolicyArns.member.1.arn", "Tags.member.1.Key")
SHA256_DIGITS = 64
# What an unsigned request that is allowed goes on with: moto takes it for S3 and asks no object's ACL.
ANYONES_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=ANYONE/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)
Environ = dict[str, Any]


class Authorizer:
    """One per local endpoint. Safe to use from many threads: it keeps nothing between requests."""

    def __init__(self, directory: Directory, tags_of: Callable[[str], list[dict[str, str]]]) -> None:
        """``tags_of`` tells the tags of a SageMaker resource by its ARN."""
        self._directory = directory
        self._tags_of = tags_of

    def answer(
        self, environ: Environ, read: Callable[[], tuple[bytes, bool]], by_path: Callable[[Environ], Environ]
    ) -> WireAnswer | None:
        """A refusal; None lets it through.

        ``read`` gives the whole body, which can be read again afterwards, or says that it is larger than is allowed.
        ``by_path`` gives the request as moto will get it: its bucket is in the path.
        """
        protocol = protocol_of(environ, None)
        try:
            try:
                signature = read_signature(environ)
            except Malformed as error:
                raise Refusal(Kind.MALFORMED, str(error)) from None
            if signature is None:
                self._check_unsigned(environ, by_path)
                return None
            protocol = protocol_of(environ, signature.service)
            return self._check_signed(environ, signature, read, by_path)
        except Refusal as refusal:
            return answer_to(refusal, protocol, environ)

    # ---- who ----

    def _check_signed(
        self,
        environ: Environ,
        signature: Signature,
        read: Callable[[], tuple[bytes, bool]],
        by_path: Callable[[Environ], Environ],
    ) -> WireAnswer | None:
        key = self._directory.key(signature.access_key)
        if key is None:
            raise Refusal(Kind.UNKNOWN_KEY)
        _check_claims(environ, signature, key)
        body = _signed_body(environ, signature, read)
        if not signature.is_of(key.secret, environ, body):
            raise Refusal(Kind.WRONG_SIGNATURE)
        identity = self._directory.identity(key)
        if signature.is_presigned:
            # from here on it is as if it had been in the header: everybody behind sees the service that was signed for
            environ["HTTP_AUTHORIZATION"] = signature.as_header()
        forwarded = by_path(environ)
        needs = needs_of(forwarded, signature, body, self._tags_of, self._directory.iam_arn)
        self._check_request(forwarded, needs, signature, body)
        if not identity.is_root:
            self._authorize(forwarded, identity, needs, signature)
        _note(environ, forwarded, signature.service, needs.operation)
        return self._boundary_of_user(needs) if signature.service == "iam" else None

    def _check_unsigned(self, environ: Environ, by_path: Callable[[Environ], Environ]) -> None:
        """A bucket's policy may let everyone read; all else must be signed."""
        forwarded = by_path({**environ, "HTTP_AUTHORIZATION": ANYONES_AUTHORIZATION})
        may_be_public = (
            protocol_of(environ, None) is Protocol.S3
            and environ["REQUEST_METHOD"] in ("GET", "HEAD")
            and not forwarded.get("PATH_INFO", "").startswith(CLOSED_PATHS)
        )
        if not may_be_public:
            raise Refusal(Kind.UNSIGNED)
        try:
            bucket, _ = s3_permissions.bucket_and_key(forwarded)
            needed = s3_permissions.permissions(forwarded, b"")
        except s3_permissions.UnreadableRequest:
            raise Refusal(Kind.UNSIGNED) from None
        if not bucket or "_" in bucket:  # moto would take it for SERVICE_REGION
            raise Refusal(Kind.UNSIGNED)
        values: Values = {**s3_permissions.condition_values(environ, False), **_request_values(environ)}
        for action, resource in needed:
            policies = Policies(resource=self._resource_policy(action, resource), resource_decides=True)
            if not policies.decide(Request(action, resource, ANYONE.principal, values)).allowed:
                raise Refusal(Kind.UNSIGNED)
        environ["HTTP_AUTHORIZATION"] = ANYONES_AUTHORIZATION
        _note(environ, forwarded, "s3")

    # ---- may they ----

    def _authorize(self, environ: Environ, identity: Identity, needs: Needs, signature: Signature) -> None:
        if environ.get("PATH_INFO", "").startswith(CLOSED_PATHS):
            raise Refusal(Kind.DENIED, "Only the root user may do this.")
        if signature.service in NOT_COMPARED:
            raise Refusal(
                Kind.DENIED,
                f"User: {identity.principal.arn} may not use {signature.service}: policies are not evaluated for this "
                "service on this local endpoint, so that only the root user may.",
            )
        values: Values = {
            **needs.values,
            **identity.values,
            **_request_values(environ),
            "aws:requestedregion": signature.region,
        }
        if needs.permissions == (("sts:GetCallerIdentity", s3_permissions.ALL),):
            return
        for action, resource in needs.permissions:
            for spelling in needs.spellings:
                of_resource = needs.of_resources.get(resource, {})
                self._require(identity, action, resource, {**values, **of_resource, **spelling})
        passing: Values = {**values, "iam:passedtoservice": permissions.SAGEMAKER_SERVICE}
        for role in needs.passed_roles:
            self._require(identity, "iam:PassRole", role, passing)

    def _require(self, identity: Identity, action: str, resource: str, values: Values) -> None:
        """Raises ``Refusal`` in AWS's words."""
        policies = Policies(
            identity.policies,
            identity.boundary,
            identity.session,
            self._resource_policy(action, resource),
            resource_decides=action == "sts:AssumeRole",
        )
        decision = policies.decide(Request(action, resource, identity.principal, values))
        if not decision.allowed:
            shown = f'"{resource}"' if action.startswith("s3:") else resource
            raise Refusal(
                Kind.DENIED,
                f"User: {identity.principal.arn} is not authorized to perform: {action} on resource: {shown} "
                f"{decision.reason(action)}",
            )

    def _resource_policy(self, action: str, resource: str) -> Policy | None:
        if action == "sts:AssumeRole":
            return self._directory.trust_policy(resource)
        if action.startswith("s3:") and resource.startswith(s3_permissions.ARN):
            return self._directory.bucket_policy(resource.removeprefix(s3_permissions.ARN).partition("/")[0])
        return None

    # ---- what else a request must be ----

    def _check_request(self, environ: Environ, needs: Needs, signature: Signature, body: bytes) -> None:
        """Refuses what moto would take without doing it, where access depends on it."""
        if signature.service == "sts":
            self._check_sts(needs)
        if (
            signature.service == "s3"
            and environ["REQUEST_METHOD"] == "PUT"
            and "s3:PutBucketPolicy" in dict(needs.permissions)
        ):
            try:
                parse_policy(body.decode("utf-8", "replace"))
            except PolicyError as error:
                raise Refusal(Kind.BAD_POLICY, str(error)) from None
        if needs.operation in ("CreateModel", "CreateTrainingJob"):
            for role in needs.passed_roles:
                self._check_execution_role(role)

    def _check_sts(self, needs: Needs) -> None:
        if needs.operation in UNAVAILABLE_STS:
            raise Refusal(
                Kind.INVALID, f"{needs.operation} is not available on this local endpoint with --auth: use AssumeRole."
            )
        if needs.operation != "AssumeRole":
            return
        for member in UNAVAILABLE_ASSUME_ROLE:
            if member in needs.parameters:
                name = member.partition(".")[0]
                raise Refusal(
                    Kind.INVALID, f"{name} of AssumeRole is not available on this local endpoint: use Policy."
                )
        if needs.parameters.get("Policy"):
            try:
                parse_policy(needs.parameters["Policy"])
            except PolicyError as error:
                raise Refusal(Kind.BAD_POLICY, str(error)) from None

    def _check_execution_role(self, arn: str) -> None:
        trust = self._directory.trust_policy(arn)
        service = Principal(f"Service:{permissions.SAGEMAKER_SERVICE}", "")
        request = Request("sts:AssumeRole", arn, service, {})
        if trust is None or not Policies(resource=trust, resource_decides=True).decide(request).allowed:
            raise Refusal(
                Kind.INVALID,
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                f"'{permissions.SAGEMAKER_SERVICE}' to assume the role.",
            )

    def _boundary_of_user(self, needs: Needs) -> WireAnswer | None:
        """Keeps the permissions boundaries of users, of which moto knows nothing."""
        name, boundaries = needs.parameters.get("UserName", ""), self._directory.user_boundaries
        exists = self._directory.user_exists(name)
        if needs.operation == "CreateUser" and not exists and "PermissionsBoundary" in needs.parameters:
            boundaries[name] = needs.parameters["PermissionsBoundary"]
        elif needs.operation == "DeleteUser" or (needs.operation == "CreateUser" and not exists):
            boundaries.pop(name, None)
        elif needs.operation in ("PutUserPermissionsBoundary", "DeleteUserPermissionsBoundary") and exists:
            if needs.operation.startswith("Put"):
                boundaries[name] = needs.parameters.get("PermissionsBoundary", "")
            else:
                boundaries.pop(name, None)
            return done(needs.operation)
        return None

    # ---- on behalf of a model or a training job ----

    def role_may(self, role_arn: str | None, action: str, bucket: str, key: str) -> bool:
        """Whether an execution role may do this in S3. ``key`` is the prefix where a bucket is listed."""
        identity = self._directory.execution_role(role_arn or "")
        if identity is None:
            return False
        resource = f"{s3_permissions.ARN}{bucket}/{key}"
        now: Values = {**identity.values, **_time_values()}
        if action == "s3:ListBucket":
            resource, now["s3:prefix"] = f"{s3_permissions.ARN}{bucket}", key
        try:
            self._require(identity, action, resource, now)
        except Refusal as refusal:
            logger.warning("a model or training job is denied its data: %s", refusal)
            return False
        return True


def _note(environ: Environ, forwarded: Environ, service: str, operation: str = "") -> None:
    """What was authorized, for ``changed_moto``."""
    if service == "s3":
        environ[BUCKET], environ[KEY] = s3_permissions.bucket_and_key(forwarded)
    elif operation not in ("", s3_permissions.ALL):
        environ[OPERATION] = operation


def _check_claims(environ: Environ, signature: Signature, key: Key) -> None:
    """All that can be said of a signature without computing it."""
    if signature.token != key.token:
        raise Refusal(Kind.WRONG_TOKEN if signature.token else Kind.UNKNOWN_KEY)
    now = datetime.datetime.now(datetime.UTC)
    if key.expires is not None and _aware(key.expires) <= now:
        raise Refusal(Kind.EXPIRED_TOKEN)
    if signature.expires_s is not None:
        if now > signature.time + datetime.timedelta(seconds=signature.expires_s):
            raise Refusal(Kind.EXPIRED_ADDRESS)
    elif now > signature.time + CLOCK_SKEW:
        raise Refusal(Kind.WRONG_TIME, _expired(signature.time, now))
    if signature.time > now + CLOCK_SKEW:
        raise Refusal(Kind.WRONG_TIME, _not_yet(signature.time, now))
    if signature.service != "s3":
        return
    signed = {f"HTTP_{name.upper().replace('-', '_')}" for name in signature.signed_headers}
    for name in environ:
        if name.startswith("HTTP_X_AMZ_") and name not in signed:
            raise Refusal(Kind.DENIED, "There were headers present in the request which were not signed")
    if not signature.is_presigned and not header(environ, "x-amz-content-sha256"):
        raise Refusal(Kind.INVALID, "Missing required header for this request: x-amz-content-sha256")


def _signed_body(environ: Environ, signature: Signature, read: Callable[[], tuple[bytes, bool]]) -> bytes:
    """What the signature and the permissions need of it. An object's data is left to be streamed."""
    if signature.service == "s3" and not s3_permissions.has_document(environ):
        return b""
    body, too_large = read()
    if too_large:
        raise Refusal(Kind.INVALID, "The request's body is larger than this local endpoint takes.")
    claimed = header(environ, "x-amz-content-sha256")
    if signature.service == "s3" and len(claimed) == SHA256_DIGITS and hashlib.sha256(body).hexdigest() != claimed:
        raise Refusal(Kind.WRONG_BODY)
    return body


def _request_values(environ: Environ) -> Values:
    values: Values = {
        "aws:sourceip": environ.get("REMOTE_ADDR", ""),
        "aws:securetransport": "false",
        "aws:resourceaccount": permissions.ACCOUNT,
        **_time_values(),
    }
    for key, name in (("aws:useragent", "user-agent"), ("aws:referer", "referer")):
        if header(environ, name):
            values[key] = header(environ, name)
    return values


def _time_values() -> Values:
    now_s = time.time()
    return {"aws:currenttime": _iso(int(now_s)), "aws:epochtime": str(int(now_s))}


@functools.lru_cache(2)
def _iso(now_s: int) -> str:
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _aware(moment: datetime.datetime) -> datetime.datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _expired(signed: datetime.datetime, now: datetime.datetime) -> str:
    earliest = (now - CLOCK_SKEW).strftime(TIME_FORMAT)
    return (
        f"Signature expired: {signed.strftime(TIME_FORMAT)} is now earlier than {earliest} "
        f"({now.strftime(TIME_FORMAT)} - 15 min.)"
    )


def _not_yet(signed: datetime.datetime, now: datetime.datetime) -> str:
    latest = (now + CLOCK_SKEW).strftime(TIME_FORMAT)
    return (
        f"Signature not yet current: {signed.strftime(TIME_FORMAT)} is still later than {latest} "
        f"({now.strftime(TIME_FORMAT)} + 15 min.)"
    )
