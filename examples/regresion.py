"""Regresión con redes: el script del curso, sobre datos reales (progresión de la diabetes)."""

import aforo as keras

x, y = keras.datasets.load_diabetes()
nx, d_in = x.shape  # x tiene tamaño n x d_in
ny, d_out = y.shape  # y tiene tamaño n x d_out

keras.set_seed(3)
model = keras.Sequential()
model.add(keras.Dense(4, input_shape=[d_in], activation="tanh"))
model.add(keras.Dense(5, activation="relu"))
model.add(keras.Dense(d_out, activation="none"))
model.compile(
    loss="mse",  # error cuadrático medio
    optimizer="sgd",  # descenso de gradiente
)
history = model.fit(x, y, epochs=100, batch_size=32, verbose=0)
y_predicted = model.predict(x)

error = history.history["loss"]
print(f"error cuadrático medio: {error[0]:.2f} en la primera época, {error[-1]:.2f} en la última")
print(f"predecir siempre la media daría {y.var():.2f}")
assert error[-1] < error[0] and y_predicted.shape == y.shape
