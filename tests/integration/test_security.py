"""What reaches the management calls cannot read, run or fetch anything but models below the roots."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness.container_client import ContainerClient
from tests.harness.ports import free_port
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.wheels import write_requirements

SECRETS = {
    "AWS_ACCESS_KEY_ID": "the-secret-key-id",
    "AWS_SECRET_ACCESS_KEY": "the-secret-key",
    "AWS_SESSION_TOKEN": "the-secret-token",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/the-secret-uri",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/the-secret-file",
}
HARMLESS = {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL_S3": "http://s3.example"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    # the C locale, in which a JVM knows nothing but ASCII
    settings: dict[str, Any] = {"SAGEMAKER_HANDLER": HANDLER, "LC_ALL": "C", **SECRETS, **HARMLESS}
    with ServerProcess(MME_PRELOAD="none", MME_MODEL_REQUIREMENTS="refuse", **settings) as running:
        yield running


@pytest.fixture
def model_dir(server: ServerProcess) -> Path:
    """The folder of a model that may be loaded."""
    return make_model(server.model_dir(uuid.uuid4().hex))


@pytest.fixture
def outside(server: ServerProcess) -> Path:
    """A folder outside of the roots with code in it that leaves a trace when it runs."""
    folder = server.folder / "outside" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    trace = f"open({str(folder / 'trace')!r}, 'w').close()\n"
    for module in ("sitecustomize", "usercustomize", "intruder", "json", HANDLER):
        (folder / f"{module}.py").write_text(f"{trace}def handle(data, context): pass\n")
    return folder


def has_run(outside: Path) -> bool:
    return (outside / "trace").exists()


def assert_refused(server: ServerProcess, status: int, url: str, name: str | None = None, **extra: Any) -> str:
    """The load is refused and leaves nothing behind. Returns the message."""
    name = name if name is not None else uuid.uuid4().hex
    before = listed(server)
    answer = server.load(name, url, **extra)
    assert answer.status_code == status, f"{answer.text}\n{server.log_tail()}"
    assert listed(server) == before
    return answer.json()["message"]


def assert_loads(server: ServerProcess, name: str, model_dir: Path, **extra: str) -> None:
    """The model loads under ``name``, answers, is listed with its URL as it was given, and can be unloaded."""
    answer = server.load(name, str(model_dir), **extra)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    assert server.invoke(name, command("echo", name)).json() == name
    assert listed(server)[name] == str(model_dir)
    assert server.unload(name).status_code == 200


def listed(server: ServerProcess) -> dict[str, str]:
    return {model["modelName"]: model["modelUrl"] for model in server.list_models().json()["models"]}


# ---- where models may be ----


@pytest.mark.parametrize(
    "url", ["/etc", "/", "etc", "/proc/self/cwd", "file:///etc", "s3://bucket/key", "", "\0", "\n"]
)
def test_a_folder_outside_of_the_roots_is_refused(server: ServerProcess, url: str) -> None:
    status = 400 if url in ("/", "") else 404  # the store itself exists
    assert_refused(server, status, url)


def test_the_way_to_the_root_and_the_root_itself_are_refused(server: ServerProcess) -> None:
    for folder in [server.models_dir, *server.models_dir.parents]:
        assert_refused(server, 400, str(folder))


def test_a_way_up_is_refused(server: ServerProcess, model_dir: Path) -> None:
    assert "Relative path" in assert_refused(server, 404, f"{model_dir}/../../../../outside")


def test_a_link_out_of_the_roots_is_refused(server: ServerProcess, model_dir: Path, outside: Path) -> None:
    make_model(outside)
    link = model_dir / "link"
    link.symlink_to(outside)
    assert_refused(server, 400, str(link))
    assert not has_run(outside)


def test_a_link_within_the_roots_is_followed(server: ServerProcess, model_dir: Path) -> None:
    link = server.models_dir / uuid.uuid4().hex
    link.symlink_to(model_dir)
    assert_loads(server, uuid.uuid4().hex, link)


def test_a_refused_model_loads_once_it_is_right(server: ServerProcess, model_dir: Path) -> None:
    name = uuid.uuid4().hex
    for _ in range(3):
        assert_refused(server, 400, str(server.models_dir), name)
    assert_loads(server, name, model_dir)


def test_a_model_that_asks_for_packages_is_refused_where_that_is_wanted(server: ServerProcess, model_dir: Path) -> None:
    write_requirements(model_dir, "greeting_of_a_test==1.0")
    assert "MME_MODEL_REQUIREMENTS=refuse" in assert_refused(server, 400, str(model_dir))


def test_archives_are_not_unpacked(server: ServerProcess, model_dir: Path) -> None:
    archive = model_dir / "model.mar"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(50_000_000))
        bomb.writestr("../../escaped", b"")
    before = sizes_below(server.folder / "tmp")
    assert "unpack the archive" in assert_refused(server, 400, str(archive))
    assert sizes_below(server.folder / "tmp") - before < 1_000_000
    assert not list(server.folder.rglob("escaped"))


def sizes_below(folder: Path) -> int:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            sizes.append(path.lstat().st_size)
    return sum(sizes)


@pytest.fixture
def web_server() -> Iterator[socket.socket]:
    """Listens, and accepts nothing: whoever connects is found in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/m.mar", "HTTP://localhost:{}/", "https://127.0.0.1:{}/m.mar"])
