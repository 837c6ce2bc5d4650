"""Packing a model folder: what is refused, and that what is packed is what SageMaker expects."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.programs.archives import entries, sha256_of, write_archive, write_outline
from scripts.programs.console import Failure, readable_size
from scripts.programs.model_check import packages_of
from scripts.programs.upload_models import check_archive
from tests.harness import scripts, tables
from tests.harness.models import tiny_classifier, two_input_model
from tests.harness.program_calls import call
from tests.harness.references import FOLDER as REFERENCES
from tests.harness.wheels import write_wheel

pytestmark = pytest.mark.slow  # it starts programs


@pytest.fixture(scope="module")
def untouched_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("package") / "digits")


@pytest.fixture
def model(untouched_model: Path, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for file in untouched_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def package_model(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call("package_model", *map(str, arguments))


def pack(folder: Path, out: Path) -> Path:
    return write_archive(entries(folder)[0], out).path


# ---- the archive ----


def test_a_model_that_answers_is_packed_with_its_files_at_the_top(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "digits.tar.gz"
    done = package_model(model, out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "MXNet chatters"
    assert "loads and answers: [" in done.stdout
    assert "probability=" in done.stdout
    takes = "application/json, text/csv, application/x-npy, application/jsonlines, application/x-npz, image/*"
    assert f"  mxnet; takes {takes}\n" in done.stdout
    assert f"{out}: {readable_size(out.stat().st_size)}, sha256 {sha256_of(out)}" in done.stdout
    with tarfile.open(out, "r:gz") as tar:
        assert sorted(tar.getnames()) == sorted(path.name for path in model.iterdir())
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == (model / member.name).read_bytes()
    assert list(out.parent.iterdir()) == [out], "something else was left beside the archive"


def test_a_model_with_several_inputs_is_asked_too(tmp_path: Path) -> None:
    done = package_model(two_input_model(tmp_path / "two"), tmp_path / "two.tar.gz")
    assert done.returncode == 0, done.stderr


def test_the_same_content_gives_the_same_bytes_whatever_its_times_modes_and_order(model: Path, tmp_path: Path) -> None:
    first = pack(model, tmp_path / "first.tar.gz").read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sorted(model.iterdir(), reverse=True):
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o755)
        os.utime(copy / file.name, (1, 1))
    assert pack(copy, tmp_path / "second.tar.gz").read_bytes() == first


def test_members_belong_to_root_at_time_zero_with_plain_modes(model: Path, tmp_path: Path) -> None:
    (model / "code").mkdir(mode=0o700)
    (model / "code" / "extra.py").write_text("pass\n")
    (model / "code" / "extra.py").chmod(0o700)
    with tarfile.open(pack(model, tmp_path / "out.tar.gz")) as tar:
        members = {member.name: member for member in tar}
    assert members["code"].isdir()
    assert members["code"].mode == 0o755
    owners = {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members.values()}
    assert owners == {(0, 0, "", "", 0)}
    assert {each.mode for each in members.values() if each.isfile()} == {0o644}


def test_what_editors_leave_behind_stays_out_and_is_named(model: Path, tmp_path: Path) -> None:
    (model / ".DS_Store").write_bytes(b"x")
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "a.pyc").write_bytes(b"x")
    (model / "._synset.txt").write_bytes(b"x")
    done = package_model("--no-load", model, tmp_path / "out.tar.gz")
    assert done.returncode == 0, done.stderr
    assert "left out: .DS_Store, ._synset.txt, __pycache__" in done.stderr
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert not [name for name in tar.getnames() if "." in name[:1] or "pycache" in name]


def test_every_byte_is_reported_for_the_progress_bar(model: Path, tmp_path: Path) -> None:
    told: list[int] = []
    members = entries(model)[0]
    write_archive(members, tmp_path / "out.tar.gz", advance=told.append)
    assert sum(told) == sum(path.stat().st_size for path in model.iterdir())


# ---- before an upload ----


def packed(folder: Path, out: Path, top: str = "") -> Path:
    """As a user's own ``tar`` packs it, below ``top``."""
    with tarfile.open(out, "w:gz") as tar:
        tar.add(folder, arcname=top or ".")
    return out


