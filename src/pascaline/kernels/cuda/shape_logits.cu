// Logits after penalties and biases, for rows that have any: the others are taken as they are.
//
// A block takes a chunk of a row.
#include "platform_rounding.cuh"

constexpr int THREADS = 256, CHUNK = 4096;

// A row to shape, and its tokens among all that are changed.
struct alignas(16) ShapedRow {
    int32_t row;
    int32_t first;
    int32_t count;
    float repetition;  // divides positive logits of tokens seen, multiplies others
};

struct alignas(16) Change {
    int32_t id;
    int32_t is_seen;
    float subtracted;
    float added;
};

extern "C" __global__ void __launch_bounds__(THREADS)
shape_logits(const float* __restrict__ logits, const ShapedRow* __restrict__ rows, const Change* __restrict__ changes,
             float* __restrict__ shaped, int vocabulary, int stride) {
    let_next_launch_begin();
    // The host has copied rows and changes to the card: no launch before writes them.
    const uint4 words = load_once(reinterpret_cast<const uint4*>(rows + blockIdx.y));
    wait_for_launches_before();
    const int first = int(words.y), count = int(words.z);
    const float repetition = bits_to_float(words.w);
    const float* const row = logits + size_t(words.x) * stride;
    float* const shaped_row = shaped + size_t(blockIdx.y) * vocabulary;
    const int begin = blockIdx.x * CHUNK;
    const int end = begin + CHUNK < vocabulary ? begin + CHUNK : vocabulary;
    for (int id = begin + threadIdx.x; id < end; id += THREADS) shaped_row[id] = load_fresh(row + id);
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const uint4 change = load_once(reinterpret_cast<const uint4*>(changes + first + i));
        const int id = int(change.x);
        if (id < begin || id >= end) continue;
        float value = load_fresh(row + id);
        if (change.y) value = value > 0.0f ? value / repetition : multiply_rounded(value, repetition);
        shaped_row[id] = value - bits_to_float(change.z) + bits_to_float(change.w);
    }
}
