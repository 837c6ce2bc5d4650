"""What runs inside the front end's JVM besides MMS: src/mme/FrontEndGuard.java says what and why.

The jar beside this file is built from it by ``build``, which needs a JDK; serving does not.
"""

from __future__ import annotations

from pathlib import Path

GUARD_JAR = Path(__file__).with_name("front-end-guard.jar")
GUARD_SOURCE = Path(__file__).with_name("src") / "mme" / "FrontEndGuard.java"
