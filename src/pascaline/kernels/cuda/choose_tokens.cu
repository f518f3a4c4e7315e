// The next token of each line of logits, but for those with filters: the most likely one, or one drawn by inversion of
// the distribution's sums in the order of ids. Of lines with filters, what filter_tokens.cu begins with.
//
// A block looks at a chunk of a line; the last of a line brings together what they found. Chunks are of the same size
// everywhere and weights are integers: what is chosen depends on nothing but the line.
#include "arrivals.cuh"
#include "sampling_line.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int ITEMS = 16, CHUNK = ITEMS * THREADS;  // a thread has every 256th logit of a chunk

struct Chunk {
    uint64_t first;  // the place of the most likely token; an infinite logit's if there is a NaN
    uint64_t mass;   // of all weights, relative to that token's
    float least;     // of the logits that are finite
    float unused;
};

struct Shared {
    Line line;
    float values[CHUNK];  // of threads that have them; so that loops over them need not be unrolled
    uint64_t longs[WARPS];
    float floats[WARPS];
    uint64_t segments[ITEMS * WARPS];
    uint64_t total, before, scale;
    float most;
    uint32_t arrived;
    int32_t chosen;
};

// A thread's logits of a chunk; beyond the vocabulary minus infinity.
PASCALINE_INLINE void load_chunk(float (&values)[ITEMS], const float* logits, int chunk, int vocabulary) {
    const int first = chunk * CHUNK + threadIdx.x;
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        const int id = first + item * THREADS;
        values[item] = id < vocabulary ? load_fresh(logits + id) : bits_to_float(MINUS_INFINITY);
    }
}

PASCALINE_INLINE void keep_chunk(const float (&values)[ITEMS], Shared& shared) {
#pragma unroll
    for (int item = 0; item < ITEMS; item++) shared.values[item * THREADS + threadIdx.x] = bounded(values[item]);
}

// The thread whose `before` and `up_to` have `target` between them; all threads' follow each other.
PASCALINE_INLINE int find_thread(uint64_t before, uint64_t up_to, uint64_t target, Shared& shared) {
    if (before <= target && target < up_to) shared.chosen = threadIdx.x;
    __syncthreads();
    return shared.chosen;
}

// A chunk's sums of weights are relative to its own largest logit: `scale` is what that weighs.
PASCALINE_INLINE uint64_t scaled(uint64_t mass, uint64_t scale) {
    bool is_cut;
    return multiply_high(mass << 8, scale << (64 - WEIGHT_BITS - 8), is_cut);  // mass * scale / 2^WEIGHT_BITS
}

// The token at which the scaled sum of the weights of a chunk, which is kept, first is above `target`.
PASCALINE_INLINE int find_in_chunk(float most, uint64_t scale, uint64_t target, Shared& shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const auto weight = [&](int item) {
        return weight_of(shared.values[item * THREADS + threadIdx.x], most, shared.line.exponent);
    };
#pragma unroll 1  // each step has a lot of machine code
    for (int item = 0; item < ITEMS; item++) {
        uint64_t mass = weight(item);
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) mass += shuffle_xor(mass, mask);
        if (lane == 0) shared.segments[item * WARPS + warp] = mass;
    }
    __syncthreads();
    static_assert(ITEMS * WARPS <= THREADS, "a thread for each segment");
    uint64_t mass = threadIdx.x < ITEMS * WARPS ? shared.segments[threadIdx.x] : 0;
    uint64_t sum = running_sum(mass, shared.longs);
    const int segment = find_thread(scaled(sum - mass, scale), scaled(sum, scale), target, shared);
    if (int(threadIdx.x) == segment) shared.before = sum - mass;
    __syncthreads();
    mass = segment % WARPS == warp ? weight(segment / WARPS) : 0;
    sum = shared.before + running_sum(mass, shared.longs);
    return segment / WARPS * THREADS + find_thread(scaled(sum - mass, scale), scaled(sum, scale), target, shared);
}

