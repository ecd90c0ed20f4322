"""The user's own module: what it must have, checked before anything runs. docs/models.md has the contract."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from types import ModuleType

from components.errors import RetrainError


def load_module(path: str | None) -> ModuleType | None:
    """Imports a module by its dotted path, from the current folder or wherever Python finds it.

    It must have `build_model(blueprint, params)`, and may have `preprocessing_fn(inputs)`.

    Raises:
        RetrainError: it is not there, does not import, or lacks what it must have.
    """
    if path is None:
        return None
    if os.getcwd() not in sys.path:  # a console script has its own folder there instead
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(f"{error.name}.")):
            raise RetrainError(
                f"model.module: there is no module {path!r} in {os.getcwd()}, nor is it installed; give its "
                "dotted path, such as mypackage.mymodel, and run retrain in the folder that holds mypackage"
            ) from None
        raise RetrainError(f"model.module: {path} imports {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever the user's code raises
        raise RetrainError(
            f"model.module: {path} does not import: {type(error).__name__}: {error}"
        ) from error
    _check(module, "build_model", ("blueprint", "params"), required=True)
    _check(module, "preprocessing_fn", ("inputs",), required=False)
    return module


def _check(module: ModuleType, name: str, arguments: tuple[str, ...], required: bool) -> None:
    function = getattr(module, name, None)
    wanted = f"{name}({', '.join(arguments)})"
    if function is None and not required:
        return
    if not callable(function):
        raise RetrainError(f"model.module: {module.__name__} has no function {wanted}; define it")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise RetrainError(
            f"model.module: {module.__name__}.{name}{inspect.signature(function)} cannot be called as "
            f"{wanted} ({error}); change its arguments"
        ) from None
