"""Callbacks that change the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from ..errors import InvalidType, InvalidValue, explain
from ..settings import number, strict, whole
from .base import Callback, Logs
from .watching import Watching

_ANY = float("inf")


class Rate(Callback):
    """What changes the learning rate."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if callable(self.rate):
            raise InvalidValue(
                explain(
                    f"{type(self).__name__} sets the learning rate, but the optimizer follows a schedule.",
                    expected="a number as learning rate",
                    received=repr(self.rate),
                    fix='model.compile(loss="mse", optimizer=af.SGD(0.01))',
                )
            )

    @property
    def rate(self) -> Any:
        return self.model.require_compiled().learning_rate

    def report(self, logs: Logs | None) -> None:
        """Put the rate of this epoch among its figures."""
        if isinstance(logs, dict):
            logs["learning_rate"] = self.rate


class LearningRateScheduler(Rate):
    """Set the learning rate at the start of each epoch: schedule(epoch, rate) or schedule(epoch), epochs from 0, gives it.

    A schedule of steps needs no callback: af.SGD(af.schedules.CosineDecay(0.1, steps=1000)).
    """

    @strict
    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise InvalidType(
                explain(
                    "LearningRateScheduler takes a function.",
                    expected="(epoch, learning_rate) -> learning_rate",
                    received=repr(schedule),
                    fix="af.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9)",
                )
            )
        self.schedule = schedule
        self.verbose = verbose
        try:
            signature(schedule).bind(0, 0.0)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate = self.schedule(epoch, self.rate) if self._takes_rate else self.schedule(epoch)
        self.model.require_compiled().learning_rate = number("learning_rate", rate, 0.0, _ANY)
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {self.rate:g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.report(logs)


class ReduceLROnPlateau(Watching, Rate):
    """Multiply the learning rate by `factor` when a figure has not become better by more than min_delta for `patience` epochs.

    cooldown: epochs that are not counted after that. The rate never falls below min_lr.
    """

    @strict
    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = number("factor", factor, 0.0, 1.0, open_high=True)
        self.patience = whole("patience", patience, 0)
        self.verbose = verbose
        self.cooldown = whole("cooldown", cooldown, 0)
        self.min_lr = number("min_lr", min_lr, 0.0, _ANY)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.wait = self.cooldown_counter = 0
        self.best: float | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.report(logs)
        value = self.watched(logs)
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience and self.rate > self.min_lr:
                self.model.require_compiled().learning_rate = max(self.rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0
                if self.verbose:
                    print(f"epoch {epoch + 1}: learning rate {self.rate:g}")
