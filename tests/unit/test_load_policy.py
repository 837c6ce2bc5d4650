"""What may be loaded, decided without a server: roots, names, handlers, search path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mme.errors import ModelRefused
from mme.settings import Settings
from mme.zygote.load_policy import STORE, LoadPolicy, write_store


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "ml" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def model(roots: Path) -> Path:
    folder = roots / "m" / "model"
    folder.mkdir(parents=True)
    (folder / "own.py").touch()
    return folder


def load_policy(tmp_path: Path, python_path: str = "/server", **changes: object) -> LoadPolicy:
    settings = Settings(base_dir=tmp_path / "ml", **{"multi_model": True, **changes})  # type: ignore[arg-type]
    return LoadPolicy.for_server(settings, tmp_path / "run", python_path)


def check(load_policy: LoadPolicy, folder: Path, handler: str = "own:handle", name: str = "m") -> Path:
    return load_policy.check(name, f"{load_policy.store}{folder}", handler, [str(folder)])


def test_the_store_leads_to_the_roots_and_nowhere_else(tmp_path: Path, roots: Path) -> None:
    store = write_store(tmp_path, [roots, Path("/no/such/folder")])
    assert (store / roots.relative_to("/")).resolve() == roots
    assert (store / "no/such/folder").readlink() == Path("/no/such/folder")
    assert {path.name for path in store.iterdir()} == {tmp_path.parts[1], "no"}


def test_a_root_in_another_needs_no_link_of_its_own(tmp_path: Path, roots: Path) -> None:
    store = write_store(tmp_path, [roots, roots / "inner"])
    assert (store / roots.relative_to("/")).is_symlink()
    assert not (roots / "inner").exists()


def test_a_root_that_is_a_link_can_be_named_either_way(tmp_path: Path, roots: Path, model: Path) -> None:
    (tmp_path / "alias").symlink_to(roots)
    store = write_store(tmp_path, [tmp_path / "alias"])
    for name in (roots, tmp_path / "alias"):
        assert (store / name.relative_to("/") / "m" / "model").samefile(model)


def test_all_of_the_machine_can_be_a_root(tmp_path: Path, model: Path) -> None:
    assert (write_store(tmp_path, [Path("/")]) / model.relative_to("/")).samefile(model)
    assert check(load_policy(tmp_path, model_roots=(Path("/"),)), model) == model


def test_the_folder_is_worded_as_the_request_had_it(tmp_path: Path, model: Path) -> None:
    rules = load_policy(tmp_path)
    assert rules.folder_of(f"{rules.store}{model}") == model
    assert rules.folder_of(str(rules.store)) == Path("/")
    assert rules.folder_of("/elsewhere") == Path("/elsewhere")
    assert rules.store == tmp_path / "run" / STORE


def test_a_root_is_a_model_in_single_model_mode_alone(tmp_path: Path, roots: Path) -> None:
    single = tmp_path / "ml" / "model"
    single.mkdir()
    assert check(load_policy(tmp_path, multi_model=False), single) == single
    with pytest.raises(ModelRefused, match="is not below"):
        check(load_policy(tmp_path), roots)


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path: Path, roots: Path) -> None:
    neighbour = roots.with_name("models-of-others") / "m"
    neighbour.mkdir(parents=True)
    with pytest.raises(ModelRefused, match="MME_MODEL_ROOTS"):
        check(load_policy(tmp_path), neighbour)


def test_a_file_is_no_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelRefused, match="no folder"):
        check(load_policy(tmp_path), model / "own.py")


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "a/b", "..", "x" * 256, "\ud800", "\u2028", "\x85"])
def test_a_name_that_could_mislead_is_refused(tmp_path: Path, model: Path, name: str) -> None:
    with pytest.raises(ModelRefused, match="the model's name"):
        check(load_policy(tmp_path), model, name=name)


def test_the_search_path_keeps_what_is_the_servers_or_the_models(tmp_path: Path, model: Path) -> None:
    wanted = ["/evil", "own", "/server", str(model), "/run/home", str(model / "code"), "../..", str(model / "..")]
    assert load_policy(tmp_path).python_path(":".join(wanted), str(model)).split(":") == [
        "own",
        "/server",
        str(model),
        str(model / "code"),
    ]


def test_code_of_a_model_is_searched_before_its_folder_and_after_what_is_the_servers(
    tmp_path: Path, model: Path
) -> None:
    wanted = f"/server:{model}"
    assert load_policy(tmp_path).python_path(wanted, str(model)) == wanted
    (model / "code").mkdir()
    assert load_policy(tmp_path).python_path(wanted, str(model)) == f"/server:{model}/code:{model}"
    assert load_policy(tmp_path).python_path("/server", str(model)) == f"/server:{model}/code"


def test_code_that_is_a_link_out_of_the_model_is_not_searched(tmp_path: Path, model: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (model / "code").symlink_to(tmp_path / "elsewhere")
    assert load_policy(tmp_path).python_path("/server", str(model)) == "/server"


def test_nothing_of_a_model_that_is_data_alone_is_searched(tmp_path: Path, model: Path) -> None:
    (model / "code").mkdir()
    rules = load_policy(tmp_path, model_code="refuse")
    assert rules.python_path(f"own:/server:{model}:{model}/code", str(model)) == "/server"
    single = load_policy(tmp_path, model_code="refuse", multi_model=False)
    code = tmp_path / "ml/model/code"
    code.mkdir(parents=True)
    assert single.python_path(f"{code}:/server", str(code.parent)) == "/server"


@pytest.mark.parametrize("handler", ["own:handle", "own.py", "inner/own.py:handle", "coded:handle"])
def test_a_handler_in_a_model_that_is_data_alone_is_refused(tmp_path: Path, model: Path, handler: str) -> None:
    (model / "code").mkdir()
    (model / "code/coded.py").touch()
    rules = load_policy(tmp_path, model_code="refuse")
    for search_path in ([], [str(model)]):
        with pytest.raises(ModelRefused, match=r"brings code .*MME_MODEL_CODE=refuse.*: MXNet, ONNX, .*skops"):
            rules.check("m", str(model), handler, search_path)


def test_packages_of_a_model_that_is_data_alone_are_refused(tmp_path: Path, model: Path) -> None:
    (model / "requirements.txt").write_text("numpy\n")
    rules = load_policy(tmp_path, model_code="refuse", handler="server:handle")
    with pytest.raises(ModelRefused, match=r"asks for packages .*MME_MODEL_CODE=refuse"):
        rules.check("m", str(model), "server:handle", [])


def test_an_old_manifest_in_a_model_that_is_data_alone_is_refused(tmp_path: Path, model: Path) -> None:
    (model / "MANIFEST.json").touch()
    with pytest.raises(ModelRefused, match="brings code"):
        load_policy(tmp_path, model_code="refuse").check("m", str(model), "own.py", [])


def test_the_servers_own_handler_serves_a_model_that_is_data_alone(tmp_path: Path, model: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server/own.py").touch()
    rules = load_policy(tmp_path, str(tmp_path / "server"), model_code="refuse")
    assert rules.check("m", str(model), "own:handle", [str(tmp_path / "server")]) == model


def test_nothing_of_a_folder_outside_of_the_roots_is_searched(tmp_path: Path) -> None:
    assert load_policy(tmp_path).python_path("/evil:/server:/evil/code", "/evil") == "/server"


def test_the_operators_handler_is_trusted_with_its_folder(tmp_path: Path, model: Path) -> None:
    rules = load_policy(tmp_path, handler="/opt/program/serve.py:handle")
    assert rules.python_path(f"/opt/program:{model}", str(model)) == f"/opt/program:{model}"
    assert check(rules, model, "/opt/program/serve.py:handle") == model
    with pytest.raises(ModelRefused, match="neither in the model's folder"):
        check(rules, model, "/opt/other/serve.py:handle")


@pytest.mark.parametrize("handler", ["own", "own.py:handle", "own:handle", "package.module:f", "os:getcwd", "absent:f"])
def test_handlers_of_the_model_and_of_python_are_allowed(tmp_path: Path, model: Path, handler: str) -> None:
    (model / "package").mkdir()
    (model / "package" / "__init__.py").touch()
    (model / "package" / "module.py").touch()
    assert check(load_policy(tmp_path), model, handler) == model


@pytest.mark.parametrize("handler", ["/evil:handle", "/own:handle", "../own:handle", "own\n:handle", "linked.module:f"])
def test_other_handlers_are_not(tmp_path: Path, model: Path, handler: str) -> None:
    (model / "linked").mkdir()
    (model / "linked" / "__init__.py").touch()
    outside = tmp_path / "module.py"
    outside.touch()
    (model / "linked" / "module.py").symlink_to(outside)
    with pytest.raises(ModelRefused, match="the handler"):
        check(load_policy(tmp_path), model, handler)


def test_a_package_is_looked_at_without_being_imported(tmp_path: Path, model: Path) -> None:
    (model / "package").mkdir()
    (model / "package" / "__init__.py").write_text("raise SystemExit('imported')")
    (model / "package" / "module.py").touch()
    assert check(load_policy(tmp_path), model, "package.module:handle") == model


def test_a_refusal_is_the_requests_fault(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as refusal:
        check(load_policy(tmp_path), Path("/etc"))
    assert refusal.value.status == 400


def test_a_model_is_resolved_a_few_times_whatever_is_on_the_search_path(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that wakes does this while a request waits: a look at each folder above, each time."""
    wanted = os.pathsep.join([str(model), *(f"{model}/{number}" for number in range(5))])
    resolved: list[Path] = []
    resolve = Path.resolve

    def counted(path: Path) -> Path:
        resolved.append(path)
        return resolve(path)

    monkeypatch.setattr(Path, "resolve", counted)
    rules = load_policy(tmp_path)
    resolved.clear()
    rules.python_path(wanted, str(model))
    rules.check("m", str(model), "model_handler:handle", [])
    assert resolved.count(model) <= 4  # as the model's folder twice, and as a folder on the path
