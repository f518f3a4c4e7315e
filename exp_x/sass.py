"""Registers, spills and instruction mix of geometries on sm_90."""
import sys
sys.path.insert(0,'machine_code')
from collections import Counter
import torch
from disassembler import disassemble
from loops import find_loops
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.attention_bulk_decode import BulkDecodeGeometry as G
from pascaline.kernels.cuda.attention_decode import AttentionDecodeGeometry as D, plan_attention_decode
from pascaline.kernels.cuda.representatives import attention_of
from pascaline.kernels.cuda.specialisation import ChipLimits
chip=ChipLimits((9,0),132,227<<10)
comp=Compiler(find_nvrtc('sm_90'),'sm_90')
print(comp.nvrtc.identity)
call=attention_of(64,64,torch.float16)
for g in (G(8,2,1,1,1),G(8,2,1,2,4),G(8,2,4,2,4),G(4,2,1,2,4,blocks=2),G(4,1,4,2,4,blocks=3),G(12,1,4,2,4)):
    plan=plan_attention_decode(call,chip,g)
    made=comp.compiled(plan.specialisation)
    (name,code),=disassemble(made.cubin).items()
    names=Counter(i.name for i in code.instructions)
    print(g); print('  regs',code.resources.registers,'local',code.resources.local_bytes,'shared',code.resources.shared_bytes,'instructions',len(code.instructions), getattr(made,'log','')[:300])
    loop=min((l for l in find_loops(code) if l.count('HMMA')>=32),key=lambda l:len(l.instructions))
    print('   loop',len(loop.instructions),dict(loop.names.most_common(24)))
    print('  ',{k:v for k,v in names.items() if k in('UBLKCP','SYNCS','HMMA','LDS','LDSM','PRMT','LDGSTS','STL','LDL')})
    if g==G(8,2,4,2,4):
        open('/tmp/sass.txt','w').write('\n'.join(f"{i.guard or ''} {i.opcode} {i.operands}" for i in loop.instructions))
