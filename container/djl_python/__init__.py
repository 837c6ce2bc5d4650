"""What a ``model.py`` written for DJL Serving imports, so that it runs here unchanged: ``Input``, ``Output`` and more.

DJL Serving (https://github.com/deepjavalibrary/djl-serving) documents these names and methods; this package has them,
and nothing of that project's code. What belongs to its engines for large language models is not here.
"""

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.pair_list import PairList

__all__ = ["Input", "Output", "PairList"]
