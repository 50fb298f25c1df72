"""Fine-tuning and correcting a quantized network: the student, the loop, its loss, its checkpoint, the options.

Open `loop.py` first. The passes `Finetune` and `CorrectLayers` use it. It imports the spiking network and what
lies below.
"""

from fxsnn.training.correction import PARTS, Correction
from fxsnn.training.frontier import FloatFrontier, Frontier, SpikeFrontier
from fxsnn.training.loop import train
from fxsnn.training.options import TrainingOptions, name_of
from fxsnn.training.run import Epoch, Outcome, Task
from fxsnn.training.student import Student, float_form

__all__ = [
    "PARTS",
    "Correction",
    "Epoch",
    "FloatFrontier",
    "Frontier",
    "Outcome",
    "SpikeFrontier",
    "Student",
    "Task",
    "TrainingOptions",
    "float_form",
    "name_of",
    "train",
]
