"""Embedding."""

from __future__ import annotations

from typing import Any

from .. import initializers, ops
from ..errors import InvalidType, explain
from ..graph import Tensor
from ..settings import whole
from ..specs import INTEGERS
from .layer import Layer


class Embedding(Layer):
    """A vector for each whole number from 0 to input_dim − 1: (batch, …) to (batch, …, output_dim)."""

    takes = "one"
    input_dtype = "int64"
    reads_sequences = True

    def __init__(self, input_dim: int, output_dim: int, embeddings_initializer: Any = "random_uniform", **options: Any) -> None:
        super().__init__(**options)
        self.input_dim = whole("input_dim", input_dim, 1)
        self.output_dim = whole("output_dim", output_dim, 1)
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight([self.input_dim, self.output_dim], self.embeddings_initializer, "embeddings")

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in INTEGERS:
            raise InvalidType(
                explain(
                    f"layer {self.name!r} takes whole numbers.",
                    expected="int64",
                    received=x.dtype,
                    fix='af.Input([length], dtype="int64")',
                )
            )
        if x.op == "variable" and x.symbolic:
            limit = x.variable.limit
            x.variable.limit = self.input_dim if limit is None else min(limit, self.input_dim)
        return ops.gather(self.embeddings, x)
