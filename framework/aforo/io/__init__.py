"""Files: models with their training, and weights alone. Everything is checked before anything changes."""

from .models import load_model, load_weights, packed, save_model, save_weights, unpacked

__all__ = ["load_model", "load_weights", "packed", "save_model", "save_weights", "unpacked"]
