// cache[slot / page_size, slot % page_size] = row, for each token's row of heads and its slot. A negative slot is no
// place: the row is left out.
//
// rows (tokens, heads, head_dim), heads and tokens at strides of their own. A warp takes a head. Definitions: those of
// cache_place.cuh; HEADS, that a block takes.
#include "cache_place.cuh"

// count: heads of all tokens.
extern "C" __global__ void __launch_bounds__(32 * HEADS)
store_rows(const float* __restrict__ rows, const int64_t* __restrict__ slots, void* __restrict__ cache,
           float* __restrict__ scales, int count, int heads, int head_dim, int row_stride, int row_head_stride,
           int page_size, int page_stride, int token_stride, int head_stride) {
    let_next_launch_begin();
    const int index = blockIdx.x * HEADS + threadIdx.x / 32;
    if (index >= count) return;
    const int token = index / heads, head = index - token * heads;
    const float* const own = rows + size_t(token) * row_stride + size_t(head) * row_head_stride;
    wait_for_launches_before();
    const int64_t slot = load_handed_on(slots + token);
    Row row;
    row.fill(head_dim, [&](int column) { return load_activation(own + column); });
    store_in_cache(cache, scales, {heads, page_size, page_stride, token_stride, head_stride}, slot, head, row, head_dim);
}
