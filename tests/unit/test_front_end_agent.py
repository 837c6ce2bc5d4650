"""The jar in the front end's JVM: what is shipped is what the source says. What it does: tests/integration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from mme.front_end import AGENT_JAR, PLUGIN_CLASS, PLUGIN_SERVICE, source_digest
from mme.settings import Settings
from mme.supervisor import mms_config
from tests.harness.java import compile_java, java_command

BUILD = AGENT_JAR.with_name("build")

# What WorkerThread does when the end of a connection comes right after an answer, before the thread has woken up.
TAKEN_TOO_LATE = """
package mme;

import com.amazonaws.ml.mms.util.messages.RequestInput;
import com.amazonaws.ml.mms.util.messages.WorkerCommands;
import com.amazonaws.ml.mms.wlm.Job;

final class TakenTooLate {
    public static void main(String[] arguments) {
        for (String end : arguments) {
            Batch batch = new Batch();
            Job sent = job("sent");
            Job late = job("late");
            batch.put("sent", sent);
            if (end.equals("disconnected")) {
                batch.isDisconnected();
            } else {
                batch.sessionHasEnded();
            }
            batch.put("late", late);
            boolean isSentAnswered = batch.remove("sent") == sent;
            boolean isLateAnswered = batch.remove("late") == late;
            boolean isSentBegun = !batch.takeNotBegun().contains(sent);
            boolean isLateSent = !batch.takeNeverSent().contains(late);
            System.out.println(isSentAnswered ? "answered" : isSentBegun ? "lost" : "not begun");
            System.out.println(isLateAnswered ? "answered" : isLateSent ? "lost" : "never sent");
        }
    }

    private static Job job(String id) {
        return new Job(null, "m", WorkerCommands.PREDICT, new RequestInput(id));
    }
}
"""

LAST_REPLY = """
package mme;

import com.amazonaws.ml.mms.util.messages.ModelWorkerResponse;
import java.util.concurrent.TimeUnit;

