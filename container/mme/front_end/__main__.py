"""``python -m mme.front_end CLASSES JAR JAVAC_VERSION``: packs compiled classes into a jar, for ``build``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from mme.front_end import PLUGIN_CLASS, PLUGIN_SERVICE, source_digest

_TIMESTAMP = (2020, 1, 1, 0, 0, 0)  # the same bytes whenever it is built


def pack(classes: Path, jar: Path, javac_version: str) -> None:
    """Writes ``jar``: a manifest that names the digest of the source, the plug-in's registration, and the classes."""
    digest = source_digest()
    manifest = [
        "Manifest-Version: 1.0",
        f"Javac-Version: {javac_version}",  # other compilers make other bytes
        f"Source-SHA256: {digest[:48]}",  # a line has at most 72 bytes; a blank continues it
        f" {digest[48:]}",
    ]
    entries = {
        "META-INF/MANIFEST.MF": "".join(f"{line}\n" for line in [*manifest, ""]).encode(),
        f"META-INF/services/{PLUGIN_SERVICE}": f"{PLUGIN_CLASS}\n".encode(),
        **{str(path.relative_to(classes)): path.read_bytes() for path in sorted(classes.rglob("*.class"))},
    }
    new = jar.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _TIMESTAMP), content, zipfile.ZIP_DEFLATED)
    new.replace(jar)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
