"""Fine-tuning and correcting a quantized network: the student, the loop, its loss, its checkpoint, the options.

Open `loop.py` first. The passes `Finetune` and `CorrectLayers` use it. It imports the spiking network and what
lies below.
"""

from fxsnn.training.frontier import Frontier
from fxsnn.training.loop import train
from fxsnn.training.options import TrainingOptions, name_of
from fxsnn.training.run import Epoch, Outcome, Task
from fxsnn.training.student import Student, float_form

__all__ = [
    "Epoch",
    "Frontier",
    "Outcome",
    "Student",
    "Task",
    "TrainingOptions",
    "float_form",
    "name_of",
    "train",
]