def test_a_url_is_refused_without_a_connection(server: ServerProcess, web_server: socket.socket, url: str) -> None:
    assert_refused(server, 400, url.format(web_server.getsockname()[1]))
    with pytest.raises(BlockingIOError):
        web_server.accept()


# ---- names ----


@pytest.mark.parametrize(
    "name",
    [
        "a\0b",
        "a/b",
        "..",
        "../x",
        "a..b",
        "/etc/passwd",
        "a\nb",
        "a\tb",
        "\x1b[31mred",
        "a\x7f",
        "\u202eevil",
        pytest.param("x" * 256, id="long"),
        pytest.param("x" * 200_000, id="very long"),
    ],
)
def test_a_name_that_could_mislead_is_refused(server: ServerProcess, model_dir: Path, name: str) -> None:
    assert_refused(server, 400, str(model_dir), name)


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "\x1b[31mred", "\u202eevil", "\ud800", "x" * 256, "é" * 256])
@pytest.mark.parametrize("how", [{"initial_workers": 0}, {"synchronous": False}])
def test_a_name_that_could_mislead_is_refused_where_no_worker_is_waited_for(
    server: ServerProcess, model_dir: Path, name: str, how: dict[str, Any]
) -> None:
    assert_refused(server, 400, str(model_dir), name, **how)


@pytest.mark.parametrize("how", [{"initial_workers": 0}, {"synchronous": False}])
def test_a_folder_that_is_not_allowed_is_refused_where_no_worker_is_waited_for(
    server: ServerProcess, model_dir: Path, outside: Path, how: dict[str, Any]
) -> None:
    (model_dir / "link").symlink_to(make_model(outside))
    for url in ["/", str(server.models_dir), str(model_dir / "link")]:
        assert_refused(server, 400, url, **how)
    assert not has_run(outside)


def test_a_model_without_workers_gets_them_later(server: ServerProcess, model_dir: Path) -> None:
    name = uuid.uuid4().hex
    assert server.load(name, str(model_dir), initial_workers=0).status_code == 200
    assert server.invoke(name, command("echo", 1)).status_code == 503
    scaled = server.request("PUT", f"/models/{name}", params={"min_worker": 1, "synchronous": "true"})
    assert scaled.status_code == 200, scaled.text
    assert server.invoke(name, command("echo", 1)).json() == 1
    assert server.unload(name).status_code == 200


NO_LOADS = ["", " ", "null", "[]", "1", "{", "{}x", "[" * 100_000, "\udcff\x00", '{"url": []}']
NO_LOADS += [
    f'{{"url": "/x", {wrong}}}' for wrong in ('"initial_workers": "many"', '"batch_size": 1e99', '"model_name": {}')
]


@pytest.mark.parametrize("body", NO_LOADS)
def test_a_load_that_is_none_is_refused_with_what_one_is(server: ServerProcess, body: str) -> None:
    sent = body.encode("utf-8", "surrogateescape")
    answer = server.post("/models", sent)
    assert answer.status_code == 400, answer.text
    message = answer.json()["message"]
    assert '"model_name": "NAME"' in message
    assert "Exception" not in message
    assert len(message) < 2000


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "é" * 255,
        "-x",
        "--handler",
        "a b",
        "$(reboot)",
        "'\"`;&|",
        "é日本☃",
        "%2e%2e",
        "{}",
        "a.tar.gz",
        "a:b=c?d#e",
    ],
)
def test_any_printable_name_is_a_name(server: ServerProcess, model_dir: Path, name: str) -> None:
    assert_loads(server, name, model_dir)


def test_a_folder_may_have_any_name(server: ServerProcess) -> None:
    assert_loads(server, uuid.uuid4().hex, make_model(server.model_dir("é 日本 'quoted'")))


def test_a_name_cannot_begin_a_line_of_the_log(server: ServerProcess, model_dir: Path) -> None:
    forged = f"2030-01-01 [ERROR] forged {uuid.uuid4().hex}"
    assert_refused(server, 400, str(model_dir), f"x\n{forged}\r{forged}")
    assert not [line for line in server.log().splitlines() if line.startswith("2030")]
    assert "\r" not in server.log_file.read_bytes().decode().replace("\r\n", "\n")


