"""Train a classifier on handwritten digits: its memory plan first, then its accuracy on digits it has not seen."""

import numpy as np

import aforo as af

af.set_seed(7)
x, y = af.datasets.load_digits()
order = np.random.default_rng(7).permutation(len(x))
test, train = order[: len(x) // 5], order[len(x) // 5 :]

model = af.Sequential()
model.add(af.Dense(256, input_shape=[64], activation="relu"))
model.add(af.Dense(10, activation="softmax"))
model.compile(loss="sparse_categorical_crossentropy", optimizer=af.SGD(learning_rate=0.1, momentum=0.9), metrics="accuracy")

plan = model.memory(batch_size=32)
print("Before the first step: what training will take, to the byte.\n")
print(plan)

history = model.fit(x[train], y[train], epochs=30, batch_size=32, verbose=0)
held = af.memory.allocated("cpu")
print("\nAfter training 30 epochs on", len(train), "digits:")
print(f"  planned {plan.total_bytes:,} B, held by the framework {held:,} B, difference {held - plan.total_bytes} B")
print(f"  loss {history.history['loss'][0]:.3f} in the first epoch, {history.history['loss'][-1]:.5f} in the last")

_, accuracy = model.evaluate(x[test], y[test])
print(f"  accuracy on {len(test)} digits it has never seen: {accuracy:.1%}")
digit = model.predict(x[test][:1]).argmax()
print(f"  the first of them is a {y[test][0]}; the model says {digit}")
