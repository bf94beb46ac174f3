"""Descenso de gradiente a mano: w = w − α δE/δw, para todos los parámetros de la red."""

import numpy as np

import aforo as af

rng = np.random.default_rng(1)
datos = rng.uniform(-1, 1, size=(64, 2))
X = af.tensor(datos)
esperado = af.tensor(np.sin(3 * datos[:, :1]) * datos[:, 1:])

af.set_seed(1)
capas = [af.Dense(16, activation="tanh"), af.Dense(1)]
alfa = 0.2
for paso in range(400):
    t = X
    for capa in capas:
        t = capa(t)
    E = af.losses.mse(esperado, t)
    parametros = [w for capa in capas for w in capa.weights]
    for w, dw in zip(parametros, af.grad(E, parametros), strict=True):
        w -= alfa * dw
    if paso == 0:
        primero = float(E)
    if paso % 100 == 99:
        print(f"paso {paso + 1}: E = {float(E):.4f}")
assert float(E) < primero / 2
