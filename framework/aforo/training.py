"""fit, evaluate and predict: batches in, programs run, totals out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from .batches import Batches, aligned, checked_inputs, prepare
from .callbacks import Callback, LazyLogs
from .checks import sequence_length
from .errors import InvalidType, InvalidValue, explain
from .feeding import Feeding
from .history import History
from .layers.call import revertible
from .progress import level, reporter
from .random import check_seed, generator, shuffle_seed
from .settings import flag, number, whole
from .specs import at
from .steps import EVALUATION, FIRST, NEXT, PREDICTION, TRAINING, UPDATING, Way

if TYPE_CHECKING:
    from .economy import Choice
    from .model import Model
    from .program import Program

Array = np.ndarray[Any, Any]


def _feed(model: Model, batches: Batches, batch_size: int, again: bool = False) -> Feeding:
    """How the data gets into the batch slots; `again`: it is walked over many times."""
    return Feeding(model, [values for _, values in batches.columns], min(batch_size, batches.rows), again)


def _run(
    model: Model, batches: Batches, kind: str, batch_size: int, feed: Feeding | None = None
) -> Iterator[tuple[int, Program]]:
    """Run a program over the data, batch by batch; after each, the number of rows done and the program."""
    if kind == TRAINING:
        for weight in model.weights:
            devices.preserve(weight.variable)
    rows = model.way.rows if kind == TRAINING else 0
    if feed is None and batches.rows > (rows or batch_size):
        feed = _feed(model, batches, rows or batch_size)
    for start in range(0, batches.rows, batch_size):
        stop = min(start + batch_size, batches.rows)
        if rows:
            program = _in_parts(model, batches, start, stop, feed)
        else:
            program = model.program(kind, stop - start, batches.weighted, time=batches.time)
            _load(program, batches, start, stop, feed)
            program.run()
        yield stop, program


def _load(program: Program, batches: Batches, start: int, stop: int, feed: Feeding | None) -> None:
    """Write rows of the data into the program's batch slots; without a feed, all of them."""
    slots = [program.slots.get(slot) for slot, _ in batches.columns]  # a loss may ignore its targets
    if feed is not None:
        feed.put(slots, start, stop)
        return
    for slot, (_, values) in zip(slots, batches.columns, strict=True):
        if slot is not None:
            program.backend.copy_in(slot, values)


def _in_parts(model: Model, batches: Batches, start: int, stop: int, feed: Feeding | None) -> Program:
    """One training step in micro-batches: their gradients are added up, then there is one update."""
    rows = model.way.rows
    for begin in range(start, stop, rows):
        end = min(begin + rows, stop)
        program = model.program(FIRST if begin == start else NEXT, end - begin, batches.weighted, stop - start, batches.time)
        _load(program, batches, begin, end, feed)
        program.run()
    program = model.program(UPDATING, 1)
    program.run()
    return program


def _reset(model: Model) -> None:
    for total in model.totals.values():
        for variable in total.variables.values():
            if variable.storage is not None:
                devices.write(variable, np.zeros(variable.shape), variable.device)


def _means(model: Model, rows: int, prefix: str = "") -> dict[str, float]:
    """The figures of the rows since the last reset."""
    return {
        prefix + name: total.result({key: devices.read(v) for key, v in total.variables.items()}, rows)
        for name, total in model.totals.items()
    }


def _reported(model: Model, logs: dict[str, float]) -> Any:
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def on_batch(
    model: Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
    kind: str,
) -> Any:
    with model.lock, model.aside():
        with revertible():
            batches = prepare(model, x, y, sample_weight, class_weight)
            model.graph(kind, batches.weighted)
        if kind == TRAINING and not model.fitting:
            model.adopt(Way())
        _reset(model)
        for _ in _run(model, batches, kind, batches.rows):
            pass
        return _reported(model, _means(model, batches.rows))


def _evaluated(
    model: Model, batches: Batches, batch_size: int, feed: Feeding | None = None, prefix: str = ""
) -> dict[str, float]:
    _reset(model)
    for _ in _run(model, batches, EVALUATION, batch_size, feed):
        pass
    return _means(model, batches.rows, prefix)


