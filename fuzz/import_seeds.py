"""Small valid files of other tools, for the importers of records."""

from __future__ import annotations

import json

TRACE_KEYS = [
    *(
        "traceEvents",
        "ph",
        "cat",
        "name",
        "ts",
        "dur",
        "tid",
        "pid",
        "args",
        "correlation",
        "device",
        "bytes",
    ),
    *("kernel", "gpu_memcpy", "cuda_runtime", "cpu_op", "user_annotation", "python_function", "X"),
    *(
        "nn.Module: LlamaMLP_0",
        "model.layers.0.mlp",
        "prefill",
        "unit",
        "modules",
        "calls",
        "tokens",
        "batch",
    ),
    *("gpu", "config", "dispatch", "linears", "phase", "layers_recorded", "deviceProperties", "pascaline"),
    *("baseTimeNanoseconds", "quantization", "hidden_size", "num_hidden_layers", "ms"),
]


def imported() -> list[bytes]:
    """Trees of module times, and traces with modules by class and by range."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    quantization = {"method": "gptq", "bits": 4, "group_size": 32, "sym": True}
    layer = "model.layers.0"
    modules = {"model": 9.0, layer: 8.0, f"{layer}.mlp.down_proj": 5.0, f"{layer}.mlp.act_fn": 1}
    tree = {
        "gpu": "RTX A6000, sm_86",
        "model": "tiny",
        "unit": "ms",
        "tokens": 16,
        "batch": 2,
        "phase": "prefill",
        "config": {**sizes, "architectures": ["LlamaForCausalLM"], "quantization": quantization},
        "layers_recorded": [0],
        "dispatch": {"linears": "half arithmetic"},
        "modules": modules,
        "calls": dict.fromkeys(modules, 2),
    }

    def event(category: str, name: str, start: int, length: int, **arguments: object) -> dict[str, object]:
        place = {"pid": 1, "tid": 7, "ts": start, "dur": length}
        return {"ph": "X", "cat": category, "name": name, **place, "args": arguments}

    gpu = [
        event("user_annotation", "prefill", 0, 90),
        event("user_annotation", f"{layer}.mlp", 5, 60),
        event("cuda_runtime", "cudaLaunchKernel", 10, 2, correlation=1),
        event("kernel", "hgemm", 100, 20, correlation=1, device=0),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 120, 9, correlation=2, bytes=64, device=0),
    ]
    stacks = [
        event("python_function", "nn.Module: LlamaForCausalLM_0", 0, 90),
        event("python_function", "nn.Module: LlamaModel_0", 1, 80),
        event("python_function", "nn.Module: LlamaDecoderLayer_0", 2, 70),
        event("cpu_op", "aten::linear", 5, 20),
        event("cpu_op", "aten::mm", 6, 10),
    ]
    card = {"id": 0, "name": "NVIDIA H100", "computeMajor": 9, "computeMinor": 0, "totalGlobalMem": 80 << 30}
    about = {"config": sizes, "tokens": 4, "model": "tiny"}
    traces: list[object] = [
        {"deviceProperties": [card], "baseTimeNanoseconds": 10**18, "pascaline": about, "traceEvents": gpu},
        {"schemaVersion": 1, "traceEvents": stacks},
        gpu,
    ]
    flat = {"unit": "s", "model": 2.0, "model.norm": 1.0}
    return [json.dumps(value).encode() for value in (tree, flat, *traces)]


def kernel_summaries() -> list[bytes]:
    old = 'Time(%),Total Time (ns),Instances,Average,Minimum,Maximum,Name\n9.0,"1,800",4,450.0,1,2,hgemm\n'
    columns = '"Time (%)","Total Time (us)","Instances","Avg (us)","Name"'
    copies = '"Time (%)","Total Time (us)","Count","Avg (us)","Operation"'
    new = (
        f'Processing\n\n{columns}\n"9.0","1.5","4","0.4","k<a, b>"\n\n{copies}\n1,2,3,4,[CUDA memcpy HtoD]\n'
    )
    return [old.encode(), new.encode()]


def exports() -> list[bytes]:
    """Statements that make an export of Nsight Systems."""
    times = "start INTEGER, end INTEGER, deviceId INTEGER, correlationId INTEGER"
    return [
        json.dumps(
            [
                "CREATE TABLE StringIds (id INTEGER, value TEXT)",
                "INSERT INTO StringIds VALUES (1, 'hgemm'), (2, 'model.layers.0.mlp')",
                "CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, computeMajor INTEGER, "
                "computeMinor INTEGER)",
                "INSERT INTO TARGET_INFO_GPU VALUES (0, 'NVIDIA TITAN X (Pascal)', 6, 1)",
                f"CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL ({times}, demangledName INTEGER)",
                "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (50, 90, 0, 1, 1), (91, 95, 0, 9, 1)",
                f"CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY ({times}, copyKind INTEGER, bytes INTEGER)",
                "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (60, 99, 0, 2, 1, 64)",
                "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, globalTid INTEGER, "
                "correlationId INTEGER)",
                "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (10, 7, 1), (12, 7, 2)",
                "CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, textId INTEGER, "
                "text TEXT, globalTid INTEGER)",
                "INSERT INTO NVTX_EVENTS VALUES (5, 20, 59, 2, NULL, 7), (0, 30, 59, NULL, 'prefill', 7)",
            ]
        ).encode()
    ]
