"""What every callback has, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState, explain, unknown_name

if TYPE_CHECKING:
    from ..model import Model

Logs = Mapping[str, float]


class Callback:
    """Override what you need. `self.model` is the model that is being trained; `model.stop_training = True` ends the fit."""

    model: Model

    def set_model(self, model: Model) -> None:
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None: ...

    def on_train_end(self, logs: Logs | None = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


class LambdaCallback(Callback):
    """A callback from functions: LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs))."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise unknown_name("callback method", name, [m for m in vars(Callback) if m.startswith("on_")])
            setattr(self, name, function)


class LazyLogs(Mapping[str, float]):
    """The means of an epoch so far. Nothing is read from the device until a value is asked for.

    They are those of one batch: once the next one runs, only what was read before is left.
    """

    def __init__(self, names: list[str], read: Callable[[], dict[str, float]]) -> None:
        self._names = names
        self._read: Callable[[], dict[str, float]] | None = read
        self._values: dict[str, float] | None = None

    def close(self) -> None:
        """The next batch is about to run."""
        self._read = None

    def __getitem__(self, name: str) -> float:
        if self._values is None:
            if self._read is None:
                raise InvalidState(
                    explain(
                        "these batch logs were not read before the next batch ran.",
                        expected="logs read inside on_train_batch_end",
                        received=f"logs[{name!r}] afterwards",
                        fix="kept.append(dict(logs))",
                    )
                )
            self._values = self._read()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self)) if self._values is not None or self._read is not None else "<batch logs that were not read>"