// From all chunks of a line, of which a thread has its own.
PASCALINE_INLINE int draw_from_all(const Chunk& own, int chunks, float most, const float* logits, int vocabulary,
                                   Shared& shared) {
    const Line& line = shared.line;
    const bool has_chunk = int(threadIdx.x) < chunks;
    const float own_most = bounded(logit_at(own.first));
    const uint64_t scale = has_chunk ? weight_of(own_most, most, line.exponent) : 0;
    const uint64_t mass = scaled(own.mass, scale), sum = running_sum(mass, shared.longs);
    if (threadIdx.x == THREADS - 1) shared.total = sum;
    __syncthreads();
    bool is_cut;
    const uint64_t target = multiply_high(line.draw, shared.total, is_cut);
    const int chunk = find_thread(sum - mass, sum, target, shared);
    if (int(threadIdx.x) == chunk) {
        shared.before = sum - mass;
        shared.scale = scale;
        shared.most = own_most;
    }
    float values[ITEMS];
    load_chunk(values, logits, chunk, vocabulary);
    keep_chunk(values, shared);
    __syncthreads();
    return chunk * CHUNK + find_in_chunk(shared.most, shared.scale, target - shared.before, shared);
}

// lines: of the launch; ids (rows,), choices (rows,), ranges (lines,). Scratch: found (lines, chunks), arrivals
// (lines,), zero before and after.
extern "C" __global__ void __launch_bounds__(THREADS)
choose_tokens(const float* __restrict__ logits, const float* __restrict__ shaped, const Line* __restrict__ lines,
              int64_t* __restrict__ ids, Choice* __restrict__ choices, Range* __restrict__ ranges,
              Chunk* __restrict__ found, uint32_t* __restrict__ arrivals, int vocabulary, int stride) {
    __shared__ Shared shared;
    let_next_launch_begin();
    const int chunks = gridDim.x, chunk = blockIdx.x;
    if (threadIdx.x == 0) shared.line = load_line(lines, blockIdx.y);
    wait_for_launches_before();
    __syncthreads();
    const Line& line = shared.line;
    const float* const row = logits_of(line, logits, shaped, vocabulary, stride);
    float values[ITEMS];
    load_chunk(values, row, chunk, vocabulary);

    uint64_t first = ~uint64_t(0);
    float least = LARGEST;
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        const float value = values[item] <= LARGEST ? values[item] : bits_to_float(INFINITY_BITS);
        if (value >= -LARGEST) least = fminf(least, value);
        const int id = chunk * CHUNK + item * THREADS + threadIdx.x;
        const uint64_t place = place_of(value, id);
        if (id < vocabulary && place < first) first = place;
    }
    first = over_block<LeastValue>(first, shared.longs);
    least = over_block<LeastValue>(least, shared.floats);
    const float most = bounded(logit_at(first));
    uint64_t mass = 0;
    if (line.way == FROM_ALL) {
        keep_chunk(values, shared);
#pragma unroll 1
        for (int item = 0; item < ITEMS; item++) {
            mass += weight_of(shared.values[item * THREADS + threadIdx.x], most, line.exponent);
        }
        mass = over_block<SumOfValues>(mass, shared.longs);
    }
    Chunk own = {first, mass, least, 0.0f};
    Chunk* const of_line = found + size_t(blockIdx.y) * chunks;
    if (threadIdx.x == 0) of_line[chunk] = own;
    if (!comes_last(arrivals + blockIdx.y, chunks, shared.arrived)) return;

    own = {~uint64_t(0), 0, LARGEST, 0.0f};
    if (int(threadIdx.x) < chunks) {
        const Chunk* const one = of_line + threadIdx.x;
        own.first = load_fresh(&one->first);
        own.mass = load_fresh(&one->mass);
        own.least = load_fresh(&one->least);
    }
    first = over_block<LeastValue>(own.first, shared.longs);
    least = over_block<LeastValue>(own.least, shared.floats);
    const bool is_bounded = logit_at(first) <= LARGEST;
    const float line_most = bounded(logit_at(first));
    int token = int(uint32_t(first));
    if (line.way == FROM_ALL && line_most >= -LARGEST) {
        token = draw_from_all(own, chunks, line_most, row, vocabulary, shared);
    }
    if (threadIdx.x != 0) return;
    ranges[blockIdx.y] = {least, line_most};
    Choice& choice = choices[line.row];
    if (line.is_raw) {
        choice.is_finite = is_bounded && line_most >= -LARGEST;
        choice.most = line_most;
    }
    if (line.way == ONLY_LOOKED_AT) return;
    ids[line.row] = token;
    choice.token = token;
    const bool is_most = line.is_raw && line.way == GREEDY;
    choice.logit = is_most ? line_most : load_fresh(logits + size_t(line.row) * stride + token);
}
