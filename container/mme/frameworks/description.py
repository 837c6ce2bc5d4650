"""What is known of a framework without importing it, its adapter or NumPy.

The supervisor and the zygote's root need this much and no more. ``registry.py`` says where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mme.frameworks.growth import Growth
    from mme.settings import Settings


def _no_variables(_: Settings) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Description:
    """One per framework, beside its adapter: ``DESCRIPTION`` of the adapter's package."""

    module: str  # what is imported
    well_known_files: tuple[str, ...]  # patterns: a folder with a file of such a name holds a model of it
    growth: Growth
    packages: tuple[str, ...]  # distributions that a model's own requirements must not replace
    # Variables that it is to find in each worker, if the user has not set them.
    environment: Callable[[Settings], Mapping[str, str]] = _no_variables
    chatter: tuple[str, ...] = ()  # regular expressions (Java's) of lines that it writes and nobody needs to read
