// What the warps of a block of attention_simt_decode.cu have of their query heads, and how it comes together.
//
// Definitions: those of attention_simt.cuh; WARPS of a block.
#pragma once
#include "attention_simt.cuh"

constexpr int ROW_TILES = (GROUP + 7) / 8;  // blocks that share a key/value head's query heads
constexpr int HEADS = (GROUP + ROW_TILES - 1) / ROW_TILES;
constexpr int WEIGHT_STRIDE = (HEADS + 3) / 4 * 4;
constexpr int TILE = 2 * PAGE_SIZE;  // tokens of a warp's step

// Keys: lanes of a token, tokens of a warp at once, tokens of a lane, and columns that its lanes have at once.
constexpr int TOKEN_LANES = 4;
constexpr int KEY_TOKENS = 32 / TOKEN_LANES;
constexpr int LANE_TOKENS = TILE / KEY_TOKENS;
constexpr int CHUNK = TOKEN_LANES * VECTOR;
constexpr int CHUNKS = (HEAD_DIM + CHUNK - 1) / CHUNK;
constexpr int PADDED_DIM = CHUNKS * CHUNK;

// Values: lanes of a token, of which those beyond VECTORS have nothing, tokens of a warp at once, and how often.
constexpr int VALUE_LANES =
    VECTORS <= 1 ? 1 : VECTORS <= 2 ? 2 : VECTORS <= 4 ? 4 : VECTORS <= 8 ? 8 : VECTORS <= 16 ? 16 : 32;
constexpr int VALUE_TOKENS = 32 / VALUE_LANES;
constexpr int STEPS = TILE / VALUE_TOKENS;
constexpr int STEPS_AT_ONCE = STEPS < 4 ? STEPS : 4;

constexpr int AT_ONCE = LANE_TOKENS > STEPS_AT_ONCE ? LANE_TOKENS : STEPS_AT_ONCE;  // vectors of a lane

static_assert(VECTORS <= 32, "a warp has a whole value");

// Numbers of all heads, in vectors of four.
struct alignas(16) OfHeads {
    float values[WEIGHT_STRIDE];

    PASCALINE_INLINE void load(const OfHeads& source) {
#pragma unroll
        for (int first = 0; first < WEIGHT_STRIDE; first += 4) {
            const float4 four = *reinterpret_cast<const float4*>(source.values + first);
            values[first] = four.x;
            values[first + 1] = four.y;
            values[first + 2] = four.z;
            values[first + 3] = four.w;
        }
    }

    PASCALINE_INLINE void store(OfHeads& target) const {
#pragma unroll
        for (int first = 0; first < WEIGHT_STRIDE; first += 4) {
            *reinterpret_cast<float4*>(target.values + first) =
                make_float4(values[first], values[first + 1], values[first + 2], values[first + 3]);
        }
    }
};

// PERF: a warp's maxima and sums are not in registers, which are all taken.
struct WarpState {
    OfHeads weights[TILE];  // of the tile's tokens
    OfHeads sums[32];       // of the weights of each lane's tokens
    OfHeads maxima;         // of scores, as far as weights are relative to
};

struct Shared {
    alignas(16) float query[HEADS * PADDED_DIM];  // scaled; in the end the block's weighted values
    WarpState warps[WARPS];
    uint32_t arrived;
};

PASCALINE_INLINE float highest_of_lanes(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}

PASCALINE_INLINE float sum_of_lanes(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// Weighted values of a lane's eight columns.
struct Totals {
    float heads[HEADS][VECTOR];

    // Has all scores of the warp's lanes below the maxima plus HEADROOM.
    PASCALINE_INLINE void make_room(WarpState& state, const float (&scores)[LANE_TOKENS * HEADS], int lane) {
        OfHeads maxima;
        maxima.load(state.maxima);
        bool is_above = false;
#pragma unroll
        for (int head = 0; head < HEADS; head++) is_above |= scores[head] > maxima.values[head] + HEADROOM;
        if (!any_lane(is_above)) return;
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            const float highest = fmaxf(highest_of_lanes(scores[head]), maxima.values[head]);
            const float factor = power_of_two(maxima.values[head] - highest);
            state.sums[lane].values[head] *= factor;
            if (lane == 0) state.maxima.values[head] = highest;
#pragma unroll
            for (int i = 0; i < VECTOR; i++) heads[head][i] *= factor;
        }
        sync_warp();
    }

    // One token's value, times the weights of its heads.
    PASCALINE_INLINE void add(const CacheVector& value, const OfHeads& weights) {
        float numbers[VECTOR];
        OfHeads own;
        own.load(weights);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) numbers[i] = value.number(i);
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) heads[head][i] = fmaf(own.values[head], numbers[i], heads[head][i]);
        }
    }
};

// A lane's token: its scores become weights.
PASCALINE_INLINE void weigh(WarpState& state, const float (&scores)[LANE_TOKENS * HEADS], float value_scale, int lane,
                            int token) {
    OfHeads numbers, sums;
    numbers.load(state.maxima);
    sums.load(state.sums[lane]);
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        const float weight = power_of_two(scores[head] - numbers.values[head]);
        sums.values[head] += weight;
        numbers.values[head] = CACHE_TYPE == INT8 ? weight * value_scale : weight;
    }
    sums.store(state.sums[lane]);
    numbers.store(state.weights[token]);
}

// What the block's warps have: totals in shared.query, a head's side by side, maxima and sums as the first warp's.
PASCALINE_INLINE void bring_together(Shared& shared, Totals& totals, int lane, int warp) {
    WarpState& state = shared.warps[warp];
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
#pragma unroll
        for (int mask = 16; mask >= VALUE_LANES; mask /= 2) {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) totals.heads[head][i] += shuffle_xor(totals.heads[head][i], mask);
        }
    }
    __syncthreads();
    float highest[HEADS];
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        highest[head] = shared.warps[0].maxima.values[head];
#pragma unroll
        for (int other = 1; other < WARPS; other++) {
            highest[head] = fmaxf(highest[head], shared.warps[other].maxima.values[head]);
        }
        const float factor = power_of_two(state.maxima.values[head] - highest[head]);
        const float sum = sum_of_lanes(state.sums[lane].values[head]) * factor;
        if (lane == 0) state.sums[0].values[head] = sum;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) totals.heads[head][i] *= factor;
    }
#pragma unroll 1
    for (int other = 0; other < WARPS; other++) {
        if (warp == other && lane < VECTORS) {
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                auto* const fours = reinterpret_cast<float4*>(shared.query + head * HEAD_DIM + lane * VECTOR);
#pragma unroll
                for (int part = 0; part < VECTOR / 4; part++) {
                    const float* const own = totals.heads[head] + 4 * part;
                    const float4 four = other == 0 ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : fours[part];
                    fours[part] = make_float4(four.x + own[0], four.y + own[1], four.z + own[2], four.w + own[3]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        if (threadIdx.x == head) {
            shared.warps[0].maxima.values[head] = highest[head];
#pragma unroll
            for (int other = 1; other < WARPS; other++) {
                shared.warps[0].sums[0].values[head] += shared.warps[other].sums[0].values[head];
            }
        }
    }
    __syncthreads();
}
