"""Configurations: what a layer was made with, as plain data, so that it can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

from .. import initializers, regularizers
from ..errors import InvalidValue, explain


def recorded(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that remembers what it was called with; the outermost one, where constructors call others."""
    takes = signature(init)

    @wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        if "made_with" not in vars(self):
            try:
                given = dict(takes.bind(self, *args, **kwargs).arguments)
            except TypeError:
                given = {}  # the call below says what is wrong
            given.pop(next(iter(takes.parameters)), None)
            for name, parameter in takes.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    given.update(given.pop(name, {}))
            vars(self)["made_with"] = given
        init(self, *args, **kwargs)

    return call


def plain(value: Any) -> Any:
    """An argument as data: functions that have a name in Aforo as that name, sequences as lists."""
    from .activation import KNOWN

    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    for known in (KNOWN, initializers.KNOWN, regularizers.KNOWN):
        for name, function in known.items():
            if function is value:
                return name
    return value


def checked(config: Any, kind: str) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise InvalidValue(
            explain(
                f"this is no configuration of a {kind}.", expected="what get_config() gives", received=type(config).__name__
            )
        )
    return dict(config)
