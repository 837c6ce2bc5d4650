"""One module per benchmark, found by its name: see benchmarks/run.py."""
