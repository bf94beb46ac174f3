"""What a diagnosis consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that keeps a model from learning.

    layer   where: the name of a layer, "x" or "y" for the data, "optimizer"
    what    the fault, in a few words that are the same every time
    figure  the number it was seen by, and `shown`, what that number is
    advice  what to try
    """

    layer: str
    what: str
    figure: float
    shown: str
    advice: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}\n    {self.shown}\n    try: {self.advice}"
