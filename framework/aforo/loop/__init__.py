"""Loops over time: their making, and their gradient."""

from .scan import Builder, InBlocks, Made, each, last, placeholder

__all__ = ["Builder", "InBlocks", "Made", "each", "last", "placeholder"]
