"""Models: what people train, predict with, measure and look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from . import device as devices
from . import steps, training
from .compiled import Compiled
from .errors import InvalidValue, explain
from .graph import Tensor
from .settings import strict
from .specs import TIME

if TYPE_CHECKING:
    from .callbacks import Callback
    from .diagnose import Diagnosis
    from .draw import Picture
    from .explain import Explanation
    from .history import History
    from .memory import Report

Array = np.ndarray[Any, Any]


class Model(Compiled):
    """Layers between inputs and outputs, in any arrangement; cycles go through an `af.Feedback`. A model is a layer, too.

    inputs, outputs: what `af.Input` gave, and what layers called on it gave; one, a list, or a dict by name.
    steps: how many time steps a cycle runs, where no input has a time axis.
    """

    @strict
    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        epochs: int = 1,
        *,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        memory_budget: int | str | None = None,
    ) -> History:
        """Train on x (n, …) and y for a number of epochs; lists or dicts of arrays for several inputs or outputs.

        Everything is checked before the first step. `seed` fixes the shuffles, epoch by epoch. `validation_split` holds out
        that fraction from the end of the data. Arrays are read while it runs, or before it (where the device keeps them): they
        must not change meanwhile. verbose: 0 silent, 1 a progress bar, 2 a line an epoch, "auto" 1 in a terminal.

        memory_budget: the most bytes that training may own, e.g. "8GiB". If whole batches do not fit, they run in micro-batches
        (the same gradients to rounding; statistics of the batch are then those of each micro-batch) or compute activations
        again, whichever takes less time. A loss that is no mean over samples never runs in micro-batches. It prints which way,
        and history.plan holds it; raises before the first step, with the smallest budget that would do, if nothing fits.
        """
        return training.fit(
            self,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            seed=seed,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            memory_budget=memory_budget,
        )

    @strict
    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        *,
        verbose: int | str = 0,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss on x and y, or a list of loss and metrics; a dict by name if asked."""
        return training.evaluate(self, x, y, batch_size, verbose, sample_weight, return_dict)

    @strict
    def predict(self, x: Any, batch_size: int = 32, verbose: int | str = 0) -> Any:
        """The outputs for x: a new NumPy array, or a list or dict of them."""
        return training.predict(self, x, batch_size, verbose)

    @strict
    def step(self, x: Any) -> Any:
        """Predict the next time step from x (n, features), or the next few from (n, time, features), and keep the states.

        The states of recurrent layers and feedbacks go on from the call before, until `reset_states`.
        """
        from .stepping import step

        return step(self, x)

    @strict
    def reset_states(self, name: str | None = None) -> None:
        """Let `step` begin new sequences: all states, or those of the layer or the feedback of that name."""
        from .stepping import reset

        reset(self, name)

    @strict
    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None) -> Any:
        """One step on this batch. Gives its loss before the update, or a list with the metrics."""
        return training.on_batch(self, x, y, sample_weight, class_weight, steps.TRAINING)

    @strict
    def test_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
        """The loss on this batch, or a list with the metrics."""
        return training.on_batch(self, x, y, sample_weight, None, steps.EVALUATION)

    @strict
    def memory(
        self,
        batch_size: int = 32,
        training: bool = True,
        device: Any = None,
        length: int | None = None,
        *,
        rows: int | None = None,
        validation_rows: int = 0,
        validation_length: int | None = None,
        weighted: bool = False,
        validation_weighted: bool | None = None,
        programs: Sequence[str] | None = None,
        memory_budget: int | str | None = None,
    ) -> Report:
        """Every byte a training step (or a prediction) of this batch size owns, from the plan that would run.

        length: time steps, for models whose inputs have a time axis. rows, validation_rows: those of a fit; data_bytes is what
        it holds besides, and batches are no larger than the data. validation_length: time steps of what it validates with, if
        they differ. weighted: with a weight for each sample or class; validation_weighted: also in the validation, which class
        weights do not reach; as weighted, unless given. Targets of a loss of your own are taken for the shape of the
        predictions until there are data.
        programs: several of "training", "evaluation" and "prediction", for a model that runs them all in one arena.
        memory_budget: training, and validation_rows, run as `fit` would within it. Further programs run whole batches, as they
        do after a fit, and may take the total beyond it.
        """
        from .memory.measure import report

        return report(
            self,
            batch_size,
            training,
            device,
            length,
            rows=rows,
            validation_rows=validation_rows,
            validation_length=validation_length,
            weighted=weighted,
            validation_weighted=validation_weighted,
            programs=programs,
            memory_budget=memory_budget,
        )

    @strict
    def max_batch_size(self, budget: Any, training: bool = True, device: Any = None, length: int | None = None) -> int:
        """The largest batch size with memory(batch_size, training, device, length).total_bytes within the budget.

        It fits, and one more does not. budget: bytes, or text: "8GiB" is binary, "8GB" decimal. What libraries take outside and
        the data of a fit are not counted: on a device of your own, take device_bytes - total_bytes of a report off the budget.

        An order and an arena are found by search, and the total may fall from one size to the next, so that several sizes are
        such an edge. This is the largest that fits wherever the lower bounds grow with the size and the arenas miss theirs by
        less than 32 samples; else one of the edges.
        """
        from .memory.inverse import max_batch_size

        return max_batch_size(self, budget, training, device, length)

    def _too_large(self, error: devices.DeviceFull, kind: str, batch: int, time: int, weighted: bool) -> devices.DeviceFull:
        """The error for a batch that the device has no room for, with the largest one that it has room for."""
        free = self.backend.free()
        if free is None:
            return error
        from .memory.inverse import max_batch_size

        own = [each for each in self.graph(kind, weighted).variables if each.storage is not None]
        room = free + self._workspace.held_bytes + sum(each.storage.nbytes for each in own)
        if self.way != steps.Way() and kind in (steps.TRAINING, *steps.PARTS):
            return devices.DeviceFull(
                explain(
                    f"{self.device} has no room for what the memory_budget allows. Weights and optimizer are as they were.",
                    expected="as many bytes as the budget allows",
                    received=f"room for {room:,} bytes, what the model holds already included",
                    fix=f"memory_budget={room}",
                )
            )
        length = time if any(TIME in x.shape for x in self.inputs) else None
        planned = self.memory(batch, length=length, programs=[kind], weighted=weighted).total_bytes
        try:
            largest = max_batch_size(self, room, length=length, programs=[kind], weighted=weighted)
            fix = f"batch_size={largest}, the largest that fits now"
        except InvalidValue:
            fix = "a smaller model: not even a batch of 1 fits now"
        return devices.DeviceFull(
            explain(
                f"{self.device} has no room for a {kind} step of {batch} rows. Weights and optimizer are as they were.",
                expected=f"{planned:,} bytes, as planned",
                received=f"room for {room:,} bytes, what the model holds already included",
                fix=fix,
            )
        )

    @strict
    def draw(
        self,
        path: str | PathLike[str] | None = None,
        scale: str = "layers",
        notation: str = "layers",
        *,
        x: Any = None,
        y: Any = None,
        colour: str = "value",
    ) -> Picture:
        """Draw the model; a notebook shows the result. path: where to write it, as .svg, or as .png with matplotlib.

        scale: "layers", "vectors", or "numbers" (every unit and weight up to a few thousand; beyond, a sample that says so).
        notation: "layers" (nodes are layers, edges carry values), "values" (the inverse: nodes are values, edges are layers),
        "neurons" (the biological reading of the inverse: neurons with activations, and synapses). With data, numbers are
        coloured for the first row of x: colour="value" by activation and weight, "gradient" by the error's derivatives.
        """
        from .draw import draw

        return draw(self, path, scale, notation, x, y, colour)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows of a model: its layers, if they are known and few enough to be looked at."""
        return self.draw().svg if self.built and len(self.layers) <= 50 else None

    @strict
    def explain(self, x: Any = None, y: Any = None, *, latex: bool = False) -> Explanation:
        """The forward and the derived backward of a training step, as one writes them on a whiteboard, with shapes.

        Print it, or let a notebook show it; latex=True writes LaTeX. With x the forward's numbers stand below their lines, with
        y those of the backward too. Without a loss (before compile) the backward starts from δE/δN.
        """
        from .explain import explain_model

        return explain_model(self, x, y, latex)

    @strict
    def diagnose(self, x: Any, y: Any) -> Diagnosis:
        """Why isn't it learning? What is the matter with a compiled model and its data, layer by layer, and what to try.

        Looks for inputs that are not scaled or say nothing, targets that the head cannot give, dead or saturated units,
        gradients that vanish or explode, weights that cannot learn, layers without an activation between them, and a learning
        rate that is far off (by a rehearsal on copies). Nothing in the model changes. The result is empty if nothing was found.
        """
        from .diagnose import diagnosed

        return diagnosed(self, x, y)

    @strict
    def simplify(self, verbose: int = 1) -> Model:
        """A new model that predicts the same with fewer layers, for prediction: linear layers in a row become one.

        N regressions are one regression; batch normalization folds into its neighbour, dropout goes. It never takes more bytes,
        and leaves alone what an activation or a second reader stands between. Prints what it folded unless verbose=0;
        `folded` of the new model holds it.
        """
        from .simplify import report, simplified

        made = simplified(self)
        if verbose:
            print(report(made.folded))
        return made

    @strict
    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole model to one file: layers, weights, and its training so far, which `af.load_model` continues bit for
        bit. Functions and classes of your own are in it by name, states that `step` keeps are not. The file is replaced whole,
        or not at all."""
        from .io import save_model

        save_model(self, path)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: what `save` writes, the functions and classes of your own, and the device."""
        from .io import packed, unpacked

        return unpacked, (*packed(self), self.device, self.tf32)

    @strict
    def save_weights(self, path: str | PathLike[str]) -> None:
        """Write the weights to a safetensors file."""
        from .io import save_weights

        save_weights(self, path)

    @strict
    def load_weights(self, path: str | PathLike[str]) -> None:
        """Take the weights from a file of `save_weights` or `save`, in order. Nothing changes unless all of them fit."""
        from .io import load_weights

        load_weights(self, path)

    def compile_like(self, other: Model) -> None:
        """Compile another model with the same outputs for what this one is compiled for, with an optimizer of its own."""
        if self._compiled is not None and self.optimizer is not None:
            now = dict(zip(self.output_names, other.output_names, strict=True))
            given = [
                {now[name]: each for name, each in value.items()} if isinstance(value, Mapping) else value
                for value in self._compiled
            ]
            other.compile(given[0], self.optimizer.twin(), given[1], given[2])

    def given_as(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Any, Any]:
        """Inputs and outputs in the form this model was given its own: one, a list, or a dict by name."""
        return self._inputs.joined(inputs), self._outputs.joined(outputs)

    @strict
    def export_onnx(self, path: str | PathLike[str]) -> None:
        """Write its prediction as an ONNX file, with its weights as they are now; layers of your own and functions too.

        Inputs and outputs keep their names, weights are named layer/weight, batches are of any size. Needs the extra
        `onnx`. Raises, naming it, for an operation that ONNX has no translation of, e.g. random numbers in a prediction.
        """
        from .onnx import export

        export(self, path)

    @strict
    def summary(self) -> None:
        """Print the layers, their output shapes and parameters."""
        from .summary import print_summary

        print_summary(self)
