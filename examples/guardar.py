"""Guardar y seguir: un entrenamiento que se interrumpe y continúa desde su archivo, bit a bit."""

import tempfile
from pathlib import Path

import numpy as np

import aforo as af

x, y = af.datasets.load_diabetes()


def red():
    af.set_seed(3)
    model = af.Sequential()
    model.add(af.Dense(16, input_shape=[x.shape[1]], activation="tanh"))
    model.add(af.Dropout(0.2))
    model.add(af.Dense(1))
    model.compile(loss="mse", optimizer="adam")
    return model


completo = red()
completo.fit(x, y, epochs=20, seed=1, verbose=0)

with tempfile.TemporaryDirectory() as carpeta:
    archivo = Path(carpeta) / "modelo.aforo"
    red().fit(x, y, epochs=8, seed=1, verbose=0, callbacks=[af.callbacks.ModelCheckpoint(archivo)])  # un archivo en cada época
    model = af.load_model(archivo)  # pesos, optimizador, pasos y máscaras de dropout
    tamaño = archivo.stat().st_size

print(f"el archivo tiene {tamaño:,} bytes y {model.epochs_trained} épocas detrás")
model.fit(x, y, epochs=20, initial_epoch=model.epochs_trained, seed=1, verbose=0)
iguales = all(np.array_equal(a, b) for a, b in zip(completo.get_weights(), model.get_weights(), strict=True))
print(f"pesos iguales, bit a bit, a los del entrenamiento sin interrupción: {'sí' if iguales else 'no'}")
assert iguales
