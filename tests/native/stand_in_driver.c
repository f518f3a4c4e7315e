// A libcuda whose launches write down what they were given: tests compile it with NVIDIA's own cuda.h.
#include <cuda.h>
#include <string.h>

enum { MOST_ARGUMENTS = 16 };

struct Written {
    unsigned grid[3], block[3], shared_bytes;
    CUstream stream;
    unsigned attributes;
    int may_begin_early;
    CUfunction function;
    unsigned long long arguments[MOST_ARGUMENTS];  // the kernel has `stand_in_arguments` of them
    unsigned launches, allowed_shared_bytes;
};

struct Written stand_in_written;
unsigned stand_in_sizes[MOST_ARGUMENTS];
unsigned stand_in_arguments;
CUresult stand_in_answer;

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }

CUresult cuGetErrorName(CUresult code, const char** name) {
    *name = "CUDA_ERROR_STAND_IN";
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    *module = (CUmodule)0x1000;
    return stand_in_answer;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    *function = (CUfunction)0x7f1234567890;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
    if (which == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) *value = 1024;
    else if (which == CU_FUNC_ATTRIBUTE_NUM_REGS) *value = 96;
    else if (which == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES) *value = 40;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > 98304) return CUDA_ERROR_INVALID_VALUE;
    stand_in_written.allowed_shared_bytes = (unsigned)value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void** extra) {
    struct Written* to = &stand_in_written;
    unsigned grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
    unsigned block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
    memcpy(to->grid, grid, sizeof grid);
    memcpy(to->block, block, sizeof block);
    to->shared_bytes = config->sharedMemBytes;
    to->stream = config->hStream;
    to->attributes = config->numAttrs;
    to->may_begin_early = 0;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
            to->may_begin_early = config->attrs[i].value.programmaticStreamSerializationAllowed;
        }
    }
    to->function = function;
    for (unsigned i = 0; i < stand_in_arguments; i++) {
        to->arguments[i] = 0;
        memcpy(&to->arguments[i], arguments[i], stand_in_sizes[i]);
    }
    to->launches++;
    return stand_in_answer;
}
