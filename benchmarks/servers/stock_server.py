"""Starts stock Multi Model Server: ``python -m benchmarks.servers.stock_server FOLDER HANDLER``.

``sagemaker_inference.model_server.start_model_server`` does everything, with its own configuration and log settings.
Only what would keep a second server from running on this machine is made private to FOLDER: where the configuration
is written, where MMS keeps temporary files, which processes are looked through for the JVM, and the address, which is
loopback instead of all.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from mme.settings import Settings
from mme.supervisor import preflight, processes


def main(folder: Path, handler: str) -> None:
    """Returns when the JVM has ended."""
    processes.become_subreaper()  # so that what the JVM leaves stays below this process, where it is counted
    os.chdir(folder)  # stock MMS writes log files below its working directory
    os.environ["TEMP"] = os.environ["TMPDIR"]  # becomes java.io.tmpdir
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    home = preflight.java_home(Settings.from_environment())
    if home:
        os.environ["JAVA_HOME"] = str(home)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        from sagemaker_inference import model_server
    import psutil

    def own_jvm() -> psutil.Process:
        pid = processes.descendant_with_argument(model_server.MMS_NAMESPACE)
        if pid is None:
            raise LookupError("the JVM is not there yet")  # asked again by the toolkit
        return psutil.Process(pid)

    worded = model_server._generate_mms_config_properties
    model_server.MMS_CONFIG_FILE = str(folder / "sagemaker-mms.properties")
    model_server._generate_mms_config_properties = lambda *given: worded(*given).replace("0.0.0.0", "127.0.0.1")
    model_server._retrieve_mms_server_process = own_jvm
    model_server.start_model_server(handler_service=handler)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
