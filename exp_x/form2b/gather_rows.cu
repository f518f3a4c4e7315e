// y[r] = table[indices[r]], widened to fp32.
//
// A thread takes a vector. Definitions: WIDTH; TABLE_TYPE.
#include "row_vectors.cuh"

using TableElement = Element<TABLE_TYPE>;

constexpr int THREADS = 256;

// vectors: of y; row_vectors: of a row.
extern "C" __global__ void __launch_bounds__(THREADS)
gather_rows(const void* __restrict__ table, const int64_t* __restrict__ indices, float* __restrict__ y, int vectors,
            int row_vectors, int table_stride) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / row_vectors, column = (index - row * row_vectors) * WIDTH;
    wait_for_launches_before();
    const int64_t taken = load_handed_on(indices + row);
    const auto* const place = static_cast<const TableElement::Stored*>(table) + size_t(taken) * table_stride + column;
    using Whole = Lying<TABLE_TYPE, WIDTH>::Whole;
    Numbers<TABLE_TYPE> lying;
    lying.whole = load_handed_on(reinterpret_cast<const Whole*>(place));
    store_vector<FP32>(y + size_t(index) * WIDTH, lying.widened());
}