# ---- handlers ----

# each with one of the names that MMS knows for a Python
OUTSIDE_HANDLERS = ["{}/intruder.py:handle", "{}/intruder", "{}:handle", "../../../../outside/{0.name}/intruder:handle"]


@pytest.mark.parametrize(
    ("handler", "runtime"), list(zip(OUTSIDE_HANDLERS, ["python3", "python", "python2", "python3"], strict=True))
)
def test_no_request_makes_a_file_outside_run(
    server: ServerProcess, model_dir: Path, outside: Path, handler: str, runtime: str
) -> None:
    assert_refused(server, 400, str(model_dir), handler=handler.format(outside), runtime=runtime)
    assert not has_run(outside)


@pytest.mark.parametrize("handler", OUTSIDE_HANDLERS)
def test_no_manifest_makes_a_file_outside_run(
    server: ServerProcess, model_dir: Path, outside: Path, handler: str
) -> None:
    write_manifest(model_dir, handler.format(outside), runtime="python3")
    assert_refused(server, 400, str(model_dir))
    assert not has_run(outside)


@pytest.mark.parametrize("handler", ["{}/intruder.py", "../../../../outside/{0.name}/intruder"])
def test_no_manifest_of_old_makes_a_file_outside_run(
    server: ServerProcess, model_dir: Path, outside: Path, handler: str
) -> None:
    legacy = {"Engine": {"MXNet": 0.12}, "Model": {"Service": handler.format(outside), "Model-Name": "x"}}
    (model_dir / "MANIFEST.json").write_text(json.dumps(legacy))
    assert_refused(server, 400, str(model_dir))
    assert not has_run(outside)


def test_a_handler_that_is_a_link_to_a_file_outside_is_refused(
    server: ServerProcess, model_dir: Path, outside: Path
) -> None:
    (model_dir / "mine.py").symlink_to(outside / "intruder.py")
    assert_refused(server, 400, str(model_dir), handler="mine:handle")
    assert not has_run(outside)


def test_a_handler_of_another_model_is_refused(server: ServerProcess, model_dir: Path) -> None:
    other = make_model(server.model_dir(uuid.uuid4().hex))
    assert_refused(server, 400, str(model_dir), handler=f"{other}/{HANDLER}.py:handle")


@pytest.mark.parametrize(
    ("handler", "runtime"),
    [(HANDLER, "python"), (f"{HANDLER}.py:handle", "python2"), (f"code/{HANDLER}.py:handle", "python3")],
)
def test_a_handler_in_the_models_folder_runs(
    server: ServerProcess, model_dir: Path, handler: str, runtime: str
) -> None:
    (model_dir / "code").mkdir()
    make_model(model_dir / "code")
    assert_loads(server, uuid.uuid4().hex, model_dir, handler=handler, runtime=runtime)
    write_manifest(model_dir, f"{model_dir}/{handler}" if "code" in handler else handler, runtime=runtime)
    assert_loads(server, uuid.uuid4().hex, model_dir)


@pytest.mark.parametrize("handler", ["a\0b:handle", pytest.param("x" * 200_000, id="very long")])
def test_a_handler_that_no_program_can_be_told_is_refused(server: ServerProcess, model_dir: Path, handler: str) -> None:
    assert_refused(server, 400, str(model_dir), handler=handler)


def test_a_handler_that_is_not_there_fails_and_is_forgotten(server: ServerProcess, model_dir: Path) -> None:
    assert_refused(server, 500, str(model_dir), handler="nowhere:handle")


def write_manifest(model_dir: Path, handler: str, runtime: str) -> None:
    manifest = {"runtime": runtime, "model": {"modelName": "x", "handler": handler}, "specificationVersion": "1.0"}
    (model_dir / "MAR-INF").mkdir(exist_ok=True)
    (model_dir / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))


BROKEN_MANIFESTS = {
    "empty": "",
    "cut off": "{",
    "null": "null",
    "a list": "[]",
    "no model": '{"model": null}',
    "a model that is none": '{"model": 5}',
    "an unknown runtime": '{"runtime": "bash"}',
    "a text": '"' + "x" * 100_000,
    "nested too deeply": '{"model": ' + '{"x":' * 100_000,
}


