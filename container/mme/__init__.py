"""Serves many models from one container: what we add to Multi Model Server (MMS)."""

__version__ = "0.1.0"
