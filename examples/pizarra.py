"""La red en el pizarrón: forward, backward derivado, y por qué N regresiones = 1 regresión."""

import numpy as np

import aforo as af

red = af.Sequential([af.Dense(4, activation="tanh", input_shape=[3]), af.Dense(2)])
red.compile(loss="mse", optimizer="sgd")
print(red.explain())  # las fórmulas, con sus tamaños; en un cuaderno se ven en LaTeX

# Con datos, además, los números. Son los mismos que da af.grad.
rng = np.random.default_rng(1)
x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
pizarra = red.explain(x, y)
t1 = red.layers[0](af.tensor(x))
E = af.losses.mse(af.tensor(y), red.layers[1](t1))
dW2 = af.grad(E, red.layers[1].kernel)
np.testing.assert_allclose(pizarra["δE/δW2"].value, dW2.numpy(), rtol=1e-5)

# Sin funciones de activación no se gana nada: N = ((X W1 + B1) W2 + B2) W3 + B3 = X W5 + B5
regresiones = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(5), af.Dense(2)])
una = regresiones.simplify()
np.testing.assert_allclose(una.predict(x), regresiones.predict(x), rtol=1e-4, atol=1e-6)

# Con una activación en el medio no hay nada que plegar.
assert not red.simplify().folded
