"""Mistakes with sequences and cycles: each is named, and comes with its fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_recurrence import masked_model

import aforo as af


def sequences(*shape: int) -> tuple[Any, Any]:
    return af.Input([None, shape[0]]), af.Feedback([shape[-1]], name="memory")


def never_connected() -> None:
    x, back = sequences(3)
    af.Model(x, af.Dense(3)(x + back))


def twice_connected() -> None:
    x, back = sequences(3)
    state = af.Dense(3)(x + back)
    back.connect(state)
    back.connect(state)


def another_shape() -> None:
    x, back = sequences(3)
    back.connect(af.Dense(4)(x + back))


def a_fixed_length() -> None:
    af.Concatenate()([af.Input([10, 3]), af.Feedback([2])])


def no_tensor() -> None:
    af.Feedback([3]).connect(np.zeros(3))


def mean_over_time() -> None:
    x, back = sequences(3)
    state = af.Lambda(lambda h: h - af.ops.mean(h, 1, keepdims=True), name="centre")(x + back)
    back.connect(state)
    af.Model(x, state)


def batch_statistics() -> None:
    x, back = sequences(3)
    state = af.BatchNormalization(name="norm")(x + back)
    back.connect(state)
    af.Model(x, state)


def attention() -> None:
    x, back = sequences(3)
    state = af.Lambda(lambda h: af.ops.softmax(h @ af.ops.transpose(h, [0, 2, 1])) @ h, name="attention")(x + back)
    back.connect(state)
    af.Model(x, state)


def shifted_in_time() -> None:
    x, back = sequences(3)
    state = af.Lambda(lambda h: af.ops.concatenate([h[:, 1:], h[:, :1]], 1), name="shift")(x + back)
    back.connect(state)
    af.Model(x, state)


def only_the_last() -> None:
    x, back = sequences(3)
    back.connect(af.LSTM(3)(x + back))


def forgotten_return_sequences() -> None:
    af.Sequential([af.LSTM(4, name="first"), af.LSTM(4, name="second")]).build((None, None, 3))


def no_length() -> None:
    x, back = af.Input([3]), af.Feedback([3])
    back.connect(af.Dense(3)(back + af.ops.expand_dims(x, 1)))
    af.Model(x, back.connected)


def two_lengths() -> None:
    x, back = sequences(3)
    back.connect(x + back)
    af.Model(x, back.connected, steps=4)


def length_without_time() -> None:
    model = af.Sequential([af.Dense(2, input_shape=[3])])
    model.memory(4, training=False, length=10)


def time_without_length() -> None:
    model = af.Sequential([af.LSTM(2, input_shape=[None, 3])])
    model.memory(4, training=False)


def wrong_start() -> None:
    af.Feedback([3], initial_state=np.zeros(4))


def unknown_start() -> None:
    af.Feedback([3], initial_state="ones")


def wrong_state() -> None:
    x = af.Input([None, 3])
    af.LSTM(4)(x, initial_state=[af.Input([5]), af.Input([5])])


def wrong_mask() -> None:
    af.LSTM(4)(af.Input([None, 3]), mask=af.Input([None, 3], dtype="bool"))


def float_mask() -> None:
    af.LSTM(4)(af.Input([None, 3]), mask=af.Input([None]))


def no_steps() -> None:
    af.Sequential([af.LSTM(2, input_shape=[None, 3])]).predict(np.zeros((2, 0, 3)))


def different_lengths() -> None:
    a, b = af.Input([None, 2], name="a"), af.Input([None, 2], name="b")
    af.Model([a, b], af.LSTM(2)(af.Concatenate()([a, b]))).predict([np.zeros((1, 4, 2)), np.zeros((1, 5, 2))])


def short_targets() -> None:
    model = af.Sequential([af.LSTM(2, return_sequences=True, input_shape=[None, 3])])
    model.compile(loss="mse", optimizer="sgd")
    model.fit(np.zeros((4, 6, 3)), np.zeros((4, 5, 2)), verbose=0)


def short_weights() -> None:
    model = af.Sequential([af.LSTM(2, return_sequences=True, input_shape=[None, 3])])
    model.compile(loss="mse", optimizer="sgd")
    model.fit(np.zeros((4, 6, 3)), np.zeros((4, 6, 2)), sample_weight=np.ones((4, 5)), verbose=0)


def start_on_its_cycle() -> None:
    x, other = sequences(3)
    inner = af.Dense(3)(x + other)
    back = af.Feedback([3], initial_state=af.ops.mean(inner, 1))
    state = af.Dense(3)(inner + back)
    back.connect(state)
    other.connect(state)
    af.Model(x, state)


def different_truncation() -> None:
    x = af.Input([None, 2])
    a, b = af.Feedback([2], truncate=3), af.Feedback([2], truncate=4)
    state = af.Dense(2)(x + a + b)
    a.connect(state)
    b.connect(state)
    af.Model(x, state)


def truncated_by_itself() -> None:
    x, back = af.Input([None, 2]), af.Feedback([3])
    h = af.GRU(3, return_sequences=True, truncate=2)(af.Concatenate()([x, back]))
    back.connect(h)
    af.Model(x, h)


def truncated_in_a_model_within() -> None:
    inner_x, inner = af.Input([None, 3]), af.Feedback([3], truncate=2)
    h = af.Dense(3)(inner_x + inner)
    inner.connect(h)
    x, back = af.Input([None, 3]), af.Feedback([3])
    out = af.Model(inner_x, h)(x + back)
    back.connect(out)
    af.Model(x, out)


def started_from_a_number() -> None:
    af.Feedback([2], initial_state=0.5)


def started_from_a_sequence() -> None:
    af.Feedback([2], initial_state=af.Input([None, 2]))


def started_from_whole_numbers() -> None:
    af.Feedback([2], initial_state=af.Input([2], dtype="int64"))


def masked_for_one_length() -> None:
    af.Feedback([2], mask=af.Input([5], dtype="bool"))


def connected_to_another_dtype() -> None:
    back = af.Feedback([2])
    back.connect(af.Dense(2)(af.Input([None, 3], dtype="float64")))


def fed_by_a_feedback() -> None:
    back = af.Feedback([2])
    af.Model(back, af.Dense(2)(back))


def given_a_list() -> None:
    af.GRU(3)([af.Input([None, 2]), af.Input([3])])


def given_states_by_name() -> None:
    af.LSTM(3)(af.Input([None, 2]), initial_state={"h": af.Input([3])})


def given_one_state_of_two() -> None:
    af.LSTM(3)(af.Input([None, 2]), initial_state=af.Input([3]))


def masked_by_fractions() -> None:
    masked_model().predict([np.ones((2, 5, 3)), np.full((2, 5), 0.4)])


def called_with_a_mask_of_numbers() -> None:
    masked_model()([af.tensor(np.ones((2, 5, 3))), af.tensor(np.ones((2, 5)))])


def a_target_for_each_sequence() -> None:
    fitted(True, (4, 1))


def a_target_for_each_step() -> None:
    fitted(False, (4, 5, 1))


def fitted(per_step: bool, shape: tuple[int, ...]) -> None:
    model = af.Sequential([af.GRU(4, return_sequences=per_step), af.Dense(1)])
    model.compile("mse", "sgd")
    model.fit(np.zeros((4, 5, 3)), np.zeros(shape), verbose=0)


def one_sequence() -> None:
    masked_model().predict([np.ones((5, 3)), np.ones((1, 5), bool)])


def started_from_rows() -> None:
    af.Feedback([2], initial_state=np.ones((4, 2)))


def masked_by_rows() -> None:
    af.Feedback([2], mask=np.ones((4, 7), bool))


def named_by_a_number() -> None:
    af.Feedback([2], name=5)  # type: ignore[arg-type]


def with_dropout() -> None:
    af.LSTM(3, dropout=0.1)


def with_states_kept() -> None:
    af.GRU(3, stateful=True)


def reset_by_a_number() -> None:
    model = af.Sequential([af.GRU(2, input_shape=[None, 3])])
    model.reset_states(3)  # type: ignore[arg-type]


def other_rows() -> None:
    model = af.Sequential([af.LSTM(2, input_shape=[None, 3])])
    model.step(np.zeros((3, 3)))
    model.step(np.zeros((2, 3)))


def no_states() -> None:
    af.Sequential([af.Dense(2, input_shape=[3])]).step(np.zeros((1, 3)))


def whole_sequence_in_a_step() -> None:
    x = af.Input([None, 3])
    h = af.LSTM(3, return_sequences=True)(x)
    af.Model(x, af.Lambda(lambda h: h - af.ops.max(h, 1, keepdims=True), name="peak")(h)).step(np.zeros((1, 3)))


def unknown_state() -> None:
    model = af.Sequential([af.LSTM(2, input_shape=[None, 3], name="mind")])
    model.reset_states("mynd")


def layers_in_each_other() -> None:
    class Half(af.Layer):
        def forward(self, x: Any) -> Any:
            return self.other(x) + x

    a, b = Half(name="a"), Half(name="b")
    a.other, b.other = b, a
    a(af.Input([3]))


def weight_as_long_as_time() -> None:
    af.Dense(3)(af.Input([None]))


MISTAKES: list[tuple[Callable[[], None], str]] = [
    (never_connected, r"the feedback 'memory' \(batch, time, 3\) made at .*py:\d+ is never connected(.|\n)*back.connect"),
    (twice_connected, r"'memory' .* is connected already(.|\n)*fix: another = af.Feedback\(\[3\]\)"),
    (another_shape, r"a value of another shape.\n.*\(batch, time, 3\).*\n.*\(batch, time, 4\).*\n.*af.Feedback\(\[4\]\)"),
    (a_fixed_length, r"cannot be concatenated(.|\n)*\(batch, 10, 3\)(.|\n)*\(batch, time, 2\)(.|\n)*af.Input\(\[None, d\]\)"),
    (no_tensor, r"connected to what a layer gives(.|\n)*ndarray"),
    (mean_over_time, r"layer 'centre' stands on a cycle, but sum mixes time steps(.|\n)*\(batch, time, 3\)"),
    (batch_statistics, r"layer 'norm' stands on a cycle, but sum mixes time steps"),
    (attention, r"layer 'attention' stands on a cycle, but matmul mixes time steps"),
    (shifted_in_time, r"layer 'shift' stands on a cycle, but slice mixes time steps"),
    (only_the_last, r"another shape(.|\n)*fix: return_sequences=True in that layer"),
    (forgotten_return_sequences, r"layer 'second' reads sequences(.|\n)*return_sequences=True in the recurrent layer before"),
    (no_length, r"not known how many steps the cycle runs(.|\n)*steps=10"),
    (two_lengths, r"steps says how long(.|\n)*follows from Input \(batch, time, 3\)"),
    (length_without_time, r"has no time axis(.|\n)*length=10"),
    (time_without_length, r"sequences of any length(.|\n)*length=100"),
    (wrong_start, r"cannot start from a state of another size(.|\n)*\(3,\) or, (.|\n)*\(batch, 3\)(.|\n)*\(4,\)"),
    (unknown_start, r"cannot start from 'ones'(.|\n)*initial_state=\"learnt\""),
    (wrong_state, r"cannot start from these states(.|\n)*2 of shape \(batch, 4\)(.|\n)*\(batch, 5\)(.|\n)*af.Dense\(4\)"),
    (wrong_mask, r"mask of layer 'lstm' does not fit(.|\n)*\(batch, time\)(.|\n)*\(batch, time, 3\)"),
    (float_mask, r"mask of layer 'lstm' says which steps count(.|\n)*bool(.|\n)*mask > 0"),
    (no_steps, r"x holds sequences of length 0(.|\n)*time at least 1"),
    (different_lengths, r"differ in their number of time steps(.|\n)*4, as in a(.|\n)*5 in b"),
    (short_targets, r"differ in their number of time steps(.|\n)*6, as in x(.|\n)*5 in y"),
    (short_weights, r"one weight for each sample(.|\n)*\(4,\), or \(4, 6\) for each time step(.|\n)*\(4, 5\)"),
    (start_on_its_cycle, r"the initial state of .* depends on its own cycle"),
    (different_truncation, r"stop gradients together(.|\n)*3, 4"),
    (truncated_by_itself, r"stops gradients where its cycle does(.|\n)*truncate=None(.|\n)*truncate=2(.|\n)*af.Feedback"),
    (truncated_in_a_model_within, r"stops gradients where its cycle does"),
    (started_from_a_number, r"a state of another size(.|\n)*fix: np.full\(\(2,\), state\)"),
    (started_from_a_sequence, r"a state of another size(.|\n)*fix: state\[:, -1\]"),
    (started_from_whole_numbers, r"cannot start from int64(.|\n)*af.ops.cast\(state, \"float32\"\)"),
    (masked_for_one_length, r"mask of the feedback(.|\n)*\(batch, 5\)(.|\n)*af.Input\(\[None\], dtype=\"bool\"\)"),
    (connected_to_another_dtype, r"another shape(.|\n)*af.Feedback\(\[2\], dtype='float64'\)"),
    (fed_by_a_feedback, r"a model starts from inputs"),
    (given_a_list, r"reads one sequence(.|\n)*initial_state="),
    (given_states_by_name, r"starts from numbers(.|\n)*initial_state=\[h, c\]"),
    (given_one_state_of_two, r"cannot start from these states(.|\n)*initial_state=\[h, c\]"),
    (masked_by_fractions, r"x\['mask'\] must hold True and False(.|\n)*received: 0.4(.|\n)*x\['mask'\] > 0"),
    (called_with_a_mask_of_numbers, r"mask: \(batch, time\) bool(.|\n)*mask > 0"),
    (a_target_for_each_sequence, r"one target for each sequence(.|\n)*return_sequences=False in layer 'gru'"),
    (a_target_for_each_step, r"a target for each step(.|\n)*return_sequences=True in layer 'gru'"),
    (one_sequence, r"x\['input_1'\] does not fit(.|\n)*\[None\] adds a batch axis"),
    (started_from_rows, r"cannot start from rows of numbers(.|\n)*initial_state=af.Input\(\[2\]\)"),
    (masked_by_rows, r"mask of the feedback(.|\n)*does not fit it(.|\n)*af.Input\(\[None\], dtype=\"bool\"\)"),
    (named_by_a_number, r"name is text(.|\n)*received: 5"),
    (with_dropout, r"LSTM has no option 'dropout'(.|\n)*fix: af.Dropout"),
    (with_states_kept, r"GRU has no option 'stateful'(.|\n)*fix: model.step\(x\)"),
    (reset_by_a_number, r"name is text(.|\n)*received: 3"),
    (other_rows, r"keeps states for 3 sequences(.|\n)*2 rows(.|\n)*model.reset_states\(\)"),
    (no_states, r"has no states to keep(.|\n)*model.predict"),
    (whole_sequence_in_a_step, r"layer 'peak' cannot run one step at a time, but amax mixes time steps"),
    (unknown_state, r"there is no state named 'mynd'(.|\n)*'mind'"),
    (layers_in_each_other, r"layers call each other without end: a → b → a(.|\n)*af.Feedback"),
    (weight_as_long_as_time, r"a weight whose size follows the data(.|\n)*af.Input\(\[None, d\]\)"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "text"), MISTAKES, ids=[act.__name__ for act, _ in MISTAKES])
def test_a_mistake_is_named_and_comes_with_its_fix(act: Callable[[], None], text: str) -> None:
    with pytest.raises(af.Error, match=text):
        act()
