"""What runs inside the front end's JVM besides MMS: src/mme/Agent.java says how it gets there, and what for.

The jar beside this file is built from src/ by ``build``, which needs a JDK; serving does not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

AGENT_JAR = Path(__file__).with_name("mms-agent.jar")
SOURCES = Path(__file__).with_name("src")
PLUGIN_CLASS = "mme.Agent"
PLUGIN_SERVICE = "software.amazon.ai.mms.servingsdk.ModelServerEndpoint"
# Names in the server's private folder.
WORKING_FOLDER = "empty"  # the front end's: supervisor/class_archive.py says why nothing may be in it
PLUGINS_FOLDER = "plugins"
LOAD_POLICY = "load-policy.properties"  # LoadPolicy.java
COMMANDS, ANSWERS = "agent.commands", "agent.answers"  # named pipes: Control.java
EVENTS = "agent.events"  # a named pipe: Events.java


def source_digest() -> str:
    """SHA-256 of all source files: the jar's manifest names that of the source it was built from."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.java")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(SOURCES)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
