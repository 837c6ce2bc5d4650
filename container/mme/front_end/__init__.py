"""What runs inside the front end's JVM besides MMS: src/mme/FrontEndGuard.java says what and why.

The jar beside this file is built from src/ by ``build``, which needs a JDK; serving does not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

GUARD_JAR = Path(__file__).with_name("front-end-guard.jar")
GUARD_RULES = "front-end-guard.properties"  # in the front end's working folder: Rules.java
SOURCES = Path(__file__).with_name("src")


def source_digest() -> str:
    """SHA-256 of all source files: the jar's manifest names that of the source it was built from."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.java")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(SOURCES)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