def test_an_archive_with_its_files_at_the_top_passes_the_check_of_uploads(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_archive(packed(model, tmp_path / "m.tar.gz"))
    assert capsys.readouterr().err == ""


def test_an_archive_one_folder_too_deep_is_not_uploaded(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"m\.tar\.gz: The model's files are in the folder digits/.*--no-check"):
        check_archive(packed(model, tmp_path / "m.tar.gz", top="digits"))


def test_a_script_one_folder_too_deep_is_told_too_and_a_handler_of_ones_own_is_not(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    scripts.adder(outer / "adder")
    with pytest.raises(Failure, match="in the folder adder/"):
        check_archive(packed(outer, tmp_path / "m.tar.gz"))
    (outer / "MAR-INF").mkdir()
    (outer / "MAR-INF" / "MANIFEST.json").write_text("{}")
    check_archive(packed(outer, tmp_path / "m.tar.gz"))


def test_files_of_macos_are_named_before_an_upload(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "._model-symbol.json").write_bytes(b"x")
    check_archive(packed(model, tmp_path / "m.tar.gz"))
    assert "holds 1 files ._* of macOS" in capsys.readouterr().err


def test_an_archive_that_was_cut_short_is_not_uploaded(model: Path, tmp_path: Path) -> None:
    whole = packed(model, tmp_path / "m.tar.gz").read_bytes()
    (tmp_path / "m.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failure, match=r"m\.tar\.gz is not a tar\.gz archive"):
        check_archive(tmp_path / "m.tar.gz")


def test_members_that_lead_elsewhere_are_not_written_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "outline").mkdir()
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        for name in ("../outside", "/outside", "a/../../outside", "a/b/c/d"):
            tar.addfile(tarfile.TarInfo(name))
    assert len(write_outline(tmp_path / "m.tar.gz", tmp_path / "outline")) == 4
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m.tar.gz", "outline"]


# ---- what is refused ----


def refuse(model: Path, tmp_path: Path, *arguments: str) -> str:
    """Runs the program, which must fail without an archive or a traceback, and returns what it says."""
    out = tmp_path / "refused.tar.gz"
    out.write_bytes(b"as before")
    done = package_model(*arguments, model, out)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == b"as before"
    assert not list(tmp_path.glob(".*"))
    return done.stderr


def test_a_symbolic_link_is_refused_even_to_a_file_inside(model: Path, tmp_path: Path) -> None:
    (model / "labels.txt").symlink_to("synset.txt")
    said = refuse(model, tmp_path, "--no-load")
    assert "labels.txt is a symbolic link (to synset.txt)" in said


def test_a_linked_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "etc").symlink_to("/etc")
    assert "etc is a symbolic link" in refuse(model, tmp_path, "--no-load")


def test_a_pipe_is_refused(model: Path, tmp_path: Path) -> None:
    os.mkfifo(model / "pipe")
    assert "neither a file nor a folder" in refuse(model, tmp_path, "--no-load")


def test_a_name_with_a_control_character_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "bad\nname").write_text("x")
    assert "control character" in refuse(model, tmp_path, "--no-load")


def test_invalid_json_is_named_with_its_line(model: Path, tmp_path: Path) -> None:
    (model / "model-shapes.json").write_text('[{"name": "data",\n "shape": [1, 1, 28, 28}]')
    assert "model-shapes.json is not valid JSON: Expecting ',' delimiter in line 2" in refuse(model, tmp_path)


def test_a_broken_parameter_file_is_refused_without_loading(model: Path, tmp_path: Path) -> None:
    (model / "model-0000.params").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "not a file of MXNet parameters" in refuse(model, tmp_path, "--no-load")


def test_a_missing_file_is_named(model: Path, tmp_path: Path) -> None:
    (model / "model-shapes.json").unlink()
    assert "holds 0 files *-shapes.json" in refuse(model, tmp_path, "--no-load")


def test_a_model_that_does_not_load_is_refused_with_the_reason(model: Path, tmp_path: Path) -> None:
    shapes = [{"name": "data", "shape": [1, 3, 28, 28]}]  # the weights are for one channel
    (model / "model-shapes.json").write_text(json.dumps(shapes))
    assert "the model does not load" in refuse(model, tmp_path)


