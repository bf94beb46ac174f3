"""Callbacks: code that `fit` calls as it goes. Names, arguments and behaviour are those of Keras."""

from typing import TYPE_CHECKING, Any

from .base import Callback, LambdaCallback, LazyLogs

if TYPE_CHECKING:
    from .rates import LearningRateScheduler, ReduceLROnPlateau
    from .recording import CSVLogger, TerminateOnNaN
    from .watching import EarlyStopping, ModelCheckpoint

__all__ = [
    "CSVLogger", "Callback", "EarlyStopping", "LambdaCallback", "LazyLogs", "LearningRateScheduler", "ModelCheckpoint",
    "ReduceLROnPlateau", "TerminateOnNaN",
]  # fmt: skip

_LATER = {  # loaded at their first use, to keep the import short
    "CSVLogger": "recording", "EarlyStopping": "watching", "LearningRateScheduler": "rates", "ModelCheckpoint": "watching",
    "ReduceLROnPlateau": "rates", "TerminateOnNaN": "recording",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
