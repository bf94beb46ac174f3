"""Callbacks that act on what an epoch reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InvalidValue, explain, nearest, unknown_name
from ..settings import flag, number, strict, whole
from .base import Callback, Logs
from .recording import path_of

Array = np.ndarray[Any, Any]
_ANY = float("inf")
_LARGER_IS_BETTER = ("acc", "r2", "precision", "recall", "top_")


class Watching(Callback):
    """What watches one figure of each epoch. mode: whether it is better "min" or "max"; "auto" tells by its name."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise unknown_name("mode", str(mode), ("auto", "min", "max"))
        self.monitor = monitor
        self.mode = mode
        self.min_delta = abs(number("min_delta", min_delta, -_ANY, _ANY))
        larger = any(part in monitor for part in _LARGER_IS_BETTER)
        self.sign = 1.0 if mode == "max" or (mode == "auto" and larger) else -1.0

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether it is better by more than min_delta. Anything but NaN is better than nothing."""
        return value == value if than is None else self.sign * (value - than) > self.min_delta

    def watched(self, logs: Logs | None) -> float:
        """The figure. Raises if the epoch has none of this name."""
        if logs is None or self.monitor not in logs:
            known = list(logs or {})
            held_out = self.monitor.startswith("val_") and not any(name.startswith("val_") for name in known)
            near = nearest(self.monitor, known)
            raise InvalidValue(
                explain(
                    f"{type(self).__name__} watches {self.monitor!r}, which this fit does not report.",
                    expected="one of " + ", ".join(known),
                    received=f"monitor={self.monitor!r}",
                    fix=f"monitor={near!r}" if near and not held_out else 'validation_split=0.2 in fit, or monitor="loss"',
                )
            )
        return float(logs[self.monitor])


class EarlyStopping(Watching):
    """End the fit when a figure has not become better by more than min_delta for `patience` epochs.

    baseline: what it must be better than, besides. restore_best_weights: the fit ends with the weights of its best epoch.
    start_from_epoch: earlier ones do not count. `stopped_epoch` is 0 if it did not stop; `best` and `best_epoch` say what was.
    """

    @strict
    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = whole("patience", patience, 0)
        self.verbose = verbose
        self.baseline = None if baseline is None else number("baseline", baseline, -_ANY, _ANY)
        self.restore_best_weights = flag("restore_best_weights", restore_best_weights)
        self.start_from_epoch = whole("start_from_epoch", start_from_epoch, 0)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[Array] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.watched(logs)
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        better = self.is_better(value, self.best)
        if self.restore_best_weights and (better or self.best_weights is None):
            self.best_weights = self.model.get_weights()
        if better:
            self.best, self.best_epoch = value, epoch
            if self.baseline is None or self.is_better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"epoch {self.stopped_epoch + 1}: stopped early; {self.monitor} was best in epoch {self.best_epoch + 1}")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(Watching):
    """Save the model as training goes on: after every epoch, or every `save_freq` batches.

    filepath may name the epoch, from 1, and its figures: "model-{epoch:02d}-{val_loss:.3f}.aforo". save_best_only: only when
    the figure is the best so far, and better than initial_value_threshold. save_weights_only: as `save_weights` does.
    """

    @strict
    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = path_of(filepath, 'af.callbacks.ModelCheckpoint("model.aforo")')
        self.verbose = verbose
        self.save_best_only = flag("save_best_only", save_best_only)
        self.save_weights_only = flag("save_weights_only", save_weights_only)
        self.save_freq = save_freq if save_freq == "epoch" else whole("save_freq", save_freq, 1)
        threshold = initial_value_threshold
        self.best = None if threshold is None else number("initial_value_threshold", threshold, -_ANY, _ANY)
        self._epoch = self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.save_freq != "epoch":
            self._batches += 1
            if self._batches % int(self.save_freq) == 0:
                self._save(logs, batch=batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs)

    def _save(self, logs: Logs | None, **more: int) -> None:
        if self.save_best_only:
            value = self.watched(logs)
            if not self.is_better(value, self.best):
                return
            self.best = value
        path = self._filled(logs or {}, more)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            print(f"epoch {self._epoch + 1}: saved {path}")

    def _filled(self, logs: Logs, more: Mapping[str, int]) -> str:
        """The path with the epoch and its figures in it."""
        if "{" not in self.filepath:
            return self.filepath
        try:
            return self.filepath.format(epoch=self._epoch + 1, **more, **logs)
        except (KeyError, IndexError, ValueError) as error:
            raise InvalidValue(
                explain(
                    f"the path of a checkpoint cannot be filled in: {error}.",
                    expected="names out of " + ", ".join(["epoch", *more, *logs]),
                    received=self.filepath,
                    fix='af.callbacks.ModelCheckpoint("model-{epoch:02d}.aforo")',
                )
            ) from None
