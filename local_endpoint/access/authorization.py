"""Who may invoke what. For now everybody everything; policies are to be evaluated behind this interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class InvokeRequest:
    """What a policy on ``sagemaker:InvokeEndpoint`` can look at. ``headers`` have lower-case names."""

    endpoint: str
    region: str
    target_model: str | None
    target_container: str | None
    headers: Mapping[str, str]


class Access(Protocol):
    """Decides on invocations."""

    def authorize(self, request: InvokeRequest) -> None:
        """Raises ``AwsError`` (AccessDeniedException, 403) if it is not allowed."""


class AllowAll:
    """Satisfies ``Access``."""

    def authorize(self, request: InvokeRequest) -> None:
        pass
