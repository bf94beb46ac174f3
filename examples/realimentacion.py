"""Una arista hacia atrás: la salida de la última capa entra a la primera un paso de tiempo después.

Sumar en binario, de la cifra menos significativa a la más: en cada paso llegan dos bits y hay que dar el de la suma. Lo que se
lleva al paso siguiente lo decide la última capa, después de dos capas; una capa recurrente común solo se realimenta a sí misma.
"""

import random

import numpy as np

import aforo as af


def sumas(cuantas, bits, azar):
    """Pares de números, bit a bit (n, bits, 2); y en cada paso el bit de la suma y lo que se lleva (n, bits, 2)."""
    X, Y = np.zeros((cuantas, bits, 2)), np.zeros((cuantas, bits, 2))
    for i in range(cuantas):
        a, b, lleva = azar.getrandbits(bits), azar.getrandbits(bits), 0
        for t in range(bits):
            x = (a >> t) & 1, (b >> t) & 1
            total = sum(x) + lleva
            lleva = total >> 1
            X[i, t], Y[i, t] = x, (total & 1, lleva)
    return X, Y


azar = random.Random(3)
X, Y = sumas(300, 8, azar)

af.set_seed(2)
x = af.Input([None, 2], name="bits")  # (lote, tiempo, 2), de cualquier largo
atras = af.Feedback([2])  # lo que la red dio un paso antes; ceros en el primero
h = af.Dense(8, activation="tanh")(af.Concatenate()([x, atras]))
y = af.Dense(2, activation="sigmoid")(h)
atras.connect(y)
model = af.Model(x, y)
model.compile(loss="binary_crossentropy", optimizer=af.Adam(0.03))
model.summary()

history = model.fit(X, Y, epochs=60, batch_size=30, seed=1, verbose=0)
print(f"error {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.4f}")

# Aprendió con 8 bits; ahora suma números de 64, que nunca vio.
X, Y = sumas(100, 64, azar)
y_predicted = model.predict(X) > 0.5
print(f"sumas de 64 bits correctas, las 64 cifras: {(y_predicted == Y).all(axis=(1, 2)).mean():.0%}")
