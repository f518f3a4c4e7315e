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
t=tempfile.mkdtemp()
nv=find_nvrtc('sm_90')
for name,folder,plan,gs in (('present',FOLDER,d.plan_attention_decode,d.PRESENT),('second',d.HERE/'form2b',d.plan_second,d.SECOND),('bulk',FOLDER,d.plan_attention_decode,bulk),('stream',d.stream_folder(Path(t)),d.plan_attention_decode,bulk[:2])):
    c=Compiler(nv,'sm_90',folder)
    seen=set()
    for g in gs:
        p=plan(largest,chip,g)
        r=next(iter(read_cubin(c.compile(p.specialisation)).values()))
        total=(p.shared_bytes+r.shared_bytes)*g.blocks
        print(name,g,'regs',r.registers,'local',r.local_bytes,'shared',total,'FITS' if total<=233472 else 'TOO MUCH', p.grid, flush=True)
