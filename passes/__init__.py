"""The rewrites, one file a pass, in the order in which they usually run."""

if __name__ != "fxsnn.passes":
    raise ImportError("this is the package fxsnn.passes: import it by that name")

from fxsnn.chip import HardwareTarget
from fxsnn.passes.absorb_padding import AbsorbPadding
from fxsnn.passes.calibrate_thresholds import CalibrateThresholds
from fxsnn.passes.canonicalize import Canonicalize
from fxsnn.passes.check_conv_relu import CheckConvRelu
from fxsnn.passes.check_limits import CheckLimits
from fxsnn.passes.correct_layers import CorrectLayers
from fxsnn.passes.drop_idle_relus import DropIdleReLUs
from fxsnn.passes.finetune import Finetune
from fxsnn.passes.fix_windows import FixWindows
from fxsnn.passes.fold_batch_norm import FoldBatchNorm
from fxsnn.passes.fold_constants import FoldConstants
from fxsnn.passes.gather_weights import GatherWeights
from fxsnn.passes.give_affine_neurons import GiveAffineNeurons
from fxsnn.passes.lift_dimensions import LiftDimensions
from fxsnn.passes.merge_linear import MergeLinear
from fxsnn.passes.move_affine import MoveAffine
from fxsnn.passes.pair_signed_values import PairSignedValues
from fxsnn.passes.quantize_weights import QuantizeWeights
from fxsnn.passes.recognize_activations import RecognizeActivations
from fxsnn.passes.recognize_affine import RecognizeAffine
from fxsnn.passes.recognize_mixing import RecognizeMixing
from fxsnn.passes.recognize_poolings import RecognizePoolings
from fxsnn.passes.recognize_sums import RecognizeSums
from fxsnn.passes.recognize_wiring import RecognizeWiring
from fxsnn.passes.replace_activation import ReplaceActivation
from fxsnn.passes.replace_max_pool import MAX_POOL_WAYS, ReplaceMaxPool
from fxsnn.passes.rewrite_transposed import RewriteTransposed
from fxsnn.passes.separate_calls import SeparateCalls
from fxsnn.passes.substitute_spikes import SubstituteSpikes
from fxsnn.passes.take_frames import TakeFrames
from fxsnn.passes.weigh_poolings import WeighPoolings
from fxsnn.rewriting import Pass

FRONT_END = (
    Canonicalize(),
    RecognizeActivations(),
    DropIdleReLUs(),
    FoldConstants(),
    GatherWeights(),
    RecognizeMixing(),
    RecognizePoolings(),
    RecognizeAffine(),
    LiftDimensions(),
    SeparateCalls(),
    RewriteTransposed(),
    RecognizeSums(),
    RecognizeWiring(),
    FixWindows(),
    AbsorbPadding(),
    MoveAffine(),
    MergeLinear(),
    GiveAffineNeurons(),
)
"""What makes of a network as it was written one that the other passes can read, in order; its function is kept.

They leave alone what they cannot rewrite, for `CheckConvRelu` to speak about.
"""


def front_end(target: HardwareTarget, max_pool: str | None = None) -> tuple[Pass, ...]:
    """`FRONT_END`, and what else makes of a network one whose layers can spike on a chip.

    Args:
        target: the chip; where it has pairs, values with a sign become such, see `PairSignedValues`; only where it has
            convolutions of 1x1, such can stand for scales and shifts, see `GiveAffineNeurons`.
        max_pool: what is to take the place of max pooling, see `ReplaceMaxPool`; `None`: nothing.

    Raises:
        OptionError: there is no such way.
    """
    pooling = () if max_pool is None else (ReplaceMaxPool(max_pool),)
    alone = GiveAffineNeurons(convolutions=target.largest_bits((1, 1), 1) is not None)
    passes = (alone if isinstance(one, GiveAffineNeurons) else one for one in FRONT_END)
    return (*passes, *pooling, *((PairSignedValues(),) if "pair" in target.joins else ()))


__all__ = [
    "FRONT_END",
    "MAX_POOL_WAYS",
    "AbsorbPadding",
    "CalibrateThresholds",
    "Canonicalize",
    "CheckConvRelu",
    "CheckLimits",
    "CorrectLayers",
    "DropIdleReLUs",
    "Finetune",
    "FixWindows",
    "FoldBatchNorm",
    "FoldConstants",
    "GatherWeights",
    "GiveAffineNeurons",
    "LiftDimensions",
    "MergeLinear",
    "MoveAffine",
    "PairSignedValues",
    "QuantizeWeights",
    "RecognizeActivations",
    "RecognizeAffine",
    "RecognizeMixing",
    "RecognizePoolings",
    "RecognizeSums",
    "RecognizeWiring",
    "ReplaceActivation",
    "ReplaceMaxPool",
    "RewriteTransposed",
    "SeparateCalls",
    "SubstituteSpikes",
    "TakeFrames",
    "WeighPoolings",
    "front_end",
]
