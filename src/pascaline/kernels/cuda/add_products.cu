// y = products of the first bf16 numbers (+ products of the second) (+ bias): what is left to do after a library's
// product of rows that round_rows.cu has made. Without second ones the products are y itself.
//
// A thread takes a vector. Definitions: WIDTH; BRAIN_NUMBERS, 1 or 2; PRODUCT_TYPE, OUTPUT_TYPE; HAS_BIAS; BIAS_TYPE.
#include "row_vectors.cuh"

using ProductElement = Element<PRODUCT_TYPE>;
using OutputElement = Element<OUTPUT_TYPE>;
constexpr int THREADS = 256;

PASCALINE_INLINE Vector load_products(const ProductElement::Stored* place) {
    Numbers<PRODUCT_TYPE> lying;
    lying.whole = load_fresh(reinterpret_cast<const Lying<PRODUCT_TYPE, WIDTH>::Whole*>(place));
    return lying.widened();
}

// vectors: of all rows; row_vectors: of one.
extern "C" __global__ void __launch_bounds__(THREADS)
add_products(const void* products, const void* __restrict__ bias, void* y, int vectors, int row_vectors) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int column = index % row_vectors * WIDTH;
    Vector added = {};
    if constexpr (HAS_BIAS) {
        added = load_parameter<BIAS_TYPE>(static_cast<const Element<BIAS_TYPE>::Stored*>(bias) + column);
    }
    const auto* const place = static_cast<const ProductElement::Stored*>(products) + size_t(index) * WIDTH;
    wait_for_launches_before();
    Vector sums = load_products(place), others = {};
    if constexpr (BRAIN_NUMBERS == 2) others = load_products(place + size_t(vectors) * WIDTH);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        if constexpr (BRAIN_NUMBERS == 2) sums.values[i] += others.values[i];
        if constexpr (HAS_BIAS) sums.values[i] += added.values[i];
    }
    store_vector<OUTPUT_TYPE>(static_cast<OutputElement::Stored*>(y) + size_t(index) * WIDTH, sums);
}
