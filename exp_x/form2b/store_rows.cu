// cache[slot / page_size, slot % page_size] = row, for each token's row of heads and its slot. A negative slot is no
// place: the row is left out.
//
// rows (tokens, heads, head_dim), heads and tokens at strides of their own. A thread takes a vector. Definitions: WIDTH;
// CACHE_TYPE.
#include "cache_place.cuh"

constexpr int THREADS = 256;

// vectors: of all rows; head_vectors: of a head.
extern "C" __global__ void __launch_bounds__(THREADS)
store_rows(const float* __restrict__ rows, const int64_t* __restrict__ slots, void* __restrict__ cache, int vectors,
           int heads, int head_vectors, int row_stride, int head_stride, int page_size, int cache_page_stride,
           int cache_token_stride, int cache_head_stride) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const int row = index / head_vectors, column = (index - row * head_vectors) * WIDTH;
    const int token = row / heads, head = row - token * heads;
    wait_for_launches_before();
    const int64_t slot = load_handed_on(slots + token);
    if (slot < 0) return;
    const CacheShape shape = {page_size, cache_page_stride, cache_token_stride, cache_head_stride};
    store_in_cache(static_cast<CacheElement::Stored*>(cache) + shape.place(slot, head) + column,
                   load_activation(rows + size_t(token) * row_stride + size_t(head) * head_stride + column));
}