final class LastReply {
    public static void main(String[] arguments) throws InterruptedException {
        Replies replies = new Replies(new Batch());
        ModelWorkerResponse reply = new ModelWorkerResponse();
        replies.offer(reply);
        Thread.currentThread().interrupt();
        System.out.println(replies.poll(1, TimeUnit.SECONDS) == reply ? "heard" : "lost");
        try {
            replies.poll(1, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            System.out.println("interrupted");
        }
    }
}
"""

# What loggers say, in the formats of the configurations that are the arguments.
LOG = """
package mme;

final class Log {
    public static void main(String[] configurations) throws Exception {
        for (String file : configurations) {
            System.setProperty("log4j.configurationFile", "file://" + file);
            Logs logs = new Logs();
            logs.getLogger("com.x.Known").info("Model {}: {}", "a\\u0130\\"\\n[ERROR]", "\\u001b[31m\\ttab");
            logs.getLogger("com.x.Known").debug("too much detail");
            logs.getLogger("com.x.Known").warn("thrown", new IllegalStateException("the reason"));
            logs.getLogger("com.amazonaws.ml.mms.ModelServer").info("one\\ntwo");
            logs.getLogger("ACCESS_LOG").info("/127.0.0.1:1 \\"GET /ping HTTP/1.1\\" 200 0");
            logs.getLogger("ACCESS_LOG").info("/127.0.0.1:1 \\"GET /models/m HTTP/1.1\\" 200 0");
            logs.getLogger("io.netty.channel.Deep").warn("netty warns");
            logs.getLogger("io.netty.channel.Deep").error("netty fails");
        }
    }
}
"""


def manifest() -> dict[str, str]:
    with zipfile.ZipFile(AGENT_JAR) as jar:
        lines = jar.read("META-INF/MANIFEST.MF").decode().replace("\n ", "").splitlines()
    return dict(line.split(": ", 1) for line in lines if line)


def test_the_jar_was_built_from_this_source() -> None:
    assert manifest()["Source-SHA256"] == source_digest(), "run container/mme/front_end/build"


def test_the_jar_holds_a_plugin_and_its_classes() -> None:
    with zipfile.ZipFile(AGENT_JAR) as jar:
        names = jar.namelist()
        assert names[:2] == ["META-INF/MANIFEST.MF", f"META-INF/services/{PLUGIN_SERVICE}"]
        assert jar.read(names[1]).decode().split() == [PLUGIN_CLASS]
    assert all(name.startswith("mme/") and name.endswith(".class") for name in names[2:])


@pytest.mark.ci  # compiles
def test_the_source_makes_these_bytes(tmp_path: Path) -> None:
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("no javac here: a JDK is needed to build the agent")
    answer = subprocess.run([javac, "-version"], capture_output=True, text=True, check=True)
    found, built_with = re.search(r"javac (\d+)", answer.stdout + answer.stderr), manifest()["Javac-Version"]
    assert found
    if found[1] != built_with:
        pytest.skip(f"javac {found[1]} makes other bytes than that of JDK {built_with}, which built the agent")
    subprocess.run([BUILD, tmp_path / "built.jar"], check=True)
    with zipfile.ZipFile(AGENT_JAR) as shipped, zipfile.ZipFile(tmp_path / "built.jar") as built:
        assert shipped.namelist() == built.namelist()
        for name in shipped.namelist():
            assert shipped.read(name) == built.read(name), name
    assert AGENT_JAR.read_bytes() == (tmp_path / "built.jar").read_bytes()


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs above, of the agent's package."""
    folder = tmp_path_factory.mktemp("classes")
    compile_java(folder, TakenTooLate=TAKEN_TOO_LATE, LastReply=LAST_REPLY, Log=LOG)
    return folder


def run_in_agent(classes: Path, name: str, *arguments: str) -> list[str]:
    """The lines that a class of the agent's package prints."""
    done = subprocess.run(java_command(classes, name, *arguments), capture_output=True, text=True, check=True)
    # of the log, which is not configured
    return [line for line in done.stdout.splitlines() if not line.startswith("WARNING: ")]


def test_an_answer_before_the_end_of_its_connection_is_heard(classes: Path) -> None:
    assert run_in_agent(classes, "LastReply") == ["heard", "interrupted"]


def test_a_request_that_is_taken_after_the_end_of_its_connection_is_anothers(classes: Path) -> None:
    """The worker's thread may take it before it hears of the end. What was sent before may have been begun."""
    said = run_in_agent(classes, "TakenTooLate", "disconnected", "session ended")
    assert said == ["answered", "never sent", "not begun", "never sent"]


def test_the_log_has_a_line_or_an_object_for_each_message_that_is_asked_for(classes: Path, tmp_path: Path) -> None:
    files = []
    for log_format in ("text", "json"):
        file = tmp_path / f"{log_format} é.properties"
        settings = Settings.from_environment({"MME_LOG_FORMAT": log_format})
        file.write_text(mms_config.log_properties(settings), encoding="latin-1")
        files.append(str(file))
    lines = run_in_agent(classes, "Log", *files)

    objects = [json.loads(line) for line in lines if line.startswith("{")]
    for each in objects:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", each["time"])
    access = '/127.0.0.1:1 "GET /models/m HTTP/1.1" 200 0'
    thrown = objects[1]["message"].splitlines()
    assert [(each["level"], each["logger"], each["thread"], each["message"]) for each in objects] == [
        ("INFO", "Known", "main", 'Model a\u0130"\n[ERROR]: \x1b[31m\ttab'),
        ("WARN", "Known", "main", "\n".join(thrown)),
        ("INFO", "ModelServer", "main", "one\ntwo"),
        ("INFO", "ACCESS_LOG", "main", access),
        ("ERROR", "Deep", "main", "netty fails"),
    ]
    assert thrown[:2] == ["thrown", "java.lang.IllegalStateException: the reason"]

    text = [line for line in lines if not line.startswith("{")]
    stamps = [line[:23] for line in text if "] " in line]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}", stamp) for stamp in stamps)
    assert [line[24:] if line[:1].isdigit() else line for line in text] == [
        '[INFO ] Known - Model a\u0130"\\n[ERROR]: ?[31m\ttab',
        "[WARN ] Known - thrown",
        *thrown[1:],
        "[INFO ] ModelServer - one",
        "two",
        f"[INFO ] ACCESS_LOG - {access}",
        "[ERROR] Deep - netty fails",
    ]
