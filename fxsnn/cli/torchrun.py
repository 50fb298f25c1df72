"""Commands that several processes run together: `torchrun --nproc-per-node 2 -m fxsnn convert ...`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from fxsnn.processes import across_processes


def is_first_of_torchrun() -> bool:
    """Whether this process prints: it is the first that torchrun has started, or it was started by itself."""
    return not _is_launched() or os.environ["RANK"] == "0"


def _is_launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def torchrun() -> Iterator[None]:
    """Work together with the other processes that torchrun has started; alone if there are none."""
    if not _is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    if dist.is_initialized():  # by the script that calls the command
        with across_processes():
            yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group()  # gloo on CPUs, NCCL on GPUs
    try:
        with across_processes():
            yield
        dist.barrier()  # nobody leaves while another one still reads what it sent
    finally:
        dist.destroy_process_group()
