"""Weights of trained networks, read safely from what PyTorch and those who use it write.

Open `loading.py` first. It imports only the ground.
"""

from fxsnn.weights.loading import load_weights

__all__ = ["load_weights"]
