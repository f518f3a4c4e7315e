// y = y * factor of its row (+ bias): what scale_rows.cu took off the inputs of a product.
//
// A thread takes a vector. Definitions: WIDTH; OUTPUT_TYPE; HAS_BIAS; BIAS_TYPE.
#include "row_vectors.cuh"

using OutputElement = Element<OUTPUT_TYPE>;
constexpr int THREADS = 256;

// vectors: of all rows; row_vectors: of one.
extern "C" __global__ void __launch_bounds__(THREADS)
scale_back(void* y, const float* __restrict__ factors, const void* __restrict__ bias, int vectors, int row_vectors) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / row_vectors, column = (index - row * row_vectors) * WIDTH;
    Vector added = {};
    if constexpr (HAS_BIAS) {
        added = load_parameter<BIAS_TYPE>(static_cast<const Element<BIAS_TYPE>::Stored*>(bias) + column);
    }
    wait_for_launches_before();
    const float factor = load_handed_on(factors + row);
    auto* const place = static_cast<OutputElement::Stored*>(y) + size_t(index) * WIDTH;
    Numbers<OUTPUT_TYPE> lying;
    lying.whole = load_fresh(reinterpret_cast<const Lying<OUTPUT_TYPE, WIDTH>::Whole*>(place));
    Vector values = lying.widened();
#pragma unroll
    for (int i = 0; i < WIDTH; i++) values.values[i] = values.values[i] * factor + added.values[i];
    store_vector<OUTPUT_TYPE>(place, values);
}
