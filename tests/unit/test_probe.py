"""What is installed, asked through the real bindings: here, and of drivers that are built for the test.

The stubs are shared libraries with the drivers' names, so that everything of ours and of NVIDIA's bindings
runs as it does on a machine with a card; a process of its own loads each.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.estimate import estimated_gpu, identify
from pascaline.hardware.gpus import find_gpu
from pascaline.hardware.probe import InstalledGpu, installed_gpus

STUBS = Path(__file__).parents[1] / "fixtures" / "hardware"
REPORT = """
import dataclasses, json
from pascaline.hardware.installed_cards import cards_here
from pascaline.hardware.probe import installed_gpus
here = cards_here()
known = [
    [card.name, card.compute_capability, card.sms, card.bandwidth_gb_per_s, card.is_estimated, card.source]
    for card in here.gpus
]
print(json.dumps({"installed": dataclasses.asdict(installed_gpus()), "cards": known, "reason": here.reason}))
"""


def build(folder: Path, library: str, source: str, **macros: object) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    command = [compiler, "-shared", "-fPIC", *defines, "-o", str(folder / library), str(STUBS / source)]
    subprocess.run(command, check=True)


def asked(folder: Path) -> Any:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def without_nvml(folder: Path) -> None:
    """Also where the machine has one."""
    (folder / "libnvidia-ml.so.1").write_bytes(b"no library")


def cuda_macros(init: int = 0, name: str = "TITAN X (Pascal)", capability: int = 61) -> dict[str, object]:
    return {"INIT_CODE": init, "DEVICE_NAME": f'"{name}"', "CAPABILITY": capability}


def test_this_machine_answers_or_says_why_not() -> None:
    installed = installed_gpus()
    assert installed.gpus or installed.reason


def test_a_machine_without_a_driver_has_a_reason(tmp_path: Path) -> None:
    without_nvml(tmp_path)
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    answer = asked(tmp_path)
    assert answer["installed"]["gpus"] == []
    assert "NVML" in answer["installed"]["reason"]
    assert "libcuda.so.1" in answer["installed"]["reason"]


def test_an_old_driver_tells_what_it_can(tmp_path: Path) -> None:
    build(tmp_path, "libnvidia-ml.so.1", "stub_nvml.c")
    build(tmp_path, "libcuda.so.1", "stub_cuda.c", **cuda_macros())
    answer = asked(tmp_path)
    installed = answer["installed"]
    assert (installed["driver"], installed["cuda"], installed["reason"]) == ("470.256.02", "11.4", None)
    [gpu] = installed["gpus"]
    assert gpu["name"] == "TITAN X (Pascal)"
    assert gpu["compute_capability"] == "6.1"
    assert gpu["sms"] == 28, "from the CUDA driver: this NVML cannot count cores"
    assert gpu["pci_bus_id"] == "00000000:02:00.0"
    assert (gpu["memory_bytes"], gpu["free_memory_bytes"]) == (12788105216, 12788105216 - (5 << 30))
    assert (gpu["max_sm_mhz"], gpu["max_memory_mhz"], gpu["sm_mhz"], gpu["memory_mhz"]) == (
        1911,
        5005,
        139,
        405,
    )
    assert (gpu["power_w"], gpu["power_limit_w"], gpu["performance_state"]) == (16.25, 250.0, 8)
    assert gpu["throttle_reasons"] == ["idle", "software thermal slowdown"]
    assert (gpu["persistence_mode"], gpu["ecc"], gpu["temperature_c"], gpu["uuid"]) == (
        False,
        None,
        None,
        None,
    )
    assert gpu["pcie"] == {"generation": 1, "max_generation": 3, "width": 8, "max_width": 16}
    assert gpu["processes"] == [
        {"pid": 4242, "name": "/usr/bin/python3", "used_bytes": 3 << 30},
        {"pid": 4243, "name": None, "used_bytes": None},
    ]
    assert [card[:3] for card in answer["cards"]] == [["TITAN X (Pascal)", "6.1", 28]]


def test_without_nvml_the_cuda_driver_answers(tmp_path: Path) -> None:
    without_nvml(tmp_path)
    build(tmp_path, "libcuda.so.1", "stub_cuda.c", **cuda_macros())
    answer = asked(tmp_path)
    [gpu] = answer["installed"]["gpus"]
    assert (gpu["sms"], gpu["l2_bytes"], gpu["memory_bus_bits"], gpu["max_sm_mhz"]) == (
        28,
        3 << 20,
        384,
        1911,
    )
    assert "NVML" in answer["installed"]["reason"]
    assert answer["cards"][0][0] == "TITAN X (Pascal)"


def test_a_card_newer_than_the_table_is_estimated(tmp_path: Path) -> None:
    without_nvml(tmp_path)
    build(tmp_path, "libcuda.so.1", "stub_cuda.c", **cuda_macros(name="Quartz 9000", capability=125))
    [[name, capability, sms, bandwidth, is_estimated, source]] = asked(tmp_path)["cards"]
    assert (name, capability, sms, is_estimated) == ("Quartz 9000", "12.5", 28, True)
    assert bandwidth == pytest.approx(2 * 5005e6 * 384 / 8 / 1e9, abs=0.1)
    assert "12.1" in source


def test_a_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    without_nvml(tmp_path)
    build(tmp_path, "libcuda.so.1", "stub_cuda.c", **cuda_macros(init=999))
    answer = asked(tmp_path)
    assert answer["installed"]["gpus"] == []
    assert "CUDA_ERROR_UNKNOWN" in answer["installed"]["reason"]


def unknown_card(**changes: Any) -> InstalledGpu:
    attributes: dict[str, Any] = {
        "compute_capability": "8.6",
        "sms": 10,
        "memory_bus_bits": 128,
        "memory_bytes": 8 << 30,
        "max_sm_mhz": 1500,
        "max_memory_mhz": 7001,
        "l2_bytes": 2 << 20,
        "power_limit_w": 75.0,
    }
    return InstalledGpu(index=0, name="NVIDIA Prototype", **{**attributes, **changes})


def test_an_estimate_follows_from_attributes() -> None:
    card = identify(unknown_card())
    assert card.is_estimated
    assert card.listed_tflops("fp32") == pytest.approx(10 * 256 * 1.5e9 / 1e12)
    assert card.bandwidth_gb_per_s == pytest.approx(224, abs=0.1)
    assert (card.memory_gib, card.l2_mib, card.power_w) == (8, 2, 75)
    assert card.source == "estimated from what the driver tells"


@pytest.mark.parametrize(
    ("capability", "like"),
    [("6.9", "6.2"), ("8.8", "8.7"), ("11.0", "10.3"), ("13.0", "12.1"), ("99.9", "12.1")],
)
def test_an_unknown_capability_is_like_the_nearest_older_one(capability: str, like: str) -> None:
    card = estimated_gpu(unknown_card(compute_capability=capability))
    assert card.compute_capability == capability
    assert like in card.source


@pytest.mark.parametrize("missing", ["sms", "compute_capability", "memory_bus_bits", "max_memory_mhz"])
def test_what_the_driver_does_not_tell_is_named(missing: str) -> None:
    with pytest.raises(UnknownGpuError, match="does not tell"):
        identify(unknown_card(**{missing: None}))


def test_a_chip_older_than_maxwell_is_refused() -> None:
    with pytest.raises(UnknownGpuError, match=r"3\.7"):
        identify(unknown_card(compute_capability="3.7"))


def test_an_altered_card_of_the_table_keeps_what_its_driver_says() -> None:
    modified = identify(
        InstalledGpu(index=0, name="NVIDIA GeForce RTX 2080 Ti", sms=68, memory_bytes=22 << 30)
    )
    assert (modified.memory_gib, modified.is_estimated) == (22, True)
    part = identify(InstalledGpu(index=0, name="NVIDIA A100-SXM4-40GB", sms=42, memory_bytes=20 << 30))
    assert (part.sms, part.memory_gib) == (42, 20)
    whole = identify(InstalledGpu(index=0, name="NVIDIA A100-SXM4-40GB", sms=108, memory_bytes=42297786368))
    assert whole is find_gpu("A100 SXM4 40 GB")


def test_a_builders_board_has_its_own_highest_clock() -> None:
    card = identify(InstalledGpu(index=0, name="GeForce GTX 1080 Ti", sms=28, max_sm_mhz=1999))
    assert (card.max_mhz, card.boost_mhz, card.is_estimated) == (1999, 1582, False)