def test_a_model_in_a_folder_inside_is_refused_with_the_folders_name(model: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    model.rename(outer / "digits")
    said = refuse(outer, tmp_path, "--no-load")
    assert "The model's files are in the folder digits/, and must be at the top of the archive." in said


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert "holds no model that is known here" in refuse(tmp_path / "empty", tmp_path, "--no-load")


def test_a_file_that_shrinks_while_it_is_packed_spoils_nothing(model: Path, tmp_path: Path) -> None:
    members = entries(model)[0]
    (model / "synset.txt").write_text("")
    (tmp_path / "out.tar.gz").write_bytes(b"as before")
    with pytest.raises(Failure, match="shrank"):
        write_archive(members, tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").read_bytes() == b"as before"
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_grows_while_it_is_packed_spoils_nothing(model: Path, tmp_path: Path) -> None:
    members = entries(model)[0]
    with (model / "synset.txt").open("a") as file:
        file.write("eleven\n")
    with pytest.raises(Failure, match="grew"):
        write_archive(members, tmp_path / "out.tar.gz")
    assert not (tmp_path / "out.tar.gz").exists()


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("digits", "digits.zip", "must end in .tar.gz"),
        ("missing", "digits.tar.gz", "is no folder"),
        ("digits", "digits/digits.tar.gz", "in the folder that it packs"),
    ],
)
def test_bad_usage_is_exit_code_2_and_says_what_is_wrong(
    model: Path, tmp_path: Path, folder: str, out: str, message: str
) -> None:
    done = package_model(tmp_path / folder, tmp_path / out)
    assert done.returncode == 2
    assert message in done.stderr


def test_sizes_read_well() -> None:
    assert [readable_size(size) for size in (0, 999, 1000, 4_940_000, 231_000_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "4.9 MB",
        "231.0 GB",
    ]


def test_the_printed_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


# ---- any model, as the container loads it ----


def checks(folder: Path, tmp_path: Path, *arguments: str | Path) -> str:
    """What a check says that ends well, and writes the archive."""
    done = package_model(*arguments, folder, tmp_path / "packed.tar.gz")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "packed.tar.gz").exists()
    return done.stdout


def of_xgboost(folder: Path) -> Path:
    """One that is there already: to train one, this process would import the library too."""
    folder.mkdir()
    shutil.copy(REFERENCES / "xgboost-0.90-regression.model", folder / "xgboost-model")
    return folder


@pytest.mark.parametrize(
    ("framework", "make"),
    [
        ("xgboost", of_xgboost),
        pytest.param("sklearn", tables.sklearn_model, marks=pytest.mark.ci),
        pytest.param("lightgbm", tables.lightgbm_model, marks=pytest.mark.ci),
    ],
)
def test_a_model_of_a_table_is_asked_with_zeros_and_says_what_it_takes(
    tmp_path: Path, framework: str, make: Callable[[Path], Path]
) -> None:
    said = checks(make(tmp_path / "houses"), tmp_path)
    assert "loads and answers: [" in said
    assert f"  {framework}; takes text/csv, application/json, application/jsonlines, application/x-npy" in said


def test_a_script_answers_a_sample_by_its_suffix_or_by_its_type(tmp_path: Path) -> None:
    folder = scripts.script(
        tmp_path / "model",
        """
        def model_fn(model_dir):
            return open("code/inference.py").name

        def transform_fn(model, body, content_type, accept):
            print("chatter")
            return f"{content_type}: {len(body)}", "text/plain"
        """,
    )
    assert "loads; its program was not asked (--sample FILE asks it)" in checks(folder, tmp_path)
    (tmp_path / "sample.csv").write_text("1,2\n")
    said = checks(folder, tmp_path, "--sample", tmp_path / "sample.csv")
    assert "loads and answers: text/csv: 4\n" in said
    assert "script; takes whatever its program reads" in said
    assert "chatter" not in said
    (tmp_path / "sample").write_text("1,2\n")
    assert "does not tell its content type" in refuse(folder, tmp_path, "--sample", str(tmp_path / "sample"))
    said = checks(folder, tmp_path, "--sample", tmp_path / "sample", "--content-type", "a/b")
    assert "loads and answers: a/b: 4\n" in said


