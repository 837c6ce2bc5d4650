"""Load on a server from a process of its own: how it is ordered (``generator``), what sends it (``client``)."""
