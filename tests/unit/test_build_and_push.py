"""build_and_push.sh: what it takes, what it calls in which order, and that it stops at the first failure.

``docker`` is a fake that notes its calls (tests/image pushes with the real one). ``aws`` is a fake, too, except
where the real AWS CLI talks to ECR and STS as moto has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # it starts programs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "build_and_push.sh"
REGISTRY = "123456789012.dkr.ecr.us-west-2.amazonaws.com"

# Notes its arguments, a line per call; fails where they start with $FAILING; keeps what comes on standard input. It has
# BuildKit where $BUILDX says which options that has; questions about it are not noted.
DOCKER = """#!/bin/bash
PLAIN=application/vnd.docker.distribution.manifest.v2+json
case "$1 $2 $3" in
  "buildx version "*) [[ -n $BUILDX ]]; exit ;;
  "buildx build --help") echo "$BUILDX"; exit ;;
  "context show "*) echo a-context; exit ;;
  "manifest inspect "*) [[ -n ${MANIFEST-x} ]] && echo "{\\"mediaType\\": \\"${MANIFEST-$PLAIN}\\"}"; exit ;;
esac
echo "docker $*" >>"$CALLS"
[[ $1 == login ]] && cat >"$CALLS.password"
[[ -n $FAILING && "docker $*" == "$FAILING"* ]] && { echo "docker: told to fail" >&2; exit 5; }
exit 0
"""
AWS = """#!/bin/bash
echo "aws $*" >>"$CALLS"
[[ -n $FAILING && "aws $*" == "$FAILING"* ]] && { echo "aws: told to fail" >&2; exit 5; }
case "$1 $2" in
  "configure get") [[ -n $CONFIGURED_REGION ]] && echo "$CONFIGURED_REGION" || exit 1 ;;
  "sts get-caller-identity") echo 123456789012 ;;
  "ecr describe-repositories")
    [[ -n $REPOSITORY_EXISTS ]] && exit 0
    echo "An error occurred (RepositoryNotFoundException) when calling the DescribeRepositories operation" >&2
    exit 254 ;;
  "ecr get-login-password") echo secret ;;
esac
"""


@dataclass
class Run:
    """One run of the script."""

    exit_code: int
    stdout: str
    stderr: str
    calls: list[str]
    password: str | None


class Workplace:
    """A folder with fakes, which come first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cwd = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.add_program("docker", DOCKER)
        self.add_program("aws", AWS)

    def add_program(self, name: str, text: str) -> None:
        """Puts an executable ``name`` on PATH."""
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> Run:
        """Runs the script in ``cwd`` with nothing of this process's environment."""
        calls, password = self.folder / "calls", self.folder / "calls.password"
        for each in (calls, password):
            each.unlink(missing_ok=True)
        done = subprocess.run(
            [str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "HOME": str(self.folder),
                "CALLS": str(calls),
                **environment,
            },
        )
        return Run(
            done.returncode,
            done.stdout,
            done.stderr,
            calls.read_text().splitlines() if calls.exists() else [],
            password.read_text() if password.exists() else None,
        )


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


# ---- arguments ----


def test_help_names_every_option_and_calls_nothing(workplace: Workplace) -> None:
    run = workplace.run("--help")
    assert run.exit_code == 0
    for word in ("--region", "--tag", "--build-only", "--registry", "image-name", "DOCKER_BUILD_OPTIONS"):
        assert word in run.stdout
    assert run.calls == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--push"], "unknown option --push"),
        (["--tag"], "--tag needs a value"),
        (["--region", "--build-only"], "--region needs a value"),
        (["one", "two"], "one image name, not one and two"),
        ([""], "the image name is empty"),
        (["Upper"], "image name Upper"),
        (["name:tag"], "image name name:tag"),
        (["--tag", "a b", "name"], "tag a b"),
        (["--region", "nowhere"], "region nowhere"),
        (["--registry", "user"], "registry user"),
        (["--registry", "https://host:5000"], "registry https://host:5000"),
        (["--registry", "host:5000", "--region", "us-east-1"], "give one of them"),
        (["--build-only", "--region", "us-east-1"], "--build-only pushes nothing, so there is no --region to push to"),
    ],
)
def test_misuse_is_explained_before_anything_is_called(workplace: Workplace, arguments: list[str], said: str) -> None:
    run = workplace.run(*arguments)
    assert run.exit_code == 2
    assert said in run.stderr.splitlines()[0]
    assert "usage:" in run.stderr
    assert run.calls == []


# ---- what is built ----


def test_build_only_builds_and_calls_neither_aws_nor_push(workplace: Workplace) -> None:
    (workplace.programs / "aws").unlink()
    run = workplace.run("--build-only", "--tag", "v2", "some/name")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "some/name:v2\n"
    assert [call.split()[1] for call in run.calls] == ["build", "tag"]


