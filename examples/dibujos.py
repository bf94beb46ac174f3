"""Tres escalas (capas, vectores, números) y tres nomenclaturas: nodos = capas, nodos = valores, neuronas y sinapsis."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import aforo as af

red = af.Sequential(
    [af.Dense(4, activation="tanh", input_shape=[3]), af.Dense(5, activation="relu"), af.Dense(2)], name="notas"
)
with TemporaryDirectory() as carpeta:
    for escala in ("layers", "vectors", "numbers"):  # capas (nivel alto), vectores (medio), números (bajo)
        for nomenclatura in ("layers", "values", "neurons"):  # la usual, la inversa, y su lectura biológica
            archivo = Path(carpeta) / f"{escala}-{nomenclatura}.svg"
            red.draw(archivo, scale=escala, notation=nomenclatura)
            print(f"{archivo.name}: {archivo.stat().st_size:,} bytes")

# Con datos, cada neurona toma el color de su activación y cada sinapsis el de su peso.
alumno = np.array([[2.0, 0.24, 0.4]])
dibujo = red.draw(scale="numbers", notation="neurons", x=alumno)  # en un cuaderno se ve solo
assert dibujo.svg.startswith("<svg")
red.summary()
