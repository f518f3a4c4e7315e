// What vLLM's kernels ask of torch, without torch: checks that throw, the stream to launch in, and a cuBLAS whose
// one function the caller brings. Every header of torch that they include becomes an #include of this file.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#define TORCH_CHECK(condition, ...)                                  \
    do {                                                             \
        if (!(condition)) throw std::runtime_error(#condition);      \
    } while (0)

namespace at::cuda {
inline cudaStream_t current_stream = nullptr;
inline cudaStream_t getCurrentCUDAStream() { return current_stream; }
}  // namespace at::cuda

using cublasHandle_t = void*;
enum cublasOperation_t { CUBLAS_OP_N = 0 };
using cublas_hgemm_function = int (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const half*,
                                      const half*, int, const half*, int, const half*, half*, int);
inline cublas_hgemm_function cublas_hgemm = nullptr;

inline void cublasHgemm(cublasHandle_t handle, cublasOperation_t operation_a, cublasOperation_t operation_b, int m,
                        int n, int k, const half* alpha, const half* a, int lda, const half* b, int ldb,
                        const half* beta, half* c, int ldc) {
    TORCH_CHECK(cublas_hgemm != nullptr);
    TORCH_CHECK(cublas_hgemm(handle, operation_a, operation_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) == 0);
}

// What went wrong in the last call, for `peer_error`.
inline std::string last_error;

template <typename Body>
int guarded(void* stream, Body body) {
    at::cuda::current_stream = static_cast<cudaStream_t>(stream);
    try {
        body();
    } catch (const std::exception& error) {
        last_error = error.what();
        return 1;
    }
    cudaError_t code = cudaGetLastError();
    if (code == cudaSuccess) return 0;
    last_error = cudaGetErrorString(code);
    return 2;
}