def test_the_build_context_is_the_container_folder_from_any_working_directory(workplace: Workplace) -> None:
    elsewhere = workplace.folder / "else where"
    elsewhere.mkdir()
    workplace.cwd = elsewhere
    run = workplace.run("--build-only")
    assert run.exit_code == 0, run.stderr
    assert run.calls[0].endswith(f" --tag demo-sagemaker-multimodel:latest {ROOT / 'container'}")


def test_build_options_of_the_environment_reach_docker_build(workplace: Workplace) -> None:
    run = workplace.run("--build-only", DOCKER_BUILD_OPTIONS="--network host  --build-arg BASE_IMAGE=x")
    assert run.calls[0].startswith("docker build --network host --build-arg BASE_IMAGE=x --build-arg VERSION=")


def test_the_image_is_labelled_with_the_commit_it_is_built_from(workplace: Workplace) -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        pytest.skip("this copy of the project is no git checkout")
    # git refuses a checkout of another user, and says where it is allowed in this user's configuration
    run = workplace.run("--build-only", HOME=os.environ.get("HOME", "/"))
    assert f"--build-arg REVISION={head.stdout.strip()} " in run.calls[0]


BUILDKIT = "docker buildx build --builder a-context --output type=image,oci-mediatypes=false"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "docker build --build-arg "),
        ({"BUILDX": "--output --provenance --sbom"}, f"{BUILDKIT} --provenance=false --sbom=false --build-arg "),
        ({"BUILDX": "--output"}, f"{BUILDKIT} --build-arg "),
        ({"BUILDX": "--output --provenance", "DOCKER_BUILDKIT": "0"}, "docker build --build-arg "),
    ],
    ids=["no-buildkit", "buildkit", "buildkit-before-0.10", "switched-off"],
)
def test_buildkit_makes_a_plain_image_of_dockers_media_types(
    workplace: Workplace, environment: dict[str, str], expected: str
) -> None:
    run = workplace.run("--build-only", **environment)
    assert run.exit_code == 0, run.stderr
    assert run.calls[0].startswith(expected)
    assert run.calls[0].endswith(f" --tag demo-sagemaker-multimodel:latest {ROOT / 'container'}")


def test_a_missing_docker_is_named(workplace: Workplace) -> None:
    (workplace.programs / "docker").unlink()
    for name in ("bash", "dirname", "env", "git"):
        (workplace.programs / name).symlink_to(f"/usr/bin/{name}")
    run = workplace.run("--build-only", PATH=str(workplace.programs))
    assert run.exit_code == 1
    assert run.stderr == "build_and_push: failed: no docker on PATH. Install Docker first.\n"


# ---- to ECR ----


def test_to_ecr_it_builds_creates_the_repository_logs_in_tags_and_pushes(workplace: Workplace) -> None:
    run = workplace.run(CONFIGURED_REGION="eu-central-1")
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    image = f"{registry}/demo-sagemaker-multimodel:latest"
    assert run.exit_code == 0, run.stderr
    assert run.stdout == f"{image}\n"
    calls = [call for call in run.calls if not call.startswith("docker build ")]
    assert calls == [
        "aws configure get region",
        "aws sts get-caller-identity --query Account --output text --region eu-central-1",
        "aws ecr describe-repositories --repository-names demo-sagemaker-multimodel --region eu-central-1",
        "aws ecr create-repository --repository-name demo-sagemaker-multimodel --region eu-central-1",
        "aws ecr get-login-password --region eu-central-1",
        f"docker login --username AWS --password-stdin {registry}",
        f"docker tag demo-sagemaker-multimodel:latest {image}",
        f"docker push {image}",
    ]
    assert run.calls[2].startswith("docker build "), "the account is known before the build, the repository made after"


def test_the_login_password_goes_through_standard_input_only(workplace: Workplace) -> None:
    run = workplace.run()
    assert run.password == "secret"
    assert not any("secret" in call for call in run.calls)
    assert "secret" not in run.stdout + run.stderr


def test_an_existing_repository_is_not_created_again(workplace: Workplace) -> None:
    run = workplace.run(REPOSITORY_EXISTS="yes")
    assert run.exit_code == 0, run.stderr
    assert not any("create-repository" in call for call in run.calls)


