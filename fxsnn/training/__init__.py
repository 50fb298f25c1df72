"""Fine-tuning and correcting a quantized network: the student, the loop, the options.

Open `loop.py` first. The passes `Finetune` and `CorrectLayers` use it. It imports the spiking network and what
lies below.
"""

from fxsnn.training.frontier import Frontier
from fxsnn.training.loop import Epoch, Task, train
from fxsnn.training.options import TrainingOptions
from fxsnn.training.student import Student, float_form

__all__ = [
    "Epoch",
    "Frontier",
    "Student",
    "Task",
    "TrainingOptions",
    "float_form",
    "train",
]
