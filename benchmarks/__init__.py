"""Measurements of the server beside stock Multi Model Server, in the same run."""
