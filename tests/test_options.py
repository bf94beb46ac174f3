"""Options that something does not have: named, with those it has and one that does what was meant; nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aforo as af

X, Y = np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 1))


def model() -> af.Sequential:
    made = af.Sequential([af.Dense(1, input_shape=[3])])
    made.compile(loss="mse", optimizer="sgd")
    return made


def stacked(width: int) -> af.Sequential:
    made = af.Sequential([af.Dense(width, input_shape=[3]), af.Dense(1)])
    made.compile(loss="mse")
    return made


OWNERS: dict[str, Callable[..., Any]] = {
    "Dense": lambda **o: af.Dense(2, **o),
    "LSTM": lambda **o: af.LSTM(2, **o),
    "Embedding": lambda **o: af.Embedding(3, 2, **o),
    "Dropout": lambda **o: af.Dropout(0.5, **o),
    "Feedback": lambda **o: af.Feedback([3], **o),
    "Input": lambda **o: af.Input([3], **o),
    "Sequential": lambda **o: af.Sequential([af.Dense(1)], **o),
    "Model": lambda **o: af.Model(x := af.Input([3]), af.Dense(1)(x), **o),
    "compile": lambda **o: model().compile(loss="mse", **o),
    "fit": lambda **o: model().fit(X, Y, verbose=0, **o),
    "evaluate": lambda **o: model().evaluate(X, Y, **o),
    "predict": lambda **o: model().predict(X, **o),
    "train_on_batch": lambda **o: model().train_on_batch(X, Y, **o),
    "test_on_batch": lambda **o: model().test_on_batch(X, Y, **o),
    "memory": lambda **o: model().memory(8, **o),
    "max_batch_size": lambda **o: model().max_batch_size("1MiB", **o),
    "draw": lambda **o: model().draw(**o),
    "explain": lambda **o: model().explain(**o),
    "diagnose": lambda **o: model().diagnose(X, Y, **o),
    "simplify": lambda **o: model().simplify(**o),
    "to": lambda **o: model().to("cpu", **o),
    "tensor": lambda **o: af.tensor(X, **o),
    "sweep": lambda **o: af.memory.sweep(stacked, [4, 8], [2, 3], **o),
    "SGD": lambda **o: af.SGD(**o),
    "Adam": lambda **o: af.Adam(**o),
    "EarlyStopping": lambda **o: af.callbacks.EarlyStopping(**o),
    "ModelCheckpoint": lambda **o: af.callbacks.ModelCheckpoint("best.aforo", **o),
    "ReduceLROnPlateau": lambda **o: af.callbacks.ReduceLROnPlateau(**o),
    "LearningRateScheduler": lambda **o: af.callbacks.LearningRateScheduler(lambda epoch: 0.1, **o),
    "CSVLogger": lambda **o: af.callbacks.CSVLogger("log.csv", **o),
    "StepDecay": lambda **o: af.schedules.StepDecay(0.1, 10, **o),
    "ExponentialDecay": lambda **o: af.schedules.ExponentialDecay(0.1, 10, 0.5, **o),
    "CosineDecay": lambda **o: af.schedules.CosineDecay(0.1, 10, **o),
}


@pytest.mark.parametrize("owner", OWNERS)
def test_an_option_that_nobody_has_is_refused_by_name(owner: str) -> None:
    OWNERS[owner]()
    with pytest.raises(af.Error, match=f"{owner} has no option 'zzz'") as caught:
        OWNERS[owner](zzz=1)
    assert isinstance(caught.value, TypeError)
    text = str(caught.value)
    assert "expected: " in text and "received: zzz=1" in text and text.endswith("fix: leave zzz out")


TYPOS = [
    ("fit", {"bach_size": 4}, "batch_size=4"),
    ("fit", {"epoch": 2}, "epochs=2"),
    ("compile", {"optimiser": "adam"}, "optimizer='adam'"),
    ("compile", {"metric": ["mae"]}, "metrics=['mae']"),
    ("compile", {"weighted_metrics": ["mae"]}, "metrics=['mae']"),
    ("Feedback", {"initial": "learnt"}, "initial_state='learnt'"),
    ("Sequential", {"dtyp": "float64"}, "dtype='float64'"),
    ("draw", {"notations": "values"}, "notation='values'"),
    ("explain", {"latx": True}, "latex=True"),
    ("SGD", {"lr": 0.25}, "learning_rate=0.25"),
    ("Adam", {"lr": 0.25}, "learning_rate=0.25"),
    ("EarlyStopping", {"pacience": 3}, "patience=3"),
    ("Dense", {"bias": False}, "use_bias=False"),
    ("Dense", {"input_dim": 3}, "input_shape=[3]"),
    ("LSTM", {"return_sequence": True}, "return_sequences=True"),
    ("StepDecay", {"facter": 0.5}, "factor=0.5"),
]


@pytest.mark.parametrize(("owner", "options", "fix"), TYPOS)
def test_the_fix_is_the_option_that_was_meant_and_it_works(owner: str, options: dict[str, Any], fix: str) -> None:
    with pytest.raises(af.Error) as caught:
        OWNERS[owner](**options)
    assert str(caught.value).splitlines()[-1].strip() == f"fix: {fix}"
    OWNERS[owner](**eval(f"dict({fix})"))


WORDS = [
    ("Dense", "dtype", "takes|computes"),
    ("Dense", "in_features", "from the data"),
    ("Dense", "activity_regularizer", "leave it out"),
    ("Dense", "batch_input_shape", "without the batch"),
    ("Input", "batch_shape", "without the batch"),
    ("SGD", "decay", r"af\.schedules"),
    ("fit", "steps_per_epoch", "all rows"),
    ("fit", "validation_freq", "each epoch"),
    ("fit", "validation_steps", "validation_data"),
    ("fit", "validation_batch_size", "batch_size"),
    ("fit", "workers", "leave workers out"),
    ("fit", "use_multiprocessing", "leave use_multiprocessing out"),
    ("compile", "run_eagerly", "leave run_eagerly out"),
    ("compile", "jit_compile", "leave jit_compile out"),
    ("compile", "steps_per_execution", "leave steps_per_execution out"),
    ("LSTM", "stateful", r"model\.step"),
    ("LSTM", "dropout", r"af\.Dropout"),
]


@pytest.mark.parametrize(("owner", "option", "says"), WORDS)
def test_options_of_other_frameworks_are_answered_in_words(owner: str, option: str, says: str) -> None:
    with pytest.raises(af.Error, match=f"fix: .*({says})"):
        OWNERS[owner](**{option: 1})


def test_a_refused_call_changes_nothing() -> None:
    net = model()
    before = net.get_weights()
    with pytest.raises(af.Error):
        net.fit(X, Y, bach_size=4)
    with pytest.raises(af.Error):
        net.compile(loss="mae", optimizer="adam", jit_compile=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))
    expected = float(np.mean((net.predict(X) - Y) ** 2))
    assert net.evaluate(X, Y) == pytest.approx(expected, rel=1e-5)  # still its own loss


def test_what_is_checked_looks_as_it_did() -> None:
    from inspect import signature

    assert list(signature(af.Model.fit).parameters)[:4] == ["self", "x", "y", "batch_size"]
    assert af.Input.__doc__ is not None and af.Model.fit.__doc__ is not None and af.Feedback.__init__.__name__ == "__init__"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: model().fit(X), ("fit needs y", "expected: x, y", "fix: fit(x, y)")),
        (lambda: model().fit(y=Y), ("fit needs x",)),
        (lambda: model().predict(), ("predict needs x",)),
        (lambda: af.Model(af.Input([3])), ("Model needs outputs", "Model(inputs, outputs)")),
        (lambda: af.Input(), ("Input needs shape",)),
        (lambda: af.Feedback(), ("Feedback needs shape",)),
        (lambda: af.schedules.CosineDecay(0.1), ("CosineDecay needs steps",)),
        (lambda: af.datasets.load_csv("a.csv"), ("load_csv needs targets",)),
        (lambda: af.datasets.load_digits(onehot=True), ("load_digits has no option 'onehot'", "fix: one_hot=True")),
        (lambda: model().memory(batch=4), ("memory has no option 'batch'", "fix: batch_size=4")),
    ],
)
def test_what_is_left_out_is_named(call: Callable[[], Any], says: tuple[str, ...]) -> None:
    with pytest.raises(af.Error) as caught:
        call()
    assert isinstance(caught.value, TypeError)
    assert all(words in str(caught.value) for words in says)


@pytest.mark.parametrize(("name", "meant"), [("Sig", "sigmoid"), ("tan h", "tanh"), ("soft", "soft"), ("leaky", "leaky_relu")])
def test_the_beginning_of_a_name_is_enough_to_guess_it(name: str, meant: str) -> None:
    with pytest.raises(af.Error, match=f"did you mean '{meant}"):
        af.Dense(2, activation=name)


def test_functions_that_cannot_be_called_as_they_will_be_are_refused_at_once() -> None:
    with pytest.raises(af.Error, match=r"takes one value(.|\n)*a function of 2(.|\n)*xs\[0\] \* xs\[1\]"):
        af.Lambda(lambda a, b: a * b)
    both = af.Lambda(lambda xs: xs[0] * xs[1])([af.tensor([2.0]), af.tensor([3.0])])
    assert both.numpy().tolist() == [6.0]
    for wrong in ({"loss": lambda a: a}, {"loss": "mse", "metrics": [lambda a, b, c: a]}):
        with pytest.raises(af.Error, match="is called on targets and predictions"):
            model().compile(**wrong)
    model().compile(loss=lambda y_true, y_pred, scale=2.0: scale * af.ops.mean(af.ops.square(y_true - y_pred)))


def test_a_folder_that_is_not_there_is_named_with_its_fix(tmp_path: Any) -> None:
    path = tmp_path / "runs" / "today" / "m.aforo"
    with pytest.raises(af.Error) as caught:
        model().save(path)
    fix = str(caught.value).splitlines()[-1].strip().removeprefix("fix: ")
    exec(fix, {})
    model().save(path)
    assert path.exists()


def test_one_target_for_each_sequence_is_told_from_one_for_each_step() -> None:
    net = af.Sequential([af.SimpleRNN(2, return_sequences=True, input_shape=[None, 3])])
    net.compile(loss="mse")
    x, y = np.zeros((6, 4, 3)), np.zeros((6, 2))
    with pytest.raises(af.Error, match=r"one target for each sequence(.|\n)*return_sequences=False"):
        net.fit(x, y, verbose=0)
    net.fit(x, np.zeros((6, 4, 2)), verbose=0)


# --- subclasses -------------------------------------------------------------------------------------------------------


def test_a_subclass_is_answered_with_its_own_options() -> None:
    class Patient(af.callbacks.EarlyStopping):
        def __init__(self, window: int = 1, **options: Any) -> None:
            super().__init__(**options)

    for typo, fix in (("windw", "window=3"), ("pacience", "patience=3")):
        with pytest.raises(af.Error, match=f"Patient has no option '{typo}'(.|\n)*fix: {fix}"):
            Patient(**{typo: 3})


# --- advice that can be typed -----------------------------------------------------------------------------------------


def fix_of(act: Any, says: str | None = None) -> str:
    with pytest.raises(af.Error, match=says) as caught:
        act()
    return str(caught.value).rpartition("\n  fix: ")[2]


def compiled(**options: Any) -> af.Sequential:
    made = af.Sequential([af.Dense(2, input_shape=[4])])
    made.compile("mse", **options)
    return made


def two_outputs() -> af.Model:
    x = af.Input([4])
    return af.Model(x, {"p": af.Dense(1, name="p")(x), "q": af.Dense(1, name="q")(x)})


def test_samples_in_one_row_are_told_how_to_be_rows() -> None:
    x = np.arange(8.0)
    fix = fix_of(lambda: compiled().predict(x), r"expected: shape \(n, 4\)")
    assert compiled().predict(eval(fix.partition(", if")[0])).shape == (2, 2)
    assert "input_shape=[1]" in fix_of(lambda: compiled().predict(np.arange(7.0)))
    sequences = af.Sequential([af.LSTM(2, input_shape=[None, 3])])
    assert "input_shape=[1]" in fix_of(lambda: sequences.predict(np.arange(7.0)))
    assert sequences.predict(eval(fix_of(lambda: sequences.predict(7.0)), {"np": np, "x": 7.0})).shape == (1, 2)


def test_dicts_and_generators_where_an_array_is_due() -> None:
    x, y = np.ones((3, 4)), np.ones((3, 2))
    rows = iter(x)
    fix = fix_of(lambda: compiled().predict(rows), "x is no array")
    scope = {"np": np, "x": rows}
    exec(fix, scope)
    assert compiled().predict(scope["x"]).shape == (3, 2)
    weights = {"sample_weight": {"a": np.ones(3), "b": np.ones(3)}, "verbose": 0}
    fix = fix_of(lambda: compiled().fit(x, y, **weights), "sample_weight is no array(.|\n)*a dict of a, b")
    assert eval(fix, {"np": np, **weights}).shape == (3, 2)


def test_a_loss_for_every_output_is_written_out() -> None:
    fix = fix_of(lambda: two_outputs().compile(loss={"p": "mae"}), "no loss for q")
    assert fix == 'loss={"p": "mae", "q": "mse"}'
    two_outputs().compile(**eval(f"dict({fix})"))


def test_targets_on_their_side_are_turned() -> None:
    assert fix_of(lambda: compiled().fit(np.ones((5, 4)), np.ones((2, 5)), verbose=0)) == "y.T"


def test_whole_numbers_that_an_input_cannot_hold_are_refused() -> None:
    i = af.Input([1], dtype="int32")
    net = af.Model(i, i * 2)
    fix = fix_of(lambda: net.predict(np.array([[2**40]])), "int32 cannot(.|\n)*1099511627776")
    assert "int64" in fix and net.predict(np.array([[2**30 - 1]]))[0, 0] == 2**31 - 2


def test_a_table_of_utf_16_is_told_from_an_old_one(tmp_path: Any) -> None:
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "t.csv").write_bytes("é,y\n1,2\n3,4\n".encode(encoding))
        fix = fix_of(lambda: af.datasets.load_csv(tmp_path / "t.csv", targets=["y"]))
        assert fix.startswith(f'encoding="{encoding}"')
        assert af.datasets.load_csv(tmp_path / "t.csv", targets=["y"], encoding=encoding)


def test_a_shape_with_none_is_told_both_ways_to_mean_it() -> None:
    fix = fix_of(lambda: af.Dense(4, input_shape=[None, 3]))
    assert fix.startswith("input_shape=[3]; ") and "af.Sequential([af.Input([None, 3]), …])" in fix
    made = af.Sequential([af.Input([None, 3]), af.Dense(4), af.LSTM(2)])
    assert made.predict(np.ones((2, 5, 3))).shape == (2, 2)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: af.tensor([1.0]) % 2, "no % and no //"),
        (lambda: 5.0 // af.tensor([1.0]), "no % and no //"),
        (lambda: af.tensor([1.0]).__setitem__(0, 1.0), "not changed piece by piece"),
        (lambda: af.ops.expand_dims(af.tensor([1.0, 2.0]), 5), "axis 5 does not exist(.|\n)*-2 to 1"),
        (lambda: af.ops.squeeze(af.tensor([1.0])), "squeeze needs axis"),
        (lambda: af.ops.concatenate([af.tensor([1.0])], dim=0), "concatenate has no option 'dim'"),
        (lambda: af.ops.softmax(af.tensor([1.0]), dim=0), "softmax has no option 'dim'"),
        (lambda: af.ops.gather(af.tensor([1.0]), [0], axis=0), "gather has no option 'axis'"),
        (lambda: af.metrics.top_k(n=2), "top_k has no option 'n'"),
        (lambda: compiled().summary(wide=True), "summary has no option 'wide'"),
        (lambda: compiled().set_weights(None), "set_weights takes a list"),
        (lambda: af.LSTM(3).load_pytorch(np.ones((12, 4))), "load_pytorch needs the weights for the state"),
        (lambda: af.Dense(3).kernel, "no 'kernel' yet"),
        (lambda: af.tensor([1.0]).backward(), "a tensor has no 'backward'"),
    ],
)
def test_what_is_not_there_is_said(act: Any, says: str) -> None:
    with pytest.raises(af.Error, match=says):
        act()


def test_a_model_of_sequences_is_asked_for_its_length_as_the_caller_has_it() -> None:
    net = af.Sequential([af.LSTM(2, input_shape=[None, 3])])
    net.compile("mse")
    assert fix_of(lambda: net.memory(4)) == fix_of(lambda: net.max_batch_size("1MB")) == "length=100"
    assert fix_of(lambda: compiled().memory(4, length=3)) == "leave length out"


def test_sizes_beyond_64_bits_are_counted() -> None:
    found = af.memory.sweep(lambda: compiled(), [10**18])
    assert found.total_bytes[0][0] == found.reports[0][0].total_bytes > 2**63
    assert af.memory.sweep(lambda: compiled(), [32]).total_bytes.dtype == np.int64
