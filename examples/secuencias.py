"""Una secuencia real: el Zen de Python, letra por letra. La red lee y predice la letra que sigue; después escribe sola."""

import codecs
import contextlib
import io

import numpy as np

import aforo as af

with contextlib.redirect_stdout(io.StringIO()):
    import this  # la biblioteca estándar trae el texto, cifrado con ROT13

texto = codecs.decode(this.s, "rot13")
letras = sorted(set(texto))
numero = {letra: i for i, letra in enumerate(letras)}
codigo = np.array([numero[letra] for letra in texto])

T = 40  # pasos de tiempo de cada ventana
inicio = np.arange(0, len(codigo) - T - 1, 3)
X = codigo[inicio[:, None] + np.arange(T)]  # (ventanas, T)
Y = codigo[inicio[:, None] + np.arange(T) + 1]  # la misma ventana, una letra después

af.set_seed(7)
model = af.Sequential()
model.add(af.Embedding(len(letras), 16, input_shape=[None]))  # None: secuencias de cualquier largo
model.add(af.LSTM(64, return_sequences=True))
model.add(af.Dense(len(letras), activation="softmax"))
model.compile(loss="sparse_categorical_crossentropy", optimizer=af.Adam(0.02), metrics="accuracy")

print(f"{len(texto)} letras, {len(letras)} distintas, {len(X)} ventanas de {T}")
for largo in (T, 10 * T):  # la memoria crece con el tiempo, y se sabe antes de empezar
    print(f"  memoria con {largo} pasos: {model.memory(batch_size=64, length=largo).total_bytes:,} B")
history = model.fit(X, Y, epochs=40, batch_size=64, seed=1, verbose=0)
print(f"error {history.history['loss'][0]:.2f} -> {history.history['loss'][-1]:.2f}")
print(f"acierta el {model.evaluate(X, Y, return_dict=True)['accuracy']:.0%} de las letras que siguen")

# Ahora escribe: un paso de tiempo por vez, con el estado guardado entre un paso y el siguiente.
model.reset_states()
escrito = "Beautiful is better "
p = model.step(np.array([[numero[letra] for letra in escrito]]))[:, -1]
for _ in range(120):
    siguiente = int(p.argmax())
    escrito += letras[siguiente]
    p = model.step(np.array([siguiente]))
print(escrito)
