"""¿Por qué no aprende? Fallas plantadas, y lo que dice de ellas model.diagnose."""

import numpy as np

import aforo as af

x, y = af.datasets.load_diabetes()


def red(alfa, entradas=x):
    af.set_seed(3)
    modelo = af.Sequential([af.Dense(8, activation="relu", input_shape=[entradas.shape[1]]), af.Dense(1)], name="red")
    modelo.compile(loss="mse", optimizer=af.SGD(learning_rate=alfa))
    return modelo


sana = red(0.05).diagnose(x, y)
print(sana)
assert sana.healthy

for que, modelo, entradas in (
    ("alfa demasiado grande", red(20.0), x),
    ("alfa demasiado chico", red(1e-8), x),
    ("entradas sin escalar", red(0.05), x * 500),
    ("una columna repetida", red(0.05, np.c_[x, x[:, 0]]), np.c_[x, x[:, 0]]),
):
    hallazgos = modelo.diagnose(entradas, y)
    print(f"\n--- {que}\n{hallazgos}")
    assert not hallazgos.healthy
