"""The table of cards: complete, consistent, in agreement with what makers list; and finding cards in it."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest
from listed_rates import LISTED, MEMORY_BUSES

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.architectures import Arithmetic, architectures
from pascaline.hardware.gpu_names import GpuName
from pascaline.hardware.gpus import Gpu, find_gpu, gpus, gpus_named

CLOCK_ROUNDING = 0.005
"""Makers compute with clocks in steps of 12.5 to 15 MHz, and print them rounded: half a step of 1.4 GHz."""


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_every_row_is_complete_and_in_range(gpu: Gpu) -> None:
    assert gpu.name == gpu.name.strip()
    assert gpu.name.isascii()
    assert gpu.aliases
    assert all(alias == alias.strip() for alias in gpu.aliases)
    assert gpu.compute_capability in architectures()
    assert isinstance(gpu.sms, int)
    assert 1 <= gpu.sms <= 200
    assert isinstance(gpu.boost_mhz, int)
    assert 700 <= gpu.boost_mhz <= gpu.max_mhz <= 3500
    assert gpu.boost_mhz >= (gpu.tensor_boost_mhz or 0)
    assert 1 <= gpu.memory_gib <= 300
    assert 16 <= gpu.bandwidth_gb_per_s <= 8200
    assert 0.25 <= gpu.l2_mib <= 130
    assert 10 <= gpu.power_w <= 1500
    assert "https://" in gpu.source
    assert not gpu.is_estimated


def test_there_are_enough_of_them_and_all_generations() -> None:
    assert len(gpus()) >= 200
    assert len({gpu.architecture.name for gpu in gpus()}) >= 8
    order = list(architectures())
    positions = [order.index(gpu.compute_capability) for gpu in gpus()]
    assert positions == sorted(positions), "oldest first"


def test_the_file_has_no_limit_that_no_card_uses() -> None:
    data = tomllib.loads((files("pascaline.hardware") / "gpus.toml").read_text(encoding="utf-8"))
    assert set(data["limits"]) == {row["limits"] for row in data["gpu"] if "limits" in row}
    estimated = {row["compute_capability"] for row in data["gpu"] if "max_mhz" not in row}
    assert estimated <= set(data["highest_max_mhz"])
    for capability, highest in data["highest_max_mhz"].items():
        known = [
            row["max_mhz"]
            for row in data["gpu"]
            if row["compute_capability"] == capability and "max_mhz" in row
        ]
        assert highest >= max(known, default=0)


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_a_card_is_found_by_its_name_and_told_from_its_namesakes(gpu: Gpu) -> None:
    assert find_gpu(gpu.name) is gpu
    assert find_gpu(gpu.name.lower().replace(" ", "-")) is gpu
    assert find_gpu(f" nvidia  {gpu.name.upper()}") is gpu
    for alias in gpu.aliases:
        found = find_gpu(alias, memory_gib=gpu.memory_gib * 0.97, sms=gpu.sms)
        # Laptop and desktop parts, or boards of one chip, that no driver tells apart:
        twins = (found.sms, found.memory_gib, found.compute_capability)
        assert twins == (gpu.sms, gpu.memory_gib, gpu.compute_capability)


def test_names_are_unique() -> None:
    names = [GpuName.of(gpu.name) for gpu in gpus()]
    assert len({name.exact for name in names}) == len(gpus())
    for gpu in gpus():
        assert len(set(gpu.aliases)) == len(gpu.aliases)


@pytest.mark.parametrize(("name", "arithmetic", "listed", "source"), LISTED)
def test_derived_rates_are_what_makers_list(
    name: str, arithmetic: Arithmetic, listed: str, source: str
) -> None:
    decimals = len(listed.partition(".")[2])
    printed = 0.5 * 10.0**-decimals if decimals or len(listed) < 4 else 5
    derived = find_gpu(name).listed_tflops(arithmetic)
    assert derived == pytest.approx(float(listed), abs=printed + CLOCK_ROUNDING * float(listed)), source


def test_cross_checks_cover_at_least_thirty_cards() -> None:
    assert len({name for name, *_ in LISTED}) >= 30
    assert len({name for name, *_ in MEMORY_BUSES}) >= 30


@pytest.mark.parametrize(("name", "bits", "gbit_per_s"), MEMORY_BUSES)
def test_bandwidth_is_bus_width_times_data_rate(name: str, bits: int, gbit_per_s: float) -> None:
    assert find_gpu(name).bandwidth_gb_per_s == pytest.approx(bits / 8 * gbit_per_s, rel=2e-3)


def test_rates_of_a_card_by_hand() -> None:
    titan = find_gpu("NVIDIA TITAN X (Pascal)")
    # 28 SMs × 128 lanes × 2 operations × 1.911 GHz; half at 1/64, dp4a at 4 times, fp64 at 1/32.
    assert titan.operations_per_s("fp32", titan.max_mhz) == 28 * 128 * 2 * 1911e6
    assert titan.operations_per_s("fp16", 1911) == 28 * 128 * 2 * 1911e6 / 64
    assert titan.operations_per_s("int8", 1911) == 28 * 128 * 2 * 1911e6 * 4
    assert titan.operations_per_s("fp64", 1911) == 28 * 128 * 2 * 1911e6 / 32
    assert titan.operations_per_s("tensor_fp16", 1911) == 0
    assert titan.listed_tflops("tensor_fp16") is None
    assert find_gpu("GTX 980").listed_tflops("fp16") is None
    assert find_gpu("1080 ti").listed_tflops("fp16") == pytest.approx(0.177, abs=0.001)


def test_limits_of_product_lines() -> None:
    assert find_gpu("GTX 1660 Ti").listed_tflops("tensor_fp16") is None
    assert find_gpu("GTX 1660 Ti").listed_tflops("fp16") == pytest.approx(10.9, abs=0.05)
    geforce, workstation = find_gpu("RTX 2080 Ti"), find_gpu("TITAN RTX")
    assert geforce.operations_per_clock_per_sm("tensor_fp16") == 512
    assert workstation.operations_per_clock_per_sm("tensor_fp16") == 1024


def test_roofline_is_at_the_highest_clock_unless_one_was_measured() -> None:
    card = find_gpu("TITAN X (Pascal)")
    roof = card.roofline()
    assert roof.operations_per_s["fp32"] == card.operations_per_s("fp32", 1911)
    assert "tensor_fp16" not in roof.operations_per_s
    assert card.roofline(1000).operations_per_s["fp32"] == 28 * 256 * 1e9
    assert roof.bytes_per_s == 480.4e9
    assert roof.memory_bytes == 12 << 30
    assert roof.compute_capability == "6.1"
    assert "tensor_fp16" not in find_gpu("GTX 1650").roofline().operations_per_s


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("1080 ti", "GeForce GTX 1080 Ti"),
        ("GTX1080TI", "GeForce GTX 1080 Ti"),
        ("NVIDIA GeForce GTX 1080 Ti", "GeForce GTX 1080 Ti"),
        ("geforce 1080 ti", "GeForce GTX 1080 Ti"),
        ("p40", "Tesla P40"),
        ("NVIDIA Tesla P40", "Tesla P40"),
        ("nvidia p40", "Tesla P40"),
        ("titan x (pascal)", "TITAN X (Pascal)"),
        ("NVIDIA TITAN X (Pascal)", "TITAN X (Pascal)"),
        ("TITAN X", "TITAN X (Pascal)"),
        ("GeForce GTX TITAN X", "GeForce GTX TITAN X"),
        ("titan x maxwell", "GeForce GTX TITAN X"),
        ("titanxp", "TITAN Xp"),
        ("Titan RTX", "TITAN RTX"),
        ("rtx 3080", "GeForce RTX 3080 10 GB"),
        ("RTX 3080 12GB", "GeForce RTX 3080 12 GB"),
        ("3080 12 GiB", "GeForce RTX 3080 12 GB"),
        ("rtx 3080 laptop", "GeForce RTX 3080 Laptop 8 GB"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "GeForce RTX 3080 Laptop 8 GB"),
        ("RTX 3080 mobile 16gb", "GeForce RTX 3080 Laptop 16 GB"),
        ("1060 3gb", "GeForce GTX 1060 3 GB"),
        ("GTX 1070 with Max-Q Design", "GeForce GTX 1070 Max-Q"),
        ("2080 super", "GeForce RTX 2080 SUPER"),
        ("RTX 4080S", "GeForce RTX 4080 SUPER"),
        ("1660s", "GeForce GTX 1660 SUPER"),
        ("L40S", "L40S"),
        ("A100", "A100 SXM4 80 GB"),
        ("A100 80 GB", "A100 SXM4 80 GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80 GB"),
        ("tesla a100-sxm4-40gb", "A100 SXM4 40 GB"),
        ("Tesla V100-SXM2-32GB", "Tesla V100 SXM2 32 GB"),
        ("v100 pcie", "Tesla V100 PCIe 16 GB"),
        ("P100", "Tesla P100 PCIe 16 GB"),
        ("Tesla P100-SXM2-16GB", "Tesla P100 SXM2"),
        ("t4", "Tesla T4"),
        ("NVIDIA A10G", "A10G"),
        ("h100", "H100 SXM5"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GH200 480GB", "GH200 96 GB"),
        ("quadro rtx 6000", "Quadro RTX 6000"),
        ("RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("rtx a6000", "RTX A6000"),
        ("a6000", "RTX A6000"),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell Workstation Edition"),
        ("RTX PRO 6000 Blackwell Max-Q", "RTX PRO 6000 Blackwell Max-Q Workstation Edition"),
        ("dgx spark", "GB10"),
        ("m40 24gb", "Tesla M40 24 GB"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert find_gpu(spelling).name == name


@pytest.mark.parametrize(
    ("name", "memory_gib", "sms", "expected"),
    [
        ("NVIDIA GeForce RTX 3080", 11.76, 70, "GeForce RTX 3080 12 GB"),
        ("NVIDIA GeForce RTX 3080", 9.77, 68, "GeForce RTX 3080 10 GB"),
        ("NVIDIA GeForce RTX 3080", 11.76, None, "GeForce RTX 3080 12 GB"),
        ("NVIDIA GeForce RTX 3060", 7.8, None, "GeForce RTX 3060 8 GB"),
        ("NVIDIA GeForce GTX 1070", 7.93, 16, "GeForce GTX 1070 Laptop"),
        ("GeForce GTX 1060", 5.93, 10, "GeForce GTX 1060 6 GB"),
        ("TITAN X", 11.9, 24, "GeForce GTX TITAN X"),
        ("TITAN X", 11.9, 28, "TITAN X (Pascal)"),
        ("NVIDIA A100", 39.4, 108, "A100 SXM4 40 GB"),
        ("NVIDIA GH200 480GB", 95.6, 132, "GH200 96 GB"),
        ("NVIDIA GeForce RTX 2060", 11.76, None, "GeForce RTX 2060 12 GB"),
    ],
)
def test_memory_and_sms_tell_namesakes_apart(
    name: str, memory_gib: float, sms: int | None, expected: str
) -> None:
    assert find_gpu(name, memory_gib=memory_gib, sms=sms).name == expected


def test_all_namesakes_are_listed_the_best_known_first() -> None:
    assert [gpu.name for gpu in gpus_named("rtx 3080")] == [
        "GeForce RTX 3080 10 GB",
        "GeForce RTX 3080 12 GB",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "K80",
        "GeForce",
        "RTX",
        "titan",
        "\x1b[31m",
        "💥" * 1000,
        "9" * 100_000,
        "a" * 1_000_000,
        "(" * 99,
    ],
)
def test_unknown_names_are_refused_in_few_words(name: str) -> None:
    with pytest.raises(UnknownGpuError) as raised:
        find_gpu(name)
    message = str(raised.value)
    assert len(message) < 400
    assert "\x1b" not in message


def test_the_nearest_names_are_offered() -> None:
    with pytest.raises(UnknownGpuError, match="GeForce GTX 1080 Ti"):
        find_gpu("GTX 1080 Tii")
    with pytest.raises(UnknownGpuError, match="10 GB or 12 GB"):
        find_gpu("RTX 3080 24GB")
    with pytest.raises(UnknownGpuError, match=r"such as GeForce RTX 3050 6 GB, GeForce RTX 3050 Ti Laptop"):
        find_gpu("RTX 3050 Ti")
    with pytest.raises(UnknownGpuError, match=r"\(expected one with 6 GB or 3 GB\)"):
        find_gpu("GTX 1060 5GB")
