"""El mismo script en la CPU o en una GPU: `modelo.to("cuda")`, y nada más cambia."""

import sys

import aforo as af

dispositivos = af.devices()
for nombre, estado in dispositivos.items():
    print(f"{nombre:10s} {estado}")
elegido = sys.argv[1] if len(sys.argv) > 1 else "cuda" if dispositivos["cuda"] == "available" else "cpu"

x, y = af.datasets.load_digits()
af.set_seed(11)
modelo = af.Sequential([af.Dense(64, input_shape=[64], activation="relu"), af.Dense(10, activation="softmax")])
modelo.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy")

# El plan se conoce antes de moverlo, también en una máquina sin GPU.
plan = modelo.memory(batch_size=32, rows=len(x), device=elegido)
print(f"\nplan para {plan.device}: {plan.total_bytes:,} bytes en cada paso")
for parte in plan.data:
    print(f"  además, {parte.name}: {parte.nbytes:,} bytes ({parte.where})")

modelo.to(elegido)
antes = af.memory.allocated(elegido)
historia = modelo.fit(x, y, epochs=10, batch_size=32, verbose=0, seed=1)
print(f"\nen {modelo.device}: {historia.history['accuracy'][-1]:.1%} de aciertos tras diez épocas")
print(f"el framework tiene allí {af.memory.allocated(elegido) - antes:,} bytes: los del plan")

# Los pesos y el estado del optimizador viajan con el modelo.
modelo.to("cpu").fit(x, y, epochs=11, initial_epoch=10, verbose=0)
print(f"y sigue entrenando en la {modelo.device}")
