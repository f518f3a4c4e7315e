// A step's queries rotated, its keys rotated and stored, and its values stored: what rms_norm.cu (HAS_NORM: queries and
// keys are normalised first), rotary.cu and store_rows.cu make of them, to the bit.
//
// query (tokens, heads, head_dim), key and value (tokens, key_heads, head_dim), heads side by side, tokens at strides of
// their own. A warp takes a head. Definitions: those of cache_place.cuh; HEADS, that a block takes; HAS_NORM and
// GAIN_TYPE.
#include "cache_place.cuh"
#include "rotation.cuh"

using Gain = Element<GAIN_TYPE>;

// count: heads of all tokens, of queries, keys and values.
extern "C" __global__ void __launch_bounds__(32 * HEADS)
rotate_and_store(const float* __restrict__ query, const float* __restrict__ key, const float* __restrict__ value,
                 const void* __restrict__ query_gain, const void* __restrict__ key_gain,
                 const int64_t* __restrict__ positions, const float* __restrict__ cosine,
                 const float* __restrict__ sine, const int64_t* __restrict__ slots, float* __restrict__ y,
                 void* __restrict__ key_cache, void* __restrict__ value_cache, float* __restrict__ key_scales,
                 float* __restrict__ value_scales, int count, int heads, int key_heads, int head_dim, int half,
                 int query_stride, int key_stride, int value_stride, int page_size, int page_stride, int token_stride,
                 int head_stride, uint32_t epsilon_bits) {
    let_next_launch_begin();
    const int index = blockIdx.x * HEADS + threadIdx.x / 32;
    if (index >= count) return;
    const int token_heads = heads + 2 * key_heads;
    const int token = index / token_heads, place = index - token * token_heads;
    const bool is_query = place < heads, is_value = place >= heads + key_heads;
    const int head = is_query ? place : is_value ? place - heads - key_heads : place - heads;
    const float* const all = is_query ? query : is_value ? value : key;
    const int stride = is_query ? query_stride : is_value ? value_stride : key_stride;
    const float* const own = all + size_t(token) * stride + size_t(head) * head_dim;
    const auto* const gain = static_cast<const Gain::Stored*>(is_query ? query_gain : key_gain);
    wait_for_launches_before();
    const int64_t position = load_handed_on(positions + token), slot = load_handed_on(slots + token);
    Row row;
    row.fill(head_dim, [&](int column) { return load_activation(own + column); });
    if (!is_value) {
        float inverse = 0.0f;
        if constexpr (HAS_NORM) inverse = inverse_root_mean_square(row, head_dim, bits_to_float(epsilon_bits));
        const auto load = [&](int column) {
            const Vector vector = load_activation(own + column);
            if constexpr (HAS_NORM) return normalised(vector, inverse, load_parameter<GAIN_TYPE>(gain + column));
            return vector;
        };
        const float* const cosines = table_row(cosine, position, half);
        const float* const sines = table_row(sine, position, half);
        row.fill(head_dim, [&](int column) { return rotated(column, half, cosines, sines, load); });
    }
    if (is_query) {
        row.store(y + (size_t(token) * heads + head) * head_dim, head_dim);
    } else {
        store_in_cache(is_value ? value_cache : key_cache, is_value ? value_scales : key_scales,
                       {key_heads, page_size, page_stride, token_stride, head_stride}, slot, head, row, head_dim);
    }
}
