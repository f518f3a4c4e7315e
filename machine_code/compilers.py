"""NVRTCs of the CUDAs that matter, whatever is installed: each fetched once out of its wheel.

12.6 comes with torch 2.7.1, the last for Maxwell and Pascal; 13.0 makes code from sm_75 on.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from pascaline.checkpoint.wheel_member import WheelMember
from pascaline.core.env import cache_dir
from pascaline.core.errors import UnsupportedError
from pascaline.core.progress import ProgressCallback, ignore_progress
from pascaline.hardware.nvrtc import Nvrtc


@dataclass(frozen=True)
class PackagedNvrtc:
    """One build of it.

    Parameters
    ----------
    cuda : "12.6".
    library, builtins : what is compiled with, and what it opens beside itself.
    """

    cuda: str
    library: WheelMember
    builtins: WheelMember

    def fetch(self, report: ProgressCallback = ignore_progress) -> Nvrtc:
        """It, loaded; downloaded on the first call.

        Raises
        ------
        CheckpointError : it cannot be fetched.
        UnsupportedError : this machine is not x86-64 Linux, which the wheels are for.
        """
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise UnsupportedError(f"NVRTC {self.cuda} is fetched for x86-64 Linux only")
        folder = cache_dir() / "tools" / f"nvrtc-{self.cuda}"
        for each in (self.builtins, self.library):
            path = each.fetch(folder / each.member.rpartition("/")[2], report)
        return Nvrtc(path)


_WHEEL_12_6 = "nvidia_cuda_nvrtc_cu12-12.6.77-py3-none-manylinux2014_x86_64.whl"
_WHEEL_13_0 = "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl"

NVRTC_12_6 = PackagedNvrtc(
    "12.6",
    WheelMember(
        what="NVRTC 12.6",
        package="nvidia-cuda-nvrtc-cu12",
        wheel=_WHEEL_12_6,
        member="nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        nbytes=58_726_320,
        sha256="ced830bff406b5555298cc1eacc8670b6bb6b9378e6e5783fac53ddcf7cbbf5b",
    ),
    WheelMember(
        what="NVRTC 12.6's own headers",
        package="nvidia-cuda-nvrtc-cu12",
        wheel=_WHEEL_12_6,
        member="nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.6",
        nbytes=5_322_632,
        sha256="a1d5fce3e3ef04a7b5e6604c0bb17f40d39f9965a3f6d0b2b7a2bc308e189ed0",
    ),
)
NVRTC_13_0 = PackagedNvrtc(
    "13.0",
    WheelMember(
        what="NVRTC 13.0",
        package="nvidia-cuda-nvrtc",
        wheel=_WHEEL_13_0,
        member="nvidia/cu13/lib/libnvrtc.so.13",
        nbytes=109_338_064,
        sha256="a49e67e8e74590f1e98de55c39c6287efd3f59e3c3797464d7bbe0fe01349b11",
    ),
    WheelMember(
        what="NVRTC 13.0's own headers",
        package="nvidia-cuda-nvrtc",
        wheel=_WHEEL_13_0,
        member="nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        nbytes=4_380_616,
        sha256="91dcd944d01da9c0f08fff5d779db136a47f6d62bdb63bae900d2f481e92c3a2",
    ),
)
