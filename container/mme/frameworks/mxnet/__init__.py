"""MXNet. What tells its models from others stands here, where nothing of MXNet or NumPy is imported."""

# A folder with a file of such a name holds a model of MXNet.
WELL_KNOWN_FILES = ("*-symbol.json",)
