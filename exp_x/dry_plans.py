"""Without a card: all of the sweep's kernels compile, and their plans fit."""
import sys, tempfile
from pathlib import Path
sys.path.insert(0,'machine_code'); sys.path.insert(0,'benchmarks'); sys.path.insert(0,'exp_x')
import decode_sweep as d
from cubin import read_cubin
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler, FOLDER
from pascaline.kernels.cuda.specialisation import ChipLimits
chip=ChipLimits((9,0),132,232448)
largest=d.call_of(64,32768)
bulk=[g for g in d.bulk_geometries(False) if d.fits(largest,chip,g)]
print(len(bulk),'of',len(d.bulk_geometries(False)), sum(len(d.with_waves(g,chip)) for g in bulk))
print('out:',[g for g in d.bulk_geometries(False) if g not in bulk])
