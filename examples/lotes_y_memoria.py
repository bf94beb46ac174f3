"""Ejecución por lotes: las activaciones de una capa de n unidades cuestan b × n valores, con b = batch_size."""

import aforo as af

modelo = af.Sequential([af.Dense(256, input_shape=[64], activation="relu"), af.Dense(128, activation="relu"), af.Dense(10)])
modelo.compile(loss="mse", optimizer="sgd")
print("   b      b × n por capa             bytes de un paso   bytes por ejemplo de más")
antes = None
for b in (1, 5, 32, 64, 128):
    plan = modelo.memory(batch_size=b)
    valores = [fila.values for fila in plan.layers if fila.values]
    assert valores == [b * 256, b * 128, b * 10]
    de_mas = "" if antes is None else f"{(plan.total_bytes - antes[1]) / (b - antes[0]):,.0f}"
    print(f"{b:4d}      {valores!s:25s}  {plan.total_bytes:15,}   {de_mas:>12s}")
    antes = (b, plan.total_bytes)
entrenar, predecir = modelo.memory(128).arena_bytes, modelo.memory(128, training=False).arena_bytes
print("\nPara predecir no hace falta guardar los valores intermedios:")
print(f"  b = 128, entrenar: {entrenar:,} bytes; predecir: {predecir:,}")
