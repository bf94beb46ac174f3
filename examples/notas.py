"""Predecir notas: la tabla del curso (horas de estudio, edad, promedio → N1, N2) y dos estudiantes nuevos.

Los datos de grades.csv son inventados; tienen la forma de la tabla de las diapositivas.
"""

from pathlib import Path

import numpy as np

import aforo as af

tabla = Path(__file__).with_name("grades.csv")
x, y = af.datasets.load_csv(tabla, targets=["N1", "N2"])
media, desvio = x.mean(axis=0), x.std(axis=0)  # las entradas se llevan a una escala común

af.set_seed(5)
modelo = af.Sequential(
    [
        af.Dense(8, input_shape=[3], activation="tanh"),
        af.Dense(2),  # la cabeza: dos números
    ]
)
modelo.compile(loss="mse", optimizer=af.SGD(learning_rate=0.05, momentum=0.9))
historia = modelo.fit((x - media) / desvio, y, epochs=300, batch_size=8, verbose=0, seed=5)
print(f"error: {historia.history['loss'][0]:.2f} al comienzo, {historia.history['loss'][-1]:.3f} al final")

nuevos = np.array([[10, 19, 4], [11, 20, 3]])  # estudio, edad, promedio
for fila, (n1, n2) in zip(nuevos, modelo.predict((nuevos - media) / desvio), strict=True):
    print(f"estudio {fila[0]}, edad {fila[1]}, promedio {fila[2]}: N1 = {n1:.1f}, N2 = {n2:.1f}")
assert historia.history["loss"][-1] < 0.3
