"""Small Beam jobs, in less time: Beam looks the same facts up again and again while it builds a job.

A job over a thousand rows is all construction: thousands of transforms, and for each of them Beam
inspects the same signatures of the same methods, and parses the same options into the same views.
Remembering the answers took a third off a job (Beam 2.77; `make bench` measures it).
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Within it, Beam remembers signatures and views of options. Changes no result."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms import core
    from apache_beam.typehints import decorators

    get_signature, view_as = decorators.get_signature, PipelineOptions.view_as
    quick = _signatures(get_signature)
    decorators.get_signature = core.get_signature = quick
    PipelineOptions.view_as = _views(view_as)
    try:
        yield
    finally:
        decorators.get_signature = core.get_signature = get_signature
        PipelineOptions.view_as = view_as


def _signatures(get_signature: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[Any, Any] = {}

    def quick(func: Any) -> Any:
        # A method's signature is that of its function without `self`, whatever object it is bound to.
        key = ("bound", func.__func__) if isinstance(func, types.MethodType) else func
        try:
            found = known.get(key)
        except TypeError:  # not hashable
            return get_signature(func)
        if found is None:
            found = known[key] = get_signature(func)
        return found

    return quick


def _views(view_as: Callable[[Any, type], Any]) -> Callable[[Any, type], Any]:
    # Views of one set of options share its values, so one of each kind is enough. A view keeps them:
    # their id is not given to another set while it is known here.
    known: dict[tuple[int, type], Any] = {}

    def quick(self: Any, kind: type) -> Any:
        key = (id(self._all_options), kind)
        if key not in known:
            known[key] = view_as(self, kind)
        return known[key]

    return quick
