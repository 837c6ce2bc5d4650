"""Immortal objects, in a process of their own: on each Python of this machine that has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mme.zygote import immortal
from mme.zygote.immortal import why_not

CONTAINER_DIR = Path(immortal.__file__).parents[2]


def pythons() -> list[str]:
    """This interpreter, and others that really start, 3.12 or later."""
    found = [sys.executable] if sys.version_info >= (3, 12) else []
    for minor in (12, 13, 14):
        installed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        candidates: list[str | None] = [shutil.which(f"python3.{minor}"), *map(str, installed)]
        for path in filter(None, candidates):
            probe = subprocess.run([path, "-c", ""], capture_output=True, check=False)
            if probe.returncode == 0 and path not in found:
                found.append(path)
                break
    return found


@pytest.fixture(params=pythons() or [""])
def python(request: pytest.FixtureRequest) -> str:
    if not request.param:
        pytest.skip("no Python 3.12 or later on this machine: objects cannot be made immortal")
    return str(request.param)


def run(python: str, program: str) -> str:
    finished = subprocess.run(
        [python, "-c", program],
        env={**os.environ, "PYTHONPATH": str(CONTAINER_DIR)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_what_exists_is_immortal_and_what_comes_later_is_not(python: str) -> None:
    program = """
import gc, json, sys
from mme.zygote import immortal
assert immortal.why_not() is None, immortal.why_not()
class Thing:
    def __init__(self): self.part = {"list": [1.5, "text" * 3]}
    def method(self): return "a constant of code", 12345.678
thing = Thing()
gc.disable()
assert immortal.make_all_immortal() > 1000
gc.freeze()
old = [thing, thing.part, thing.part["list"][1], Thing, Thing.method, Thing.method.__code__, json, json.dumps]
old += [Thing.method.__code__.co_consts, 12345.678, vars(json), json.JSONDecodeError]
for each in old:
    assert immortal.is_immortal(each), each
    count = sys.getrefcount(each)
    holders = [each] * 100
    assert sys.getrefcount(each) == count, each
    del holders
    assert sys.getrefcount(each) == count, each
assert not immortal.is_immortal(Thing())
assert not immortal.is_immortal([])
print("done")
"""
    assert run(python, program) == "done"


def test_no_code_of_an_object_is_run(python: str) -> None:
    program = """
from mme.zygote import immortal
class Deprecated:
    __class__ = property(lambda self: print("asked what it is"))
thing = Deprecated()
immortal.make_all_immortal()
assert immortal.is_immortal(thing)
print("done")
"""
    assert run(python, program) == "done"


def test_a_forked_child_runs_and_frees_its_own_objects(python: str) -> None:
    program = """
import collections, decimal, gc, io, itertools, json, os, re, threading, weakref
from mme.zygote import immortal
text, data, table, array = "abc" * 5, bytes(range(20)), {"k": [1]}, bytearray(b"xyz")
buffer, cached = io.BytesIO(b"before"), {}
counter, items, pattern = itertools.count(10 ** 6), iter({"a": 1, "b": 2}.items()), re.compile("b+")
class Base: pass
kept = Base()
gc.disable()
immortal.make_all_immortal()
gc.freeze()
child = os.fork()
if child == 0:
    code = 1
    try:
        gc.enable()
        longer = text; longer += "def"; assert (text, longer) == ("abc" * 5, "abc" * 5 + "def")
        more = data; more += b"!"; assert len(data) == 20 and more[-1:] == b"!"
        array.extend(b"123" * 10000); assert len(array) == 30003
        table["k"].extend(range(100_000)); assert len(table["k"]) == 100_001
        table.clear(); table.update((str(n), n) for n in range(1000)); assert len(table) == 1000
        view = buffer.getvalue(); buffer.write(b"AFTER!!"); assert (view, buffer.getvalue()) == (b"before", b"AFTER!!")
        assert next(counter) == 10 ** 6 and dict(items) == {"a": 1, "b": 2} and pattern.findall("abba") == ["bb"]
        class Derived(Base):
            def __del__(self): cached["deleted"] = cached.get("deleted", 0) + 1
        Derived(); Derived(); assert cached["deleted"] == 2
        cycle = Derived(); cycle.itself = cycle; watched = weakref.ref(cycle); del cycle
        gc.collect(); assert watched() is None and cached["deleted"] == 3
        Base.added = 1; kept.attribute = "x"; assert kept.added == 1; del kept.attribute; del Base.added
        try: json.loads("{")
        except json.JSONDecodeError as error: assert error.pos == 1
        numbers = []; thread = threading.Thread(target=numbers.append, args=(1,)); thread.start(); thread.join()
        assert numbers == [1]
        assert json.loads(json.dumps({"a": [1, 2.5, None, "é"]})) == {"a": [1, 2.5, None, "é"]}
        assert collections.namedtuple("Pair", "a b")(1, 2)._replace(a=3) == (3, 2)
        assert decimal.Decimal("1.1") + 1 == decimal.Decimal("2.1")
        for _ in range(3): gc.collect()
        code = 0
    finally:
        if code: import traceback; traceback.print_exc()
        os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(python, program) == "0"


def test_it_is_off_where_counts_move_although_they_should_not(python: str) -> None:
    program = """
from mme.zygote import immortal
immortal._immortal_count = lambda: 0x80000001
print(immortal.why_not())
"""
    assert run(python, program) == "the count of an object that was made immortal still moves"


def test_python_3_11_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    assert why_not() == "it takes CPython 3.12 or later"


PREPARE = """
import logging, os, sys, tempfile
from pathlib import Path
from mme import threads
threads.set_default(os.environ)
from mme.settings import Settings
from mme.zygote import immortal, template_preparation
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
if {reason!r}:
    immortal.why_not = lambda: {reason!r}
with tempfile.TemporaryDirectory() as folder:
    template_preparation.prepare("", frozenset(), Settings(), Path(folder), lambda part: None)
import model_handler, numpy
found = [numpy.__dict__, numpy.zeros, model_handler.__dict__, model_handler.ModelHandler, sys.modules, Settings]
print([immortal.is_immortal(each) for each in found])
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="objects cannot be made immortal before Python 3.12")
def test_the_objects_of_a_real_template_are_immortal() -> None:
    said = run(sys.executable, PREPARE.format(reason=""))
    assert "objects are counted" not in said
    assert said.splitlines()[-1] == str([True] * 6)


def test_a_template_says_why_its_objects_are_counted() -> None:
    said = run(sys.executable, PREPARE.format(reason="it was switched off"))
    assert "objects are counted, which costs each worker a few MB: it was switched off" in said
