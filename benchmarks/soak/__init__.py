"""An imitation of the platform that drives the server to its limits for minutes: ``./scripts/soak``."""