def evaluate(model: Model, x: Any, y: Any, batch_size: int, verbose: Any, sample_weight: Any, return_dict: bool) -> Any:
    with model.lock, model.aside():
        shown = level(verbose)
        whole("batch_size", batch_size, 1)
        model.look_again()
        with revertible():
            batches = prepare(model, x, y, sample_weight)
            model.graph(EVALUATION, batches.weighted)
        logs = _evaluated(model, batches, batch_size)
    if shown:
        print(" - ".join(f"{name}: {value:.4f}" for name, value in logs.items()))
    return logs if return_dict else _reported(model, logs)


def predict(model: Model, x: Any, batch_size: int, verbose: Any) -> Any:
    with model.lock:
        level(verbose)
        whole("batch_size", batch_size, 1)
        if model.built:  # a single row takes less time than the care for what may fail in building
            columns = checked_inputs(model, x, "x")
        else:
            with revertible():
                model.build_from(x)
                model.require_built()
                columns = checked_inputs(model, x, "x")
        rows = len(columns[0][1])
        names, heads = model.output_names, model.outputs
        time = sequence_length(columns, model.steps)
        results = [np.empty(at(head.shape, {"batch": rows, "time": time}), head.dtype) for head in heads]
        done = 0
        for stop, program in _run(model, Batches(columns, rows, time=time), PREDICTION, batch_size):
            for name, result in zip(names, results, strict=True):
                result[done:stop] = program.backend.copy_out(program.outputs[name])
            done = stop
        return model.joined(results)


def _split(
    model: Model, batches: Batches, held_out: Batches, validation_split: float, validation_data: Any
) -> tuple[Batches, Batches | None]:
    """Training and validation data. held_out: the same rows as they are validated."""
    if validation_data is not None:
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise InvalidType(
                explain(
                    "validation_data holds samples and targets.",
                    expected="(x_val, y_val), or (x_val, y_val, sample_weight)",
                    received=type(validation_data).__name__,
                    fix="validation_data=(x_val, y_val)",
                )
            )
        x, y, *weights = validation_data
        weight = weights[0] if weights else None
        return batches, prepare(model, x, y, weight, prefix="validation ")
    split = number("validation_split", validation_split, 0.0, 1.0, open_high=True)
    if not split:
        return batches, None
    kept = int(round(batches.rows * (1 - split), 6))  # 10 · (1 − 0.9) is a little less than 1
    if not 0 < kept < batches.rows:
        raise InvalidValue(
            explain(
                f"validation_split leaves nothing to train on, or nothing to validate with: the data has {batches.rows} rows.",
                expected="at least one row for each",
                received=f"validation_split={validation_split}",
                fix="validation_split=0.5" if batches.rows > 1 else "validation_data=(x_val, y_val)",
            )
        )
    return batches.part(slice(0, kept)), held_out.part(slice(kept, None))


def _overridden(callbacks: Sequence[Callback], method: str) -> list[Any]:
    """The callbacks' methods that do something."""
    return [
        getattr(callback, method)
        for callback in callbacks
        if method in vars(callback) or getattr(type(callback), method) is not getattr(Callback, method)
    ]


