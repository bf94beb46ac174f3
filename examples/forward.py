"""forward: la salida de la red, capa por capa. Cada regresión lineal toma su tamaño de los datos."""

import numpy as np

import aforo as af


def forward(x, RL1, RL2, RL3):
    t1 = RL1.forward(x)  # valores intermedios
    t2 = RL2.forward(t1)
    N = RL3.forward(t2)
    return N


X = np.array([[2, 24, 4], [5, 22, 3], [7, 25, 4]], dtype="float32")
RL1, RL2, RL3 = af.Dense(3), af.Dense(4), af.Dense(2)
N = forward(X, RL1, RL2, RL3)

for nombre, capa in (("RL1", RL1), ("RL2", RL2), ("RL3", RL3)):
    print(f"{nombre}: W tiene tamaño {capa.kernel.shape}, B tiene tamaño {capa.bias.shape}")

# Lo mismo, escrito como producto de matrices: N = ((X W1 + B1) W2 + B2) W3 + B3
(W1, B1), (W2, B2), (W3, B3) = ((capa.kernel.numpy(), capa.bias.numpy()) for capa in (RL1, RL2, RL3))
a_mano = ((X @ W1 + B1) @ W2 + B2) @ W3 + B3
print("diferencia con la cuenta a mano:", float(np.abs(N.numpy() - a_mano).max()))
assert np.allclose(N.numpy(), a_mano, rtol=1e-4, atol=1e-4)