@pytest.mark.parametrize(
    ("arguments", "environment", "region"),
    [
        ([], {}, "us-west-2"),
        ([], {"CONFIGURED_REGION": "eu-west-1"}, "eu-west-1"),
        ([], {"CONFIGURED_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ([], {"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3"),
        (["--region", "us-gov-west-1"], {"AWS_REGION": "eu-west-3"}, "us-gov-west-1"),
    ],
)
def test_the_region_is_the_options_the_environments_the_configured_one_or_us_west_2(
    workplace: Workplace, arguments: list[str], environment: dict[str, str], region: str
) -> None:
    run = workplace.run(*arguments, **environment)
    assert run.stdout == f"123456789012.dkr.ecr.{region}.amazonaws.com/demo-sagemaker-multimodel:latest\n"


def test_regions_in_china_have_their_own_domain(workplace: Workplace) -> None:
    run = workplace.run("--region", "cn-north-1", "name")
    assert run.stdout == "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/name:latest\n"


@pytest.mark.parametrize(
    "failing",
    [
        "aws sts get-caller-identity",
        "docker build",
        "aws ecr describe-repositories",
        "aws ecr create-repository",
        "aws ecr get-login-password",
        "docker login",
        "docker tag",
        "docker push",
    ],
)
def test_it_stops_at_the_first_failure_and_names_it(workplace: Workplace, failing: str) -> None:
    run = workplace.run(FAILING=failing)
    assert run.exit_code == 1
    assert run.stdout == ""
    assert run.calls[-1].startswith(failing), "nothing is called after the failure"
    assert "told to fail" in run.stderr, "the program's own words are kept"
    last_line = run.stderr.splitlines()[-1]
    assert last_line.startswith("build_and_push: failed:")
    assert failing in last_line


def test_an_answer_that_is_no_account_is_refused_before_the_build(workplace: Workplace) -> None:
    workplace.add_program("aws", "#!/bin/bash\necho None\n")
    run = workplace.run()
    assert run.exit_code == 1
    assert "answered 'None'" in run.stderr
    assert run.calls == []


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ],
)
def test_a_pushed_manifest_that_createmodel_refuses_is_refused_with_the_remedy(
    workplace: Workplace, media_type: str
) -> None:
    for arguments in ([], ["--registry", "localhost:5001"]):
        run = workplace.run(*arguments, MANIFEST=media_type)
        assert run.exit_code == 1
        assert run.stdout == ""
        assert "with an OCI manifest or an index, and CreateModel takes neither." in run.stderr.splitlines()[-1]
        assert "DOCKER_BUILDKIT=0" in run.stderr.splitlines()[-1]


def test_a_manifest_that_cannot_be_looked_at_is_a_warning(workplace: Workplace) -> None:
    run = workplace.run(MANIFEST="")
    assert run.exit_code == 0, run.stderr
    assert "warning: docker manifest inspect does not say" in run.stderr
    assert "warning" not in workplace.run().stderr


# ---- to another registry ----


def test_to_another_registry_it_neither_logs_in_nor_calls_aws(workplace: Workplace) -> None:
    (workplace.programs / "aws").unlink()
    run = workplace.run("--registry", "localhost:5001", "--tag", "v1", "team/name")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "localhost:5001/team/name:v1\n"
    assert [call for call in run.calls if not call.startswith("docker build ")] == [
        "docker tag team/name:v1 localhost:5001/team/name:v1",
        "docker push localhost:5001/team/name:v1",
    ]


# ---- with the real AWS CLI ----


@pytest.fixture(scope="module")
def aws_endpoint() -> Iterator[str]:
    """ECR and STS as moto has them, on a free port of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.mark.ci  # waits for the AWS CLI
def test_the_real_aws_cli_creates_the_repository_once_and_hands_over_a_password(
    workplace: Workplace, aws_endpoint: str
) -> None:
    cli = Path(sys.executable).parent / "aws"
    (workplace.programs / "aws").unlink()
    (workplace.programs / "aws").symlink_to(cli)
    environment = {"AWS_ENDPOINT_URL": aws_endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key"}

    def repositories() -> str:
        answer = subprocess.run(
            [cli, "ecr", "describe-repositories", "--region", "us-west-2", "--query", "repositories[].repositoryName"],
            env={**environment, "PATH": os.environ["PATH"], "AWS_DEFAULT_OUTPUT": "text"},
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.strip()

    assert repositories() == ""
    for attempt in ("first", "second"):
        run = workplace.run("team/multimodel", **environment)
        assert run.exit_code == 0, run.stderr
        assert run.stdout == f"{REGISTRY}/team/multimodel:latest\n"
        assert run.password, "moto's login password"
        assert ("creating the ECR repository" in run.stderr) == (attempt == "first")
        assert repositories() == "team/multimodel"


@pytest.mark.ci  # the AWS CLI looks for credentials for seconds
def test_without_credentials_the_real_aws_cli_ends_it_before_the_build(workplace: Workplace, aws_endpoint: str) -> None:
    (workplace.programs / "aws").unlink()
    (workplace.programs / "aws").symlink_to(Path(sys.executable).parent / "aws")
    run = workplace.run(AWS_ENDPOINT_URL=aws_endpoint, AWS_EC2_METADATA_DISABLED="true")
    assert run.exit_code == 1
    assert "Run: aws configure" in run.stderr.splitlines()[-1]
    assert run.calls == []
