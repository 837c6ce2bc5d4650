"""A multi-model endpoint as the destination of a load test: AWS's, or that which AWS_ENDPOINT_URL names.

Requests are signed, by boto3. This module, too, is imported when gevent has patched the standard library.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.load_test.destinations import MOST_CONNECTIONS, SHOWN_CHARACTERS, Caller, Destination, Outcome
from benchmarks.load_test.options import Body, LoadTestOptions
from scripts.programs.aws import client, parse_s3_url, plain_errors
from scripts.programs.list_models import list_objects, prefix_of


class Endpoint(Destination):
    """Its models are the objects below its prefix."""

    remedy = "Upload more with ./scripts/upload_models, or ask for fewer with --models."

    def __init__(self, options: LoadTestOptions) -> None:
        super().__init__(options)
        self._runtime = client(
            "sagemaker-runtime",
            retries={"total_max_attempts": 1},
            read_timeout=options.timeout_s,
            connect_timeout=options.timeout_s,
            max_pool_connections=options.users or MOST_CONNECTIONS,
        )

    def available(self) -> list[str]:
        assert self.options.endpoint is not None
        with plain_errors(f"listing the models of {self.options.endpoint} (--names spares that)"):
            bucket, prefix = parse_s3_url(prefix_of(client("sagemaker"), self.options.endpoint))
            return [each["Key"].removeprefix(prefix) for each in list_objects(client("s3"), bucket, prefix)]

    def caller(self) -> Caller:
        return _Boto3Caller(self._runtime, self.options)


class _Boto3Caller(Caller):
    def __init__(self, runtime: Any, options: LoadTestOptions) -> None:
        self._runtime = runtime
        self._common = {"EndpointName": options.endpoint, **({"Accept": options.accept} if options.accept else {})}

    def call(self, model: str, body: Body) -> Outcome:
        try:
            answer = self._runtime.invoke_endpoint(
                **self._common, TargetModel=model, ContentType=body.content_type, Body=body.data
            )
            return Outcome(answer_bytes=len(answer["Body"].read()))
        except ClientError as error:
            its = error.response
            status = its.get("OriginalStatusCode") or its.get("ResponseMetadata", {}).get("HTTPStatusCode")
            said = str(its.get("OriginalMessage") or its["Error"].get("Message", ""))
            return Outcome(f"{its['Error'].get('Code')} ({status})", said[:SHOWN_CHARACTERS])
        except (BotoCoreError, OSError) as error:
            return Outcome(type(error).__name__, str(error)[:SHOWN_CHARACTERS])
