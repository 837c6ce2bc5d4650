"""A load on an endpoint or a container, by Locust: ``./scripts/load_test``."""
