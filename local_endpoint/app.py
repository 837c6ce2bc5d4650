"""The whole local endpoint: moto, the control plane, the data plane and one HTTP port; started and stopped as one."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from local_endpoint.access import Access, AllowAll
from local_endpoint.configuration import Configuration
from local_endpoint.control_plane import ControlPlane
from local_endpoint.data_plane import DataPlane
from local_endpoint.endpoints import Endpoints
from local_endpoint.events import Events
from local_endpoint.front import Front
from local_endpoint.http_server import HttpServer
from local_endpoint.instances import Surroundings
from local_endpoint.objects import ObjectReader
from local_endpoint.resources import Resources
from local_endpoint.runtimes import Runtime, make_runtime

logger = logging.getLogger(__name__)


class LocalEndpoint:
    """``start`` → use ``url`` → ``stop``. Also a context manager.

    One at a time per process: moto's state is global.
    """

    def __init__(
        self, configuration: Configuration, runtime: Runtime | None = None, access: Access | None = None
    ) -> None:
        self.configuration = configuration
        self.events = Events()
        self._runtime = runtime or make_runtime(configuration)
        self._access = access or AllowAll()
        self._work_dir: Path | None = None
        self._server: HttpServer | None = None
        self.endpoints: Endpoints | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "not started"
        return f"http://{self.configuration.host}:{self._server.port}"

    def start(self) -> None:
        """Returns when it answers. Raises ``OSError`` if the port is taken."""
        configuration = self.configuration
        self._work_dir = Path(tempfile.mkdtemp(prefix="local-endpoint-"))
        moto: Any = DomainDispatcherApplication(create_backend_app)
        resources = Resources()
        around = Surroundings(self._runtime, ObjectReader(moto), configuration.limits, self.events, self._work_dir)
        self.endpoints = Endpoints(resources, around)
        front = Front(
            moto,
            ControlPlane(resources, self.endpoints),
            DataPlane(self.endpoints, configuration.limits, self.events, self._access),
            configuration.limits,
        )
        try:
            self._server = HttpServer(configuration.host, configuration.port, front)
            self._server.start()
            self.endpoints.resume()
            front.is_ready = True
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every container and removes what is temporary."""
        if self.endpoints is not None:
            self.endpoints.close()
        if self._server is not None:
            self._server.stop()
        if self._work_dir is not None:
            shutil.rmtree(self._work_dir, ignore_errors=True)

    def __enter__(self) -> LocalEndpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
