// C entry points of vLLM's Marlin: fp16 inputs, symmetric 4-bit weights (uint4b8) in groups of 128, no activation
// order, reduction in fp32 and no atomic additions, which are vLLM's defaults.
#include "marlin_gemm.cuh"
#include "marlin_repack.cuh"

extern "C" int peer_marlin_repack(const void* weight, void* packed, int size_k, int size_n, void* stream) {
    return guarded(stream, [&] {
        auto kernel = marlin::gptq_marlin_repack_kernel<marlin::repack_threads, 4, false>;
        int device = 0, blocks = 0, shared_bytes = 0;
        cudaGetDevice(&device);
        cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device);
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
        kernel<<<blocks, marlin::repack_threads, shared_bytes, at::cuda::getCurrentCUDAStream()>>>(
            static_cast<const uint32_t*>(weight), nullptr, static_cast<uint32_t*>(packed), size_k, size_n);
    });
}

// `workspace`: one zeroed int32 a multiprocessor; `partial_sums`: fp32, multiprocessors × min(64, rows up to a
// multiple of 16) × 256.
extern "C" int peer_marlin_gemm(const void* input, const void* weight, void* output, void* partial_sums,
                                const void* scales, void* workspace, int size_m, int size_n, int size_k,
                                void* stream) {
    return guarded(stream, [&] {
        int device = 0, multiprocessors = 0;
        cudaGetDevice(&device);
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        TORCH_CHECK(size_k % 128 == 0 && size_n % marlin::min_thread_n == 0);
        marlin::marlin_mm<half>(input, weight, output, partial_sums, nullptr, const_cast<void*>(scales), nullptr,
                                nullptr, nullptr, nullptr, nullptr, size_m, size_n, size_k, size_k, workspace,
                                vllm::kU4B8, false, false, true, false, size_k / 128, 128, device,
                                at::cuda::getCurrentCUDAStream(), -1, -1, multiprocessors, false, true, false);
    });
}
