"""Planear un trabajo para una GPU desde un portátil: cuánta memoria toma, antes de correr y sin la GPU.

No se crea ningún peso ni se reserva memoria de la GPU: todo se lee del plan que correría allá.
"""

import tempfile
from pathlib import Path

import aforo as af

GPU, PRESUPUESTO, FILAS = "cuda", "24GiB", 2_000_000


def red(n):
    """Cinco capas de n unidades entre 784 entradas y 10 clases."""
    modelo = af.Sequential([af.Dense(n, activation="relu", input_shape=[784])])
    for _ in range(4):
        modelo.add(af.Dense(n, activation="relu"))
    modelo.add(af.Dense(10, activation="softmax"))
    modelo.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")
    return modelo


# 1. Lotes × anchos: qué cabe. La fórmula dice por qué: las activaciones cuestan b × n, los pesos n × n.
tabla = af.memory.sweep(
    red, batch_sizes=[1024, 16_384, 65_536, 262_144], widths=[1024, 2048, 4096, 8192], device=GPU, budget=PRESUPUESTO
)
print(tabla)

# 2. Al revés: el lote más grande para un ancho, y el ancho más grande para un lote. Uno más ya no cabe.
modelo = red(4096)
b = modelo.max_batch_size(PRESUPUESTO, device=GPU)
n = af.memory.max_width(red, PRESUPUESTO, batch_size=65_536, device=GPU, multiple_of=64)
print(f"\nCon n = 4096 caben lotes de hasta {b:,}; con b = 65,536, hasta {n:,} unidades (de 64 en 64).")
assert modelo.memory(b, device=GPU).total_bytes <= 24 * 2**30 < modelo.memory(b + 1, device=GPU).total_bytes

# 3. Lo que toman el contexto, las bibliotecas y los datos va aparte. Si la GPU es solo nuestra, se descuenta del total.
plan = modelo.memory(65_536, device=GPU, rows=FILAS, validation_rows=10_000)
aparte = plan.device_bytes - plan.total_bytes
b = modelo.max_batch_size(24 * 2**30 - aparte, device=GPU)
print(f"Dejando {aparte:,} bytes para CUDA (estimación) y los datos, caben lotes de hasta {b:,}.\n")

# 4. El plan elegido: de quién es el máximo, y qué guarda fit además. Y una página para mirar y compartir.
print(plan)
with tempfile.TemporaryDirectory() as carpeta:
    pagina = Path(carpeta) / "plan.html"
    tabla.to_html(pagina)
    print(f"\nLa página con la tabla, los máximos y las capas: {pagina.stat().st_size:,} bytes, sin red ni bibliotecas.")

# 5. ¿Se cumple? Aquí mismo, en pequeño: lo planeado menos lo reservado es cero.
x, y = af.datasets.load_digits()
chica = af.Sequential([af.Dense(64, activation="relu", input_shape=[64]), af.Dense(10, activation="softmax")])
chica.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")
planeado, antes = chica.memory(32, rows=1500, validation_rows=len(x) - 1500).total_bytes, af.memory.allocated()
chica.fit(x[:1500], y[:1500], batch_size=32, epochs=2, validation_data=(x[1500:], y[1500:]), verbose=0)
reservado = af.memory.allocated() - antes
print(f"En la CPU, con los dígitos: {planeado:,} bytes planeados, {reservado:,} reservados, diferencia {planeado - reservado}.")
assert planeado == reservado
