"""Clasificación con redes: la misma red, con otra cabeza (head) y otra función de error."""

import aforo as keras

x, y = keras.datasets.load_digits(one_hot=True)
nx, d_in = x.shape  # x tiene tamaño n x d_in
ny, d_out = y.shape  # y tiene tamaño n x d_out

keras.set_seed(3)
model = keras.Sequential()
model.add(keras.Dense(4, input_shape=[d_in], activation="tanh"))
model.add(keras.Dense(5, activation="relu"))
model.add(keras.Dense(d_out, activation="softmax"))
model.compile(
    loss="categorical_crossentropy",  # entropía cruzada
    optimizer="sgd",  # descenso de gradiente
    metrics="accuracy",
)
history = model.fit(x, y, epochs=100, batch_size=32, verbose=0)
y_predicted = model.predict(x)

aciertos = history.history["accuracy"]
print(f"aciertos: {aciertos[0]:.0%} en la primera época, {aciertos[-1]:.0%} en la última")
print("los valores 4 y 5 son hiperparámetros: con capas tan chicas, no da para más")
assert aciertos[-1] > aciertos[0] and y_predicted.shape == y.shape
