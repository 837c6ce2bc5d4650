"""Uploads model archives below an S3 prefix."""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

from mme.frameworks.description import MACOS_PREFIX
from mme.frameworks.registry import folder_of_model, too_deep
from mme.settings import Settings
from scripts.programs.archives import MANIFEST, write_outline
from scripts.programs.aws import client, parse_s3_url, plain_errors
from scripts.programs.console import Failure, readable_size, run
from scripts.programs.progress import bytes_bar


def main() -> int:
    """Returns 0 once all archives are there."""
    arguments = parse()
    bucket, prefix = parse_s3_url(arguments.destination)
    for file in arguments.files if arguments.check else ():
        check_archive(file)
    s3 = client("s3")
    with plain_errors(f"looking at bucket {bucket}"):
        ensure_bucket(s3, bucket, create=arguments.create_bucket)
    for file in arguments.files:
        upload(s3, file, bucket, prefix + file.name, overwrite=arguments.overwrite)
    print(f"Invoke one with: ./scripts/invoke --endpoint NAME --target-model {arguments.files[0].name} FILE")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/upload_models",
        description="Uploads model archives below an S3 prefix. An endpoint that serves the prefix serves them at "
        "once; the file's name is what clients pass as TargetModel.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a model archive (tar.gz)")
    parser.add_argument("destination", metavar="s3://BUCKET/PREFIX/", help="where the endpoint looks for models")
    parser.add_argument("--create-bucket", action="store_true", help="make the bucket if there is none")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace models that are there (an endpoint may go on serving the old one: use a new name instead)",
    )
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not look into the archives (for a container with a handler of its own that expects another layout)",
    )
    return parser.parse_args()


def check_archive(file: Path) -> None:
    """Raises ``Failure`` for what is no whole tar.gz, and for a model whose files are in a folder of it.

    Reads the archive once, and unpacks no more than the beginning of the files near its top.
    """
    if not file.is_file():
        raise Failure(f"there is no file {file}.")
    with tempfile.TemporaryDirectory(prefix="outline-") as outline:
        try:
            names = write_outline(file, Path(outline))
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise Failure(f"{file} is not a tar.gz archive ({error}). Make one with ./scripts/package_model.") from None
        has_manifest = Path(outline, MANIFEST).is_file()  # and with it a handler of its own, which knows where to look
        folder = None if has_manifest else folder_of_model(outline, Settings())
    if folder is not None:
        raise Failure(
            f"{file}: {too_deep(folder)} Or pack it with ./scripts/package_model. --no-check uploads it as it is."
        )
    litter = [name for name in names if PurePosixPath(name).name.startswith(MACOS_PREFIX)]
    if litter:
        print(
            f"{file} holds {len(litter)} files ._* of macOS. The container passes over them; COPYFILE_DISABLE=1 before "
            "tar, or ./scripts/package_model, leaves them out.",
            file=sys.stderr,
        )


def ensure_bucket(s3: Any, bucket: str, create: bool) -> None:
    """Raises ``Failure`` if there is none and it is not to be made."""
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        if not create:
            raise Failure(f"there is no bucket {bucket}. Add --create-bucket to make it.") from None
        region = s3.meta.region_name
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=bucket, **where)
        print(f"made bucket {bucket}")


def upload(s3: Any, file: Path, bucket: str, key: str, overwrite: bool) -> None:
    """Raises ``Failure``."""
    with plain_errors(f"uploading {file}"):
        if not overwrite and exists(s3, bucket, key):
            raise Failure(
                f"s3://{bucket}/{key} is there already, and an endpoint may go on serving the old one. Upload it under "
                "a new name, or add --overwrite."
            )
        size_bytes = file.stat().st_size
        with bytes_bar(file.name, size_bytes) as bar:
            s3.upload_file(str(file), bucket, key, Callback=bar.update)
    print(f"{file} -> s3://{bucket}/{key} ({readable_size(size_bytes)})", flush=True)


def exists(s3: Any, bucket: str, key: str) -> bool:
    """Whether there is such an object."""
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


if __name__ == "__main__":
    run(main)
