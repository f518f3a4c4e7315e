// The next token of each line of logits, but for those with filters: the most likely one, or one drawn by inversion of
// the distribution's sums in the order of ids. Of lines with filters, what filter_tokens.cu begins with.
//
// A block looks at a chunk of a line; the last of a line brings together what they found. Chunks are of the same size
// everywhere and weights are integers: what is chosen depends on nothing but the line.
#include "arrivals.cuh"
#include "sampling_line.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int ITEMS = 16, CHUNK = ITEMS * THREADS;  // a thread has every 256th logit of a chunk

struct alignas(16) Chunk {
    uint64_t first;  // the place of the most likely token
    uint64_t mass;   // of all weights, relative to that token's
    float least;     // of those that are finite; else infinite
    float most;
    int32_t has_infinity;  // or NaN
    int32_t unused;
};

struct Shared {
    Line line;
    float values[CHUNK];  // of threads that have them; so that loops over them need not be unrolled
    uint64_t longs[WARPS];
    float floats[WARPS];
    int32_t integers[WARPS];
    uint64_t segments[ITEMS * WARPS];
    uint32_t arrived;
    int32_t chosen;
    uint64_t rest;
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

// Which of the threads has `target` between the sum before it and its own; `rest` is what is left of it there.
PASCALINE_INLINE int find_thread(uint64_t mass, uint64_t target, Shared& shared, uint64_t& rest) {
    const uint64_t sum = running_sum(mass, shared.longs);
    if (sum - mass <= target && target < sum) {
        shared.chosen = threadIdx.x;
        shared.rest = target - (sum - mass);
    }
    __syncthreads();
    rest = shared.rest;
    const int found = shared.chosen;
    __syncthreads();
    return found;
}

// The token at which the sum of a chunk's weights first is above `target`.
PASCALINE_INLINE int find_in_chunk(int chunk, float most, uint64_t target, Shared& shared) {
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
    const uint64_t own = threadIdx.x < ITEMS * WARPS ? shared.segments[threadIdx.x] : 0;
    const int segment = find_thread(own, target, shared, target);
    const uint64_t mass = segment % WARPS == warp ? weight(segment / WARPS) : 0;
    return chunk * CHUNK + segment / WARPS * THREADS + find_thread(mass, target, shared, target);
}

// From all chunks of a line: a draw among the weights, which are of the sum's part first.
PASCALINE_INLINE int draw_from_all(const Chunk& own, int chunks, float most, const float* logits, int vocabulary,
                                   Shared& shared) {
    const Line& line = shared.line;
    const bool has_chunk = int(threadIdx.x) < chunks;
    const uint64_t scale = has_chunk ? weight_of(own.most, most, line.exponent) : 0;
    bool is_cut;
    // mass * scale / 2^WEIGHT_BITS
    const uint64_t product = multiply_high(own.mass << 8, scale << (64 - WEIGHT_BITS - 8), is_cut);
    const uint64_t mass = has_chunk ? product : 0;
    const uint64_t total = over_block<SumOfValues>(mass, shared.longs);
    uint64_t rest;
    const int chunk = find_thread(mass, multiply_high(line.draw, total, is_cut), shared, rest);
    if (int(threadIdx.x) == chunk) {
        const uint64_t within = uint64_t(double(rest) / double(mass) * double(own.mass));
        shared.segments[0] = within < own.mass ? within : own.mass - 1;
        shared.floats[0] = own.most;
    }
    __syncthreads();
    const uint64_t target = shared.segments[0];
    const float chunk_most = shared.floats[0];
    float values[ITEMS];
    load_chunk(values, logits, chunk, vocabulary);
    keep_chunk(values, shared);
    return find_in_chunk(chunk, chunk_most, target, shared);
}

// lines: of the launch; ids (rows,), choices (rows,), ranges (lines,). Scratch: found (lines, chunks), arrivals
// (lines,), zero before and after.
extern "C" __global__ void __launch_bounds__(THREADS)
choose_tokens(const float* __restrict__ logits, const float* __restrict__ shaped, const Line* __restrict__ lines,
              int64_t* __restrict__ ids, Choice* __restrict__ choices, Range* __restrict__ ranges,
              Chunk* __restrict__ found, uint32_t* __restrict__ arrivals, int vocabulary, int stride) {
    __shared__ Shared shared;
    let_next_launch_begin();
    wait_for_launches_before();
    const int chunks = gridDim.x, chunk = blockIdx.x;
    if (threadIdx.x == 0) shared.line = load_line(lines, blockIdx.y);
    __syncthreads();
    const Line& line = shared.line;
    const float* const row = logits_of(line, logits, shaped, vocabulary, stride);
    float values[ITEMS];
    load_chunk(values, row, chunk, vocabulary);

    uint64_t first = ~uint64_t(0);
    float least = LARGEST;
    bool has_infinity = false;
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        const float value = bounded(values[item]);
        has_infinity |= !(values[item] <= LARGEST);
        if (value >= -LARGEST) least = fminf(least, value);
        const int id = chunk * CHUNK + item * THREADS + threadIdx.x;
        const uint64_t place = place_of(value, id);
        if (id < vocabulary && place < first) first = place;
    }
    first = over_block<LeastValue>(first, shared.longs);
    least = over_block<LeastValue>(least, shared.floats);
    const int any_infinity = over_block<MostValue>(int32_t(has_infinity), shared.integers);
    const float most = logit_at(first);
    uint64_t mass = 0;
    if (line.way == FROM_ALL) {
        keep_chunk(values, shared);
#pragma unroll 1
        for (int item = 0; item < ITEMS; item++) {
            mass += weight_of(shared.values[item * THREADS + threadIdx.x], most, line.exponent);
        }
        mass = over_block<SumOfValues>(mass, shared.longs);
    }
    Chunk own = {first, mass, least, most, any_infinity, 0};
    Chunk* const of_line = found + size_t(blockIdx.y) * chunks;
    if (threadIdx.x == 0) of_line[chunk] = own;
    if (!comes_last(arrivals + blockIdx.y, chunks, shared.arrived)) return;

    own = {~uint64_t(0), 0, LARGEST, bits_to_float(MINUS_INFINITY), 0, 0};
    if (int(threadIdx.x) < chunks) {
        const Chunk* const one = of_line + threadIdx.x;
        own.first = load_fresh(&one->first);
        own.mass = load_fresh(&one->mass);
        own.least = load_fresh(&one->least);
        own.most = load_fresh(&one->most);
        own.has_infinity = load_fresh(&one->has_infinity);
    }
    first = over_block<LeastValue>(own.first, shared.longs);
    least = over_block<LeastValue>(own.least, shared.floats);
    const bool is_finite = over_block<MostValue>(own.has_infinity, shared.integers) == 0;
    const float line_most = logit_at(first);
    int token = int(uint32_t(first));
    if (line.way == FROM_ALL && line_most >= -LARGEST) {
        token = draw_from_all(own, chunks, line_most, row, vocabulary, shared);
    }
    if (threadIdx.x != 0) return;
    ranges[blockIdx.y] = {least, line_most};
    Choice& choice = choices[line.row];
    if (line.is_raw) {
        choice.is_finite = is_finite && line_most >= -LARGEST;
        choice.most = line_most;
    }
    if (line.way == ONLY_LOOKED_AT) return;
    ids[line.row] = token;
    choice.token = token;
    choice.logit = load_fresh(logits + size_t(line.row) * stride + token);
}
