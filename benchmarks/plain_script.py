"""The handler that stock MMS is measured with for scripts: the Inference Toolkit's own service, as its users have it.

The service finds ``code/inference.py`` of a model and runs it between the toolkit's defaults. It sets ``PYTHONPATH`` to
find it, which a process that has started does not read any more: so users put the folder on ``sys.path`` themselves.
MMS calls ``handle``, once with ``data`` None at load.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sagemaker_inference.default_handler_service import DefaultHandlerService


class HandlerService(DefaultHandlerService):
    """Serves the script of one model."""

    def initialize(self, context: Any) -> None:
        """Loads the model in ``model_dir`` with its script."""
        sys.path.insert(0, str(Path(context.system_properties["model_dir"]) / "code"))
        super().initialize(context)


_service = HandlerService()


def handle(data: Any, context: Any) -> Any:
    """MMS's entry point."""
    if data is None:
        _service.initialize(context)
        return None
    return _service.handle(data, context)
