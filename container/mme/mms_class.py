"""One class of MMS 1.1.11 with two statements in the other order, put before the original on the JVM's class path.

Every launcher and every worker has a thread of MMS's pool (``WorkerThread.run``), which ends with

    backendChannel.disconnect();      // NullPointerException in a launcher's thread: it has no channel
    currentThread.set(null);          // so this is never reached there

A launcher's thread whose process has died so goes back to the pool while its ``WorkerThread`` still points to it. When
the model is unregistered, ``WorkerThread.shutdown`` interrupts whatever the thread does by then: a load of another
model, which then fails with 500 or is never answered, or the wait for the answer to another model's request ("Worker
died."), or the start of another launcher, which blocks one of the front end's event loops for 60 s. A load that is
refused for lack of memory always leads there: its launcher has to die before the answer is sent
(``ForkServer.refuse_load``). With little memory and several loads at once it happened every few seconds.

With the second statement first, nothing points to a thread that has gone back. (It also keeps the disconnection, which
MMS reacts to by an interrupt, from reaching the thread's next task.)
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import zipfile
from pathlib import Path

logger = logging.getLogger("mme.mms_class")

CLASS_FILE = "com/amazonaws/ml/mms/wlm/WorkerThread.class"
_SHA256 = "9448899c84be4e45c9cbca2dfb5ebd7346af91c6ebf602c43334420266445c1b"
# aload_0, getfield backendChannel, invokeinterface Channel.disconnect, pop
_DISCONNECT = bytes.fromhex("2a b40035 b900710100 57")
# aload_0, getfield currentThread, aconst_null, invokevirtual AtomicReference.set
_FORGET_THREAD = bytes.fromhex("2a b40009 01 b60069")
# javac writes a finally block once for each way into it
_WAYS = 6


def write_class(folder: Path) -> None:
    """Writes the class below ``folder``, the JVM's working folder, which is first on its class path.

    With any other version of MMS nothing is written, and a warning is logged.
    """
    original = _original()
    if original is None:
        logger.warning("this is not the MMS 1.1.11 that is known here: a refused load may disturb other models")
        return
    target = folder / CLASS_FILE
    target.parent.mkdir(parents=True)
    target.write_bytes(swapped(original))


def swapped(original: bytes) -> bytes:
    """The class with the two statements in the other order, wherever they are."""
    assert original.count(_DISCONNECT + _FORGET_THREAD) == _WAYS
    return original.replace(_DISCONNECT + _FORGET_THREAD, _FORGET_THREAD + _DISCONNECT)


def _original() -> bytes | None:
    """The class as it is installed; None where it is another one."""
    package = importlib.util.find_spec("mms")
    if package is None or not package.submodule_search_locations:
        return None
    jar = Path(package.submodule_search_locations[0]) / "frontend" / "model-server.jar"
    try:
        with zipfile.ZipFile(jar) as opened:
            found = opened.read(CLASS_FILE)
    except (OSError, KeyError, zipfile.BadZipFile):
        return None
    return found if hashlib.sha256(found).hexdigest() == _SHA256 else None