def test_a_script_without_input_fn_takes_what_the_toolkit_decodes(tmp_path: Path) -> None:
    said = checks(scripts.adder(tmp_path / "model"), tmp_path)
    assert "takes application/json, text/csv, application/x-npy, application/x-npz" in said


@pytest.mark.ci  # trains
def test_djls_archive_and_one_with_a_handler_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text("[[2.0]]")
    said = checks(scripts.thousand_models(tmp_path / "djl"), tmp_path, "--sample", tmp_path / "sample.json")
    assert "loads and answers: 4.0" in said
    said = checks(scripts.reverser(tmp_path / "mms"), tmp_path, "--sample", tmp_path / "sample.json")
    assert "loads and answers: ]]0.2[[" in said


def test_a_bad_value_of_serving_properties_is_told_for_a_handler_of_ones_own_too(tmp_path: Path) -> None:
    folder = scripts.reverser(tmp_path / "model")
    (folder / "serving.properties").write_text("option.mine=1\nbatch_size=many\n")
    assert "serving.properties, line 2: batch_size=many is not allowed" in refuse(folder, tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise ValueError('broken')",
            "the model does not load: code/inference.py cannot be imported: ValueError: broken",
        ),
        ("import os; os._exit(0)", "the model ends its process with exit code 0, when it is to load"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "ends its process by SIGSEGV, when it is to load",
            marks=pytest.mark.ci,
        ),
        pytest.param(
            "def model_fn(d): raise SystemExit(3)",
            "the model does not load: model_fn of code/inference.py failed: it ended the program",
            marks=pytest.mark.ci,
        ),
    ],
)
def test_a_program_can_spoil_its_own_check_alone(tmp_path: Path, source: str, message: str) -> None:
    done = package_model(scripts.script(tmp_path / "model", source), tmp_path / "out.tar.gz")
    assert done.returncode == 1, done.stdout
    assert message in done.stderr
    assert not (tmp_path / "out.tar.gz").exists()


def test_a_program_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_TIMEOUT", "1")
    said = refuse(scripts.script(tmp_path / "model", "while True: pass"), tmp_path)
    assert "the model takes longer than 1 s to load (SAGEMAKER_MODEL_SERVER_TIMEOUT)" in said


def test_a_request_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text("{")
    said = refuse(scripts.adder(tmp_path / "model"), tmp_path, "--sample", str(tmp_path / "sample.json"))
    assert "the model loads, but answers its sample with 400" in said


@pytest.mark.parametrize("setting", ["MME_MODEL_REQUIREMENTS", "MME_MODEL_CODE"])
def test_packages_that_the_container_refuses_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    (tmp_path / "requirements.txt").write_text("only_here\n")
    monkeypatch.setenv(setting, "refuse")
    with pytest.raises(Failure, match=rf"asks for packages \(requirements.txt\), and {setting}=refuse"):
        packages_of(tmp_path, install=True).__enter__()


def test_packages_that_the_container_ignores_are_ignored_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requirements.txt").write_text("only_here\n")
    monkeypatch.setenv("MME_MODEL_REQUIREMENTS", "ignore")
    with packages_of(tmp_path, install=True) as packages:
        assert packages is None
    assert "ignored: the packages of requirements.txt (MME_MODEL_REQUIREMENTS=ignore)" in capsys.readouterr().out


@pytest.mark.ci  # installs
def test_packages_are_installed_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = scripts.script(
        tmp_path / "model", "import only_here\ndef model_fn(model_dir):\n    return lambda data: only_here.ANSWER\n"
    )
    write_wheel(folder / "code" / "wheels", "only_here", "ANSWER = 42\n")
    (folder / "code" / "requirements.txt").write_text("only_here\n")
    without = package_model(folder, tmp_path / "out.tar.gz")
    assert without.returncode == 1
    assert "not installed: the packages of code/requirements.txt (--with-packages" in without.stdout
    assert "No module named 'only_here'" in without.stderr
    said = checks(folder, tmp_path, "--with-packages")
    assert "its packages can be installed" in said and "loads; its program was not asked" in said
    (folder / "code" / "requirements.txt").write_text("--no-index\nnowhere_at_all\n")
    assert "nowhere_at_all" in refuse(folder, tmp_path, "--with-packages").replace("-", "_")
