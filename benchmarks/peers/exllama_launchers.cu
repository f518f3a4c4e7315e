// C entry points of vLLM's exllama kernels. Arguments are what `gptq_gemm` hands on, 4 bits, no permutation.
#include "exllama_kernels.cuh"

extern "C" const char* peer_error() { return last_error.c_str(); }

extern "C" int peer_exllama_shuffle(void* weight, int size_k, int size_n, void* stream) {
    return guarded(stream, [&] {
        vllm::gptq::shuffle_exllama_weight(static_cast<uint32_t*>(weight), nullptr, size_k, size_n, 4);
    });
}

// `hgemm` is the address of cublasHgemm and `handle` torch's, whose stream is set: used from 51 rows on.
extern "C" int peer_exllama_gemm(void* hgemm, void* handle, const void* input, const void* weight, const void* zeros,
                                 const void* scales, void* output, void* dequantised, int size_m, int size_n,
                                 int size_k, int groups, void* stream) {
    return guarded(stream, [&] {
        cublas_hgemm = reinterpret_cast<cublas_hgemm_function>(hgemm);
        vllm::gptq::gemm_half_q_half_cuda(handle, static_cast<const half*>(input),
                                          static_cast<const uint32_t*>(weight), static_cast<const uint32_t*>(zeros),
                                          static_cast<const half*>(scales), nullptr, static_cast<half*>(output),
                                          static_cast<half*>(dequantised), size_m, size_n, size_k, groups, true, 4);
    });
}