@pytest.mark.parametrize("text", BROKEN_MANIFESTS.values(), ids=BROKEN_MANIFESTS)
@pytest.mark.parametrize("path", ["MAR-INF/MANIFEST.json", "MANIFEST.json", "assets/manifest.json"])
def test_a_broken_manifest_is_refused_with_the_reason(
    server: ServerProcess, model_dir: Path, path: str, text: str
) -> None:
    manifest = model_dir / path
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(text)
    before = listed(server)
    answer = server.load(uuid.uuid4().hex, str(model_dir))
    assert answer.status_code == 400, answer.text
    message = answer.json()["message"]
    assert path in message or message == "Runtime is not defined or invalid."
    assert len(message) < 1000
    assert not any(word in message for word in ("Exception", "java.", "gson", "signature.json", str(model_dir)))
    assert listed(server) == before
    manifest.unlink()
    assert_loads(server, uuid.uuid4().hex, model_dir)


def test_a_manifest_that_is_a_folder_is_refused(server: ServerProcess, model_dir: Path) -> None:
    (model_dir / "MAR-INF" / "MANIFEST.json").mkdir(parents=True)
    answer = server.load(uuid.uuid4().hex, str(model_dir))
    assert answer.status_code == 400
    assert "MAR-INF/MANIFEST.json is no manifest of a model archive: it cannot be read." in answer.json()["message"]


# ---- what model code finds ----


def test_model_code_finds_no_credentials(server: ServerProcess, model_dir: Path) -> None:
    name = uuid.uuid4().hex
    assert server.load(name, str(model_dir)).status_code == 200
    seen = server.invoke(name, command("look")).json()
    assert not SECRETS.keys() & seen["environment"].keys()
    assert HARMLESS.items() <= seen["environment"].items()
    assert seen["no_new_privileges"]
    assert all("NoNewPrivs:\t1" in status_of(process) for process in server.processes())
    # not in the environment of any other process either, which runs as the same user and may be looked into
    assert not [process for process in server.processes() if b"the-secret" in environment_of(process)]


def status_of(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/status").read_text()


def environment_of(process: psutil.Process) -> bytes:
    return Path(f"/proc/{process.pid}/environ").read_bytes()


# ---- a place of its own for the management calls ----


@pytest.fixture(scope="module")
def apart() -> Iterator[tuple[ServerProcess, int]]:
    """A server that takes management calls at a port of its own, which is given, and passes credentials on."""
    port = free_port()
    settings: dict[str, Any] = {"SAGEMAKER_HANDLER": HANDLER, "MME_PRELOAD": "none", "MME_HOST": "0.0.0.0"}
    settings |= {"MME_MANAGEMENT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": f"{port}-{port}"}
    credentials: dict[str, Any] = {"MME_PASS_CREDENTIALS": "true", **SECRETS}
    with ServerProcess(**settings, **credentials) as server:
        make_model(server.model_dir("m"))
        yield server, port


def test_management_on_a_port_of_its_own_is_refused_on_the_other(apart: tuple[ServerProcess, int]) -> None:
    server, port = apart
    management = ContainerClient(f"http://127.0.0.1:{port}")
    assert server.load("m").status_code == 404
    assert management.load("m", server.model_url("m")).status_code == 200
    assert server.invoke("m", command("echo", 1)).json() == 1
    assert server.ping().status_code == 200
    assert [server.list_models().status_code, server.describe("m").status_code] == [404, 404]
    assert [server.unload("m").status_code, server.request("PUT", "/models/m").status_code] == [404, 404]
    assert listening_addresses(server, port) == {"127.0.0.1"}
    assert management.unload("m").status_code == 200


def test_credentials_are_passed_on_where_that_is_wanted(apart: tuple[ServerProcess, int]) -> None:
    server, port = apart
    management = ContainerClient(f"http://127.0.0.1:{port}")
    assert management.load("m", server.model_url("m")).status_code == 200
    assert SECRETS.items() <= server.invoke("m", command("look")).json()["environment"].items()
    assert management.unload("m").status_code == 200


def listening_addresses(server: ServerProcess, port: int) -> set[str]:
    connections = server.front_end().net_connections()
    return {each.laddr.ip.removeprefix("::ffff:") for each in connections if each.laddr and each.laddr.port == port}


class UnixConnection(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


def test_management_on_a_unix_socket_the_dry_runs_too() -> None:
    server = ServerProcess(MME_PRELOAD="script", SAGEMAKER_CONTAINER_LOG_LEVEL="10")
    path = server.folder / "management.sock"
    server.settings["MME_MANAGEMENT"] = f"unix:{path}"
    with server:
        assert "ran a model of script" in server.log()
        make_model(server.model_dir("m"))
        connection = UnixConnection(path)
        body = json.dumps({"model_name": "m", "url": server.model_url("m"), "handler": HANDLER})
        connection.request("POST", "/models", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        assert server.invoke("m", command("echo", 1)).json() == 1
        assert server.list_models().status_code == 404
        connection.close()
        assert server.stop() == 0
        assert not path.exists()
