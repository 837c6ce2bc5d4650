"""The functions of a model's script, as the Inference Toolkit (1.10.1) names and calls them.

    pre_model_fn(model_dir)                             before the model is loaded
    model_fn(model_dir)                                 the model
    model_warmup_fn(model_dir, model)                   after it
    input_fn(body, content_type)                        data
    predict_fn(data, model)                             a prediction
    output_fn(prediction, accept)                       a body, or a body and its content type
    transform_fn(model, body, content_type, accept)     instead of the last three

Each may take one argument more, the context, which the toolkit finds out by counting the parameters. So do we; where
the count says neither, a function that can be called without the context is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mme.errors import ModelLoadError

# name → how many arguments it is given, without the context
_ARGUMENTS = {
    "pre_model_fn": 1,
    "model_fn": 1,
    "model_warmup_fn": 2,
    "input_fn": 2,
    "predict_fn": 2,
    "output_fn": 2,
    "transform_fn": 4,
}
_STEPS = ("input_fn", "predict_fn", "output_fn")


@dataclass(frozen=True)
class Function:
    """One function of a script."""

    name: str
    function: Callable[..., Any]
    takes_context: bool

    def __call__(self, context: Any, *arguments: Any) -> Any:
        """Calls it, with the context where it takes one. Raises whatever it raises."""
        return self.function(*arguments, context) if self.takes_context else self.function(*arguments)


class Functions:
    """Those that a script defines; each is None where it does not."""

    def __init__(self, module: ModuleType, file: str) -> None:
        """``file`` is the script's name, for messages. Raises ``ModelLoadError``."""
        found = {name: _function(module, file, name) for name in _ARGUMENTS}
        if not any(found.values()):
            raise ModelLoadError(
                f"{file} defines none of {', '.join(_ARGUMENTS)}: a script is at least one of these functions."
            )
        steps = [name for name in _STEPS if found[name]]
        if found["transform_fn"] and steps:
            raise ModelLoadError(
                f"{file} defines transform_fn and {', '.join(steps)}. transform_fn does all that the others do: keep "
                "that one, or the others."
            )
        self.pre_model, self.model, self.model_warmup = (
            found[name] for name in ("pre_model_fn", "model_fn", "model_warmup_fn")
        )
        self.input, self.predict, self.output = (found[name] for name in _STEPS)
        self.transform = found["transform_fn"]


def _function(module: ModuleType, file: str, name: str) -> Function | None:
    function = getattr(module, name, None)
    if function is None:
        return None
    if not callable(function):
        raise ModelLoadError(f"{name} of {file} is a {type(function).__name__}, not a function.")
    return Function(name, function, _takes_context(function, file, name))


def _takes_context(function: Callable[..., Any], file: str, name: str) -> bool:
    given = _ARGUMENTS[name]
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return False  # one that is written in C
    if len(signature.parameters) == given + 1 and _binds(signature, given + 1):
        return True
    if _binds(signature, given):
        return False
    raise ModelLoadError(
        f"{name}{signature} of {file} takes {len(signature.parameters)} arguments; it is given {given}, or {given + 1} "
        "with the context."
    )


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
