"""One endpoint configuration that runs: a fleet per production variant, their weights, and the requests in flight."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local_endpoint.hosting.fleet import Fleet
from local_endpoint.hosting.waiting import wait_until


class Deployment:
    """``start`` → ``request`` for every invocation → ``retire``, or ``stop`` where it need not be waited for."""

    def __init__(self, config: dict[str, Any], variants: list[dict[str, Any]], fleets: dict[str, Fleet]) -> None:
        """``config`` is the whole configuration, which may be deleted while it serves; ``variants`` are as they run."""
        self.config = config
        self.endpoint = next(iter(fleets.values())).definition.endpoint if fleets else ""
        self.fleets = fleets
        self.weights = {each["VariantName"]: float(each.get("InitialVariantWeight", 1.0)) for each in variants}
        self.scaling_since_s: dict[str, float] = {}
        """Variants whose weight or number of instances is being changed, and since when (seconds of the epoch)."""
        self._in_flight = 0
        self._retired = False
        self._lock = threading.Lock()

    @property
    def config_name(self) -> str:
        return str(self.config["EndpointConfigName"])

    def start(self) -> None:
        """Raises ``StartFailure``; the caller is to ``stop`` it then."""
        with ThreadPoolExecutor(len(self.fleets)) as starters:
            futures = [starters.submit(fleet.start) for fleet in self.fleets.values()]
        for future in futures:
            future.result()

    def retained(self, variant: dict[str, Any], properties: Collection[str]) -> dict[str, Any]:
        """``variant`` of a later configuration with the named properties of the one of that name here, if any."""
        name = variant["VariantName"]
        if name not in self.fleets:
            return variant
        now = self.present_numbers()[name]
        members = {"DesiredInstanceCount": "InitialInstanceCount", "DesiredWeight": "InitialVariantWeight"}
        return {**variant, **{members[each]: now[members[each]] for each in properties}}

    def present_numbers(self) -> dict[str, dict[str, Any]]:
        """By variant: with which members of a ProductionVariant it would come up as it is wanted now."""
        return {
            name: {"InitialInstanceCount": fleet.desired_count, "InitialVariantWeight": self.weights[name]}
            for name, fleet in self.fleets.items()
        }

    def choose_fleet(self, variant: str | None) -> Fleet | None:
        """The named variant's, else one by weight; None if there is none of that name."""
        if variant is not None:
            return self.fleets.get(variant)
        names = list(self.fleets)
        if len(names) == 1:
            return self.fleets[names[0]]
        weights = [self.weights[name] for name in names]
        return self.fleets[random.choices(names, weights if sum(weights) > 0 else None)[0]]

    @contextlib.contextmanager
    def request(self) -> Iterator[bool]:
        """Counts one request in; the value is False if this deployment takes no more."""
        with self._lock:
            taken = not self._retired
            self._in_flight += taken
        try:
            yield taken
        finally:
            with self._lock:
                self._in_flight -= taken

    def retire(self, drain_timeout_s: float, hurry: threading.Event) -> None:
        """Takes no more requests, lets those in flight end (unless ``hurry`` is set), stops all instances."""
        with self._lock:
            self._retired = True
        wait_until(lambda: self._in_flight == 0, drain_timeout_s, hurry)
        self.stop()

    def stop(self) -> None:
        with ThreadPoolExecutor(len(self.fleets)) as stoppers:
            list(stoppers.map(Fleet.stop, self.fleets.values()))
