"""A missing or broken GPU tool means CPU and a line in the log, never a crash."""

from __future__ import annotations

import builtins
import logging
import sys
import types
from typing import Any

import pytest
import torch

from fxsnn.device import choose_device
from fxsnn.errors import OptionError


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four GPUs, in another order than that of nvidia-smi."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = [types.SimpleNamespace(uuid="third"), types.SimpleNamespace(uuid="second")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ([10, 30][index], 40))


def fake_gputil(monkeypatch: pytest.MonkeyPatch, available: Any) -> None:
    names = ["first", "second", "third", "fourth"]
    module = types.ModuleType("GPUtil")
    module.getAvailable = available  # type: ignore[attr-defined]
    module.getGPUs = lambda: [  # type: ignore[attr-defined]
        types.SimpleNamespace(id=index, uuid=f"GPU-{name}") for index, name in enumerate(names)
    ]
    monkeypatch.setitem(sys.modules, "GPUtil", module)


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, "fxsnn.device"):
        assert choose_device() == torch.device("cpu")
    assert "running on the CPU" in caplog.text


@pytest.mark.usefixtures("with_cuda")
class TestWithAGpu:
    def test_the_least_loaded_one_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}

        def available(**options: Any) -> list[int]:
            asked.update(options)
            return [3, 2, 1]

        fake_gputil(monkeypatch, available)
        assert choose_device() == torch.device("cuda", 0)  # nvidia-smi's third; PyTorch does not see the fourth
        assert asked["order"] == "memory"

    def test_only_others_free_means_most_free_memory_of_those_that_are_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_gputil(monkeypatch, lambda **_: [0])
        assert choose_device() == torch.device("cuda", 1)

    def test_none_free_means_cpu(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        fake_gputil(monkeypatch, lambda **_: [])
        assert choose_device() == torch.device("cpu")
        assert "no free GPU" in caplog.text

    def test_no_nvidia_smi_means_cpu(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def missing(**_: Any) -> list[int]:
            raise FileNotFoundError("nvidia-smi")

        fake_gputil(monkeypatch, missing)
        assert choose_device() == torch.device("cpu")
        assert "nvidia-smi" in caplog.text

    def test_without_gputil_it_is_the_one_with_the_most_free_memory(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ([10, 30, 20][index], 40))
        original = builtins.__import__

        def failing(name: str, *rest: Any) -> Any:
            if name == "GPUtil":
                raise ModuleNotFoundError("No module named 'distutils'")
            return original(name, *rest)

        monkeypatch.delitem(sys.modules, "GPUtil", raising=False)
        monkeypatch.setattr(builtins, "__import__", failing)
        with caplog.at_level(logging.INFO, "fxsnn.device"):
            assert choose_device() == torch.device("cuda", 1)
        assert "distutils" in caplog.text


def test_the_users_word_overrides() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_an_error(wanted: str) -> None:
    with pytest.raises(OptionError, match=f"device '{wanted}' cannot be used here"):
        choose_device(wanted)
