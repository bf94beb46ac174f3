"""Funciones de activación: cualquier función derivable sirve. No tienen parámetros: no se entrenan.

Dos deslices de las diapositivas: tanh no es 2σ(x) − 1 sino 2σ(2x) − 1; y en el código de TanH hay que usar s, no x.
"""

import numpy as np

import aforo as af

x = np.linspace(-3, 3, 13, dtype="float32")
t = af.tensor(x)
assert np.allclose(af.ops.tanh(t).numpy(), (2 * af.ops.sigmoid(2 * t) - 1).numpy(), atol=1e-6)
assert not np.allclose(af.ops.tanh(t).numpy(), (2 * af.ops.sigmoid(t) - 1).numpy(), atol=0.1)
assert (af.ops.relu(t).numpy() == np.where(x <= 0, 0, x)).all()

# Las derivadas salen solas, también la de una activación nueva.
funciones = {
    "sigmoid": af.ops.sigmoid,
    "tanh": af.ops.tanh,
    "relu": af.ops.relu,
    "sin": af.ops.sin,
    "x²": lambda z: z**2,
    "sin(x)·x": lambda z: af.ops.sin(z) * z,
}
for nombre, f in funciones.items():
    (derivada,) = af.grad(af.ops.sum(f(t)), [t])
    print(f"{nombre:10s} f(1.5) = {f(af.tensor(1.5)).item():7.4f}   f'(1.5) = {derivada.numpy()[9]:7.4f}")

# g(x) = x^(25·5 − 584): también es derivable, para x distinto de 0.
z = af.tensor(np.array([0.999, 1.0, 1.001]), dtype="float64")
g = z ** (25 * 5 - 584)
print("x^(25·5−584):", g.numpy(), "y su derivada:", af.grad(af.ops.sum(g), z).numpy())

modelo = af.Sequential([af.Dense(4, activation=lambda z: af.ops.sin(z) * z), af.Dense(1)])
modelo.compile(loss="mse", optimizer="sgd")
modelo.fit(x[:, None], np.sin(x)[:, None], epochs=5, verbose=0)