def _check_callbacks(callbacks: Any) -> list[Callback]:
    given = [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in given:
        if not isinstance(callback, Callback):
            raise InvalidType(
                explain(
                    "this is no callback.",
                    expected="an instance of af.callbacks.Callback",
                    received=repr(callback),
                    fix=f"callbacks=[{callback.__name__}()]"
                    if isinstance(callback, type)
                    else "callbacks=[af.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs))]",
                )
            )
    return given


def fit(
    model: Model,
    x: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int,
    verbose: Any,
    callbacks: Any,
    validation_split: float,
    validation_data: Any,
    shuffle: bool,
    seed: int | None,
    class_weight: Mapping[int, float] | None,
    sample_weight: Any,
    initial_epoch: int,
    memory_budget: Any,
) -> History:
    with model.lock:
        model.require_free("fit")
        model.look_again()
        epochs = whole("epochs", epochs, 1)
        batch_size = whole("batch_size", batch_size, 1)
        initial_epoch = whole("initial_epoch", initial_epoch, 0)
        shuffle = flag("shuffle", shuffle)
        shown = level(verbose)
        called = _check_callbacks(callbacks)
        budget = _budget(memory_budget)
        chosen = shuffle_seed() if seed is None else check_seed(seed)
        with revertible():
            batches = prepare(model, x, y, sample_weight, class_weight)
            held_out = None  # what classes count for is for training alone
            if class_weight is not None and validation_data is None and validation_split:
                held_out = prepare(model, x, y, sample_weight)
            batches, validation = aligned(
                model, *_split(model, batches, held_out or batches, validation_split, validation_data)
            )
            model.graph(TRAINING, batches.weighted)
            run = _Fit(model, batches.converted(), validation and validation.converted(), batch_size, budget, shown)
        if seed is None:  # two fits in a row shuffle differently
            chosen += model.epochs_trained
        model.fitting = True
        try:
            run.train(range(initial_epoch, epochs), shuffle, chosen, called)
        finally:
            model.fitting = False
        return run.history


def _budget(memory_budget: Any) -> int | None:
    if memory_budget is None:
        return None
    from .budget import as_bytes  # loads what reads text

    return as_bytes(memory_budget)


class _Fit:
    """What `fit` does, epoch by epoch; within a budget, the way of its steps follows what callbacks do to the model."""

    def __init__(
        self, model: Model, batches: Batches, validation: Batches | None, batch_size: int, budget: int | None, shown: int
    ) -> None:
        self.model, self.batches, self.validation = model, batches, validation
        self.batch_size, self.budget, self.shown = batch_size, budget, shown
        self.history = History(None)
        self._choose()

    def _choose(self) -> None:
        """Choose how steps run, and how the data gets to them."""
        model = self.model
        self._graph = model.graph(TRAINING, self.batches.weighted)
        if self.budget is None:
            model.adopt(Way())
        else:
            self.history.plan = self._within(self.budget)
            if self.shown:
                print(f"memory: {self.history.plan}")
        self.piece = model.way.rows or self.batch_size
        self.feed = _feed(model, self.batches, self.piece, again=True)
        self.held_out = None if self.validation is None else _feed(model, self.validation, self.piece, again=True)

    def _within(self, budget: int) -> Choice:
        """Let training run within the budget."""
        from .economy import Data, choose  # loads the planner

        model, batches, validation = self.model, self.batches, self.validation
        data = Data(batches.rows, time=batches.time)
        if validation is not None:
            data = replace(data, validation_rows=validation.rows, validation_time=validation.time)
        evaluated = validation is not None and validation.weighted
        device = devices.device(model.device)
        choice = choose(model, self.batch_size, budget, device, batches.weighted, evaluated, data)
        model.adopt(choice.way, choice.plans)
        return replace(choice, plans={})  # they hold on to weights, and a history may outlive its model

    def train(self, epochs: range, shuffle: bool, seed: int, callbacks: Sequence[Callback]) -> None:
        model, batches = self.model, self.batches
        model.stop_training = False
        for callback in callbacks:
            callback.set_model(model)

        def call(method: str, *arguments: Any) -> None:
            for function in _overridden(callbacks, method):
                function(*arguments)

        before_batch = _overridden(callbacks, "on_train_batch_begin")
        after_batch = _overridden(callbacks, "on_train_batch_end")
        call("on_train_begin", {})
        logs: dict[str, float] = {}
        with reporter(self.shown, epochs.stop) as report:
            for epoch in epochs:
                call("on_epoch_begin", epoch, {})
                if self.budget is not None and model.graph(TRAINING, batches.weighted) is not self._graph:
                    self._choose()  # layers were frozen or thawed
                started = perf_counter()
                report.start(epoch, batches.rows)
                self.feed.arrange(None)  # before there is another order
                self.feed.arrange(generator(seed, f"shuffle/{epoch}").permutation(batches.rows) if shuffle else None)
                _reset(model)
                done = 0
                for function in before_batch:
                    function(0, {})
                for number, (stop, _) in enumerate(_run(model, batches, TRAINING, self.batch_size, self.feed)):
                    report.advance(stop - done)
                    done = stop
                    if after_batch:
                        lazy = LazyLogs(list(model.totals), lambda rows=stop: _means(model, rows))  # type: ignore[misc]
                        for function in after_batch:
                            function(number, lazy)
                        lazy.close()
                    if model.stop_training:
                        break
                    if stop < batches.rows:
                        for function in before_batch:
                            function(number + 1, {})
                logs = _means(model, done)
                if self.validation is not None:
                    logs |= _evaluated(model, self.validation, self.piece, self.held_out, "val_")
                report.end(epoch, logs, perf_counter() - started)
                model.epochs_trained += done == batches.rows  # whole epochs only
                call("on_epoch_end", epoch, logs)  # which may add to them
                self.history.record(epoch, logs)
                if model.stop_training:
                    break
        call("on_train_end", logs)
