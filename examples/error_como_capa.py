"""La función de error es una capa más: toma la salida y el valor esperado, y da un número. No se usa para predecir."""

import numpy as np

import aforo as af

rng = np.random.default_rng(0)
X = af.tensor(rng.normal(size=(20, 3)))
esperado = af.tensor(rng.normal(size=(20, 2)))

RL1, RL2, RL3 = af.Dense(3), af.Dense(4), af.Dense(2)
t1 = RL1(X)
t2 = RL2(t1)
N = RL3(t2)
E = af.losses.mse(esperado, N)  # la última capa, solo para entrenar
print("E =", float(E))

# δE/δW2 tiene que pasar por RL3; δE/δW1, por RL3 y RL2: la regla de la cadena, que el framework aplica solo.
dW1, dW2, dW3, dt2 = af.grad(E, [RL1.kernel, RL2.kernel, RL3.kernel, t2])
for nombre, derivada in (("δE/δW1", dW1), ("δE/δW2", dW2), ("δE/δW3", dW3), ("δE/δt2", dt2)):
    print(nombre, "tiene tamaño", derivada.shape)

# A mano: δE/δN = 2 (N − esperado) / cantidad;  δE/δt2 = δE/δN · W3ᵀ;  δE/δW2 = t1ᵀ · δE/δt2
dN = 2 * (N.numpy() - esperado.numpy()) / N.numpy().size
assert np.allclose(dt2.numpy(), dN @ RL3.kernel.numpy().T, atol=1e-6)
assert np.allclose(dW2.numpy(), t1.numpy().T @ dt2.numpy(), atol=1e-6)
print("las mismas derivadas que a mano")
