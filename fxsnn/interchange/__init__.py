"""To other programs and back: NIR.

Open `nir.py` first. It imports the spiking network, the file and what lies below.
"""

from fxsnn.interchange.nir import from_nir, nir_input, to_nir
from fxsnn.interchange.nir_model import model_from_nir

__all__ = [
    "from_nir",
    "model_from_nir",
    "nir_input",
    "to_nir",
]
