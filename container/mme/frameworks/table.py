"""What rows a model takes that is no network: so many values, in columns that may have names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DATA = "data"  # what the rows are called among the inputs
METHOD = "method"  # and the position among ``methods`` of what each row is for


@dataclass(frozen=True)
class Table:
    """``columns``: their names where the model knows them."""

    width: int | None = None  # number of columns; None: any
    columns: tuple[str, ...] = ()
    by_name: bool = False  # give the model each column by its name, with a type of its own
    takes_text: bool = False
    text_columns: frozenset[str] = frozenset()  # columns whose cells are texts, even where they look like numbers
    documents: bool = False  # a sample is one text
    dtype: np.dtype = np.dtype(np.float64)  # of numbers
    absent: float = 0.0  # what a sparse row does not name
    score: str | None = "score"  # what a predicted value is called where objects are asked for; None: it has no name
    methods: tuple[
        str, ...
    ] = ()  # what may be asked of the model (``;predict_method=`` in Accept), the usual one first

    def __str__(self) -> str:
        if self.documents:
            return "one text per sample"
        values = "values" if self.takes_text else "numbers"
        width = "" if self.width is None else f"{self.width} "
        shown = ", ".join(self.columns[:20]) + (", …" if len(self.columns) > 20 else "")
        return f"rows of {width}{values}" + (f" ({shown})" if self.columns else "")
