"""Choosing where to run: the least-loaded GPU, or the CPU. Nothing here fails because a GPU is missing."""

from __future__ import annotations

import logging
import os

import torch

from fxsnn.errors import OptionError
from fxsnn.options import shown
from fxsnn.processes import share

_log = logging.getLogger(__name__)


def choose_device(wanted: str | None = None) -> torch.device:
    """The device to run on.

    Args:
        wanted: a PyTorch device such as "cpu" or "cuda:1", taken as it is; `None` lets GPUtil pick the least-loaded
            GPU (where it cannot be imported, the one with the most free memory), and means CPU where there is none. Of
            several processes that work together each takes one of its own.

    Raises:
        OptionError: `wanted` is no device, or one that this machine does not have.
    """
    if wanted is not None:
        return _existing(wanted)
    if torch.cuda.is_available() and share()[1] > 1:  # torchrun says which of this machine's processes this one is
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if not torch.cuda.is_available():
        _log.info("no GPU is available to PyTorch: running on the CPU")
        return torch.device("cpu")
    index = _least_loaded()
    return torch.device("cpu") if index is None else torch.device("cuda", index)


def _existing(wanted: str) -> torch.device:
    try:
        device = torch.device(wanted)
        if device.type == "meta":
            raise RuntimeError("nothing is computed there")
        torch.empty(0, device=device)
    except Exception as error:  # PyTorch asserts that it was built with CUDA, imports what there is no module of, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OptionError(f"device {shown(wanted)} cannot be used here: {reason}") from error
    return device


def _least_loaded() -> int | None:
    try:
        import GPUtil
    except Exception as error:  # missing or broken; GPUtil 1.4 needs distutils, which is gone since Python 3.12
        _log.info("GPUtil cannot be imported (%r): taking the GPU with the most free memory", error)
        return _most_free_memory()
    try:  # it runs nvidia-smi, which may be missing or broken
        free = GPUtil.getAvailable(order="memory", limit=1024, maxLoad=1.0, maxMemory=1.0)
        names = {gpu.id: gpu.uuid for gpu in GPUtil.getGPUs()}
    except Exception as error:
        _log.warning("GPUtil cannot say which GPU is free (%r): running on the CPU; --device overrides", error)
        return None
    if not free:
        _log.warning("GPUtil found no free GPU: running on the CPU; --device overrides")
        return None
    # nvidia-smi knows every GPU, in an order of its own; PyTorch those of CUDA_VISIBLE_DEVICES, in that of CUDA.
    visible = {
        f"GPU-{torch.cuda.get_device_properties(index).uuid}": index for index in range(torch.cuda.device_count())
    }
    places = [visible[names[index]] for index in free if names.get(index) in visible]
    return places[0] if places else _most_free_memory()


def _most_free_memory() -> int:
    return max(range(torch.cuda.device_count()), key=lambda index: torch.cuda.mem_get_info(index)[0])
