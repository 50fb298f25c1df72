"""Finetune: train n-bit weights and thresholds, with activations rounded to what T steps of spikes can express."""

from __future__ import annotations

import copy
from dataclasses import replace
from numbers import Real

from torch import nn

from fxsnn.data import batches_of, held_out
from fxsnn.errors import AccuracyWarning, OptionError, PipelineError, warn
from fxsnn.graph import Graph
from fxsnn.rewriting import Pass, facts
from fxsnn.training import Student, Task, TrainingOptions, float_form, name_of, train


class Finetune(Pass, TrainingOptions):
    """Straight-through fine-tuning with the integers of the chip in the loop. The tail is not trained.

    Weights keep a float shadow that is trained, weight steps and thresholds are learned (Esser et al. 2020). Each
    forward pass uses n-bit weights, thresholds and biases rounded as the chip will hold them, and activations, pooled
    ones too, rounded to what T steps of spikes express under a steady drive. In spiking epochs activations are the
    rates that the spiking network really has on the batch, uneven spikes included; gradients are as before. Max pooling
    by any neuron of the window has the rate of spikes that come independently of each other, 1 - Π(1 - rate).

    What it did is logged at INFO by `fxsnn.training.loop`: a line for each epoch, and one that says which epoch was
    kept. Where the network that it began with is kept, an `AccuracyWarning` says so.

    Args:
        data: a pair of tensors (images, labels), or an iterable of (images, labels) such as a `DataLoader`. Labels are
            integers; of a network with one output 0 and 1 of any type; or values, floats like its outputs. With
            `distillation=1`, labels are not needed. With `loss` they are what that reads: tensors in tuples, lists and
            dicts, too; of a batch with more than two parts a tuple of all behind the images.
        epochs: how often to go through the data.
        spiking_epochs: how often after that, with the rates of the spiking network; 0 leaves these out.
        lr: learning rate at the start; `None`: 0.02 for SGD, 0.001 for AdamW.
        spiking_lr: the same for the spiking epochs; `None`: as `lr`.
        momentum: of SGD.
        weight_decay: of the weights.
        optimizer: "sgd" or "adamw".
        gradient_norm: scale a gradient down to this norm where it is larger; `None`: do not.
        schedule: "cosine" down to 0, or "step": a tenth at 50 % and again at 75 %; spiking epochs start it anew.
        distillation: share of the loss that is the distance from what the teacher says, 0 to 1.
        temperature: at which distributions are compared in distillation.
        teacher: a network to learn from, with as many classes; `None`: the float network that is being converted.
        precision: "float32", or "bfloat16" for mixed precision on CPU or GPU.
        validation: data held out, or the share of `data` (tensors only) to hold out; after each epoch the accuracy of
            the spiking network on them is taken, and the best epoch is what remains, or the start if none was better.
            `None`: the last one remains, or the start if its spiking network classified more of about 1,000 training
            images right. Of values, and with `loss`, the smaller loss is the better one.
        patience: stop when so many epochs brought nothing better on the validation data; `None`: never.
        batch_size: for tensors.
        timesteps: T, the levels of the activations; `None`: those for which the network is converted.
        target: gives the widths of the registers; `None`: that for which the network is converted.
        reset: of the spiking network, "subtraction" or "zero"; `None`: as it is converted.
        initial_membrane: of the spiking network; `None`: as it is converted.
        checkpoint: a file in which the run is kept after each epoch. The same call goes on from there after an
            interruption, and ends as it would have without one; when the run is over, it returns its result. A call
            with other options, network or data is refused (of data that come in batches only their number and, of a
            `DataLoader`, their size are known, unless it has tensors or they are a list).
        on_epoch: called with an `Epoch` (loss, accuracies, learning rate, seconds) after each epoch.
        seed: two runs with one seed give the same network on the same machine.
        progress: show a progress bar with loss, accuracy, learning rate and the time left.
        loss: `None`: cross entropy of classes, two by one output among them, or squared error of values, as outputs and
            labels tell. Or a function of outputs and labels, whatever a batch of these is, that gives a tensor of one
            number, a mean over the images: for networks with several outputs. Not with `distillation`.
        optimiser: `optimizer` by the name that it had; read it as `optimizer`.

    Raises:
        OptionError: an option has a value that is not allowed; the teacher cannot be copied or called; `loss` fails.
        PipelineError, ModelError: the graph has no thresholds or n-bit weights, or weights narrower than float32.
        TargetError: values of the network fit no register.
        DataError: data or labels do not fit the network, or what its outputs mean is not known without `loss`.
        TrainingError: the loss is not finite, or training takes a value out of its register.
        FileError: the checkpoint is of another call, or cannot be read or written.
    """

    needs = facts("thresholds", "low-bit-weights")
    gives = facts("finetuned")

    def describe(self) -> str:
        """The pass as it would be written, the loss by its name."""
        if self.loss is None:
            return super().describe()
        return replace(self, loss=None).describe().replace("loss=None", f"loss={name_of(self.loss)}")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if self.timesteps is None:
            raise PipelineError("finetune needs timesteps: the levels to which activations are rounded")
        if self.target is None:
            raise PipelineError("finetune needs a target: its registers are what thresholds are rounded for")
        labels, validation, data = self.distillation < 1, self.validation, self.data
        if isinstance(validation, Real):
            data, validation = held_out(data, validation, self.seed, labels=labels)
        batches = batches_of(data, self.batch_size, labels=labels)
        if validation is not None:  # in any order: it is counted, not learned
            validation = batches_of(validation, self.batch_size, labels=labels, shuffle=False, what="validation data")
        teacher = float_form(graph).module.eval() if self.teacher is None else self._own_teacher(graph)
        known = self.checkpoint is None or self.teacher is None  # a float form's tensors tell all about it
        example = None if known else graph.example_input()
        student = Student(graph, self.target, self.dynamics())
        outcome = train(Task(student, teacher, batches, validation, example), self)
        student.finish()
        if not outcome.kept:
            warn(f"{outcome}. A smaller lr, or more epochs, may do better", AccuracyWarning)

    def _own_teacher(self, graph: Graph) -> nn.Module:
        """A copy of the teacher, where the network is and of its type."""
        try:
            return copy.deepcopy(self.teacher).to(graph.device, graph.dtype).eval()  # type: ignore[union-attr]  # given
        except Exception as error:  # a network of the user's may raise what it likes
            reason = str(error).partition("\n")[0]
            raise OptionError(
                f"teacher cannot be copied to {graph.device} as {graph.dtype} ({type(error).__name__}: {reason}); give "
                "a network that copy.deepcopy takes, with tensors that have values"
            ) from error
