"""The whole local endpoint: moto, the control plane, the data plane and one HTTP port; started and stopped as one."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.moto_server import werkzeug_app

from local_endpoint.access.authorizer import Authorizer
from local_endpoint.access.identities import Directory
from local_endpoint.access.moto_changes import changed_moto
from local_endpoint.configuration import Configuration
from local_endpoint.control_plane.control_plane import ControlPlane
from local_endpoint.control_plane.stacks import refuse_sagemaker_in_stacks
from local_endpoint.control_plane.training_jobs import TrainingJobs
from local_endpoint.data_plane.invocations import DataPlane
from local_endpoint.events import Events
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.endpoints import Endpoints
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes import Runtime, make_runtime
from local_endpoint.hosting.utilisation import Utilisation
from local_endpoint.http.front import Front
from local_endpoint.http.origin_policy import OriginPolicy
from local_endpoint.http.server import HttpServer
from local_endpoint.http.unavailable import unavailable
from local_endpoint.storage.object_files import ObjectFiles
from local_endpoint.storage.objects import ObjectReader
from local_endpoint.storage.resources import Resources
from local_endpoint.storage.state import KeepingS3, StateFolder, reset_moto, untracked_instances
from local_endpoint.telemetry.logs import Logs
from local_endpoint.telemetry.metric_store import MetricStore
from local_endpoint.telemetry.metrics import Metrics
from local_endpoint.telemetry.percentiles import Percentiles
from local_endpoint.training.job import JobContext

logger = logging.getLogger(__name__)

_only_one = threading.Lock()


def _create_backend_app(service: Any) -> Any:
    """moto switches Flask's debugging on, which makes a class per upload that keeps the body alive.

    It would also let the pages of every web site read its answers (CORS). A service that needs packages which are not
    installed is answered, too.
    """
    werkzeug_app.DISABLE_GLOBAL_CORS = True
    try:
        if service == "cloudformation":
            refuse_sagemaker_in_stacks()
        application = werkzeug_app.create_backend_app(service)
    except ModuleNotFoundError as error:
        return unavailable(service, error.name)
    application.debug = False
    return application


class LocalEndpoint:
    """``start`` → use ``url`` → ``stop``. Also a context manager.

    One at a time per process: moto's state is global, and empty before and after.
    """

    def __init__(
        self,
        configuration: Configuration,
        make_its_runtime: Callable[[Configuration, Janitor], Runtime] = make_runtime,
    ) -> None:
        self.configuration = configuration
        self.events = Events()
        self._make_runtime = make_its_runtime
        self._cleanup = contextlib.ExitStack()
        self.work_dir: Path | None = None
        self._server: HttpServer | None = None
        self._endpoints: Endpoints | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "not started"
        return f"http://{self.configuration.host}:{self._server.port}"

    @property
    def endpoints(self) -> Endpoints:
        assert self._endpoints is not None, "not started"
        return self._endpoints

    def start(self) -> None:
        """Returns when it answers.

        Raises ``CannotListen``, ``StateError`` and, where containers cannot be run at all, ``StartFailure``.
        """
        if not _only_one.acquire(blocking=False):
            raise RuntimeError("A local endpoint runs in this process already, and moto's state is global.")
        self._cleanup.callback(_only_one.release)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        configuration, cleanup = self.configuration, self._cleanup
        state: StateFolder | None = None
        if configuration.state_dir is not None:
            state = StateFolder(configuration.state_dir)
            cleanup.callback(state.close)

        janitor = Janitor()
        cleanup.callback(janitor.close)
        work_dir = self.work_dir = Path(tempfile.mkdtemp(prefix="local-endpoint-"))
        janitor.watch_folder(work_dir)
        cleanup.callback(shutil.rmtree, work_dir, ignore_errors=True)

        reset_moto()
        files = ObjectFiles(work_dir / "objects")
        files.install()
        cleanup.callback(files.uninstall)
        cleanup.callback(reset_moto)
        if not configuration.moto_api_is_open:
            cleanup.enter_context(untracked_instances())
        moto: Any = werkzeug_app.DomainDispatcherApplication(_create_backend_app)

        runtime = self._make_runtime(configuration, janitor)
        runtime.require()
        resources = Resources(state.resources_file if state else None)
        authorizer = None
        if configuration.root_key is not None:
            authorizer = Authorizer(Directory(configuration.root_key), resources.tags)
            cleanup.enter_context(changed_moto())
        role_may = authorizer.role_may if authorizer is not None else None
        objects = ObjectReader(moto, role_may)
        logs, store = Logs(), MetricStore()
        logs.start()
        cleanup.callback(logs.stop)
        for added in (store, Percentiles()):
            added.install()
            cleanup.callback(added.uninstall)
        context = HostingContext(runtime, objects, configuration.limits, self.events, work_dir, logs)
        self._endpoints = Endpoints(resources, context)
        metrics = Metrics(store, Utilisation(self._endpoints.fleets).look, configuration.metric_period_s)
        self.events.subscribe(metrics.on_event)
        s3: Any = KeepingS3(moto, state) if state else moto
        training = TrainingJobs(resources, JobContext(ObjectReader(s3, role_may), logs, store, janitor, work_dir))
        front = Front(
            s3,
            ControlPlane(resources, self._endpoints, training, context),
            DataPlane(self._endpoints, configuration.limits, self.events),
            configuration.limits,
            OriginPolicy(configuration.host, configuration.allowed_hosts, configuration.moto_api_is_open),
            authorizer,
        )
        self._server = HttpServer(configuration.host, configuration.port, front)
        self._server.start()
        cleanup.callback(self._server.stop)
        cleanup.callback(self._endpoints.close)
        cleanup.callback(training.close)
        metrics.start()
        cleanup.callback(metrics.stop)
        if state:
            state.restore(files)
        training.resume()
        self._endpoints.resume()
        front.is_ready = True  # until now everything was answered 503, and nothing was changed

    def stop(self) -> None:
        """Ends every container and removes what is temporary."""
        self._cleanup.close()

    def __enter__(self) -> LocalEndpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
