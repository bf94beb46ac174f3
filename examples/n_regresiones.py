"""N regresiones = 1 regresión: sin activaciones, una pila de capas lineales no puede más que una sola."""

import numpy as np

import aforo as af

rng = np.random.default_rng(2)
X = rng.normal(size=(50, 3)).astype("float32")
pila = af.Sequential([af.Dense(4, input_shape=[3]), af.Dense(5), af.Dense(2)])
N = pila.predict(X)

# N = ((X W1 + B1) W2 + B2) W3 + B3 = X W + B
W1, B1, W2, B2, W3, B3 = pila.get_weights()
una = af.Sequential([af.Dense(2, input_shape=[3])])
una.set_weights([W1 @ W2 @ W3, (B1 @ W2 + B2) @ W3 + B3])
print("diferencia entre tres regresiones y una:", float(np.abs(N - una.predict(X)).max()))
assert np.allclose(N, una.predict(X), atol=1e-5)

# Con una activación entre capas, ya no: ahora puede con funciones que no son lineales.
x = np.linspace(-1, 1, 128, dtype="float32")[:, None]
y = np.abs(x)
errores = {}
for nombre in ("none", "relu"):
    af.set_seed(2)
    red = af.Sequential([af.Dense(16, input_shape=[1], activation=nombre), af.Dense(1)])
    red.compile(loss="mse", optimizer=af.SGD(learning_rate=0.1, momentum=0.9))
    errores[nombre] = red.fit(x, y, epochs=100, verbose=0, seed=2).history["loss"][-1]
    print(f"|x| con activación {nombre}: error {errores[nombre]:.5f}")
assert errores["relu"] < errores["none"] / 20
