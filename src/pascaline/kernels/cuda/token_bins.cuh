// A line's tokens in bins of equal width below its largest logit, which is what selection begins with.
#pragma once
#include "sampling_line.cuh"

constexpr int WARPS = 32, THREADS = 32 * WARPS;
constexpr int BINS = THREADS;  // a thread for each

struct Bins {
    uint64_t masses[BINS];
    uint64_t kept_mass;  // of all that min-p leaves
    uint32_t counts[BINS];
    uint32_t unused[2];
};

// Bins of a block, before they are added to those of all: sums of 64 bits are made of two.
struct BlockBins {
    uint32_t low[BINS], high[BINS], counts[BINS];

    PASCALINE_INLINE void clear() {
        low[threadIdx.x] = high[threadIdx.x] = counts[threadIdx.x] = 0;
        __syncthreads();
    }
    PASCALINE_INLINE void add(int bin, uint64_t mass) {
        atomicAdd(&counts[bin], 1u);
        if (mass == 0) return;
        const uint32_t before = atomicAdd(&low[bin], uint32_t(mass));
        const uint32_t carried = uint32_t(mass >> 32) + (before + uint32_t(mass) < before ? 1u : 0u);
        if (carried) atomicAdd(&high[bin], carried);
    }
    PASCALINE_INLINE uint64_t mass(int bin) const { return uint64_t(high[bin]) << 32 | low[bin]; }
};

// The tokens of a line that count, and how.
struct Tokens {
    const float* logits;
    int vocabulary;
    float most;
    SplitNumber exponent;
    float deepest;  // so far below the largest, in logits, tokens weigh nothing
    float bins_per_logit;
    bool has_all;  // those that weigh nothing count, too

    PASCALINE_INLINE Tokens(const float* logits, int vocabulary, Range range, SplitNumber exponent, bool has_all)
        : logits(logits), vocabulary(vocabulary), most(range.most), exponent(exponent), has_all(has_all) {
        deepest = DEEPEST / exponent.high;
        bins_per_logit = float(BINS) / fminf(deepest, most - range.least);
    }
    PASCALINE_INLINE bool is_within(float logit, SplitNumber reach) const {
        const SplitNumber below = difference_of(most, logit);
        return (below.high - reach.high) + (below.low - reach.low) <= 0.0f;
    }
    PASCALINE_INLINE bool has(float logit) const { return has_all || most - logit <= deepest; }
    // Not the lower the more likely. Of nothing but equals, 0 * infinity is NaN, and that is bin 0.
    PASCALINE_INLINE int bin(float logit) const {
        const int found = round_to_int((most - logit) * bins_per_logit);
        return found < BINS ? found : BINS - 1;
    }
    PASCALINE_INLINE uint64_t weight(float logit) const { return weight_of(logit, most, exponent); }

    // Calls visit(logit, id) for all tokens of the line that count; a thread loads AT_ONCE of them.
    template <int AT_ONCE, typename Visit>
    PASCALINE_INLINE void visit_all(Visit visit) const {
#pragma unroll 1
        for (int first = threadIdx.x; first < vocabulary; first += AT_ONCE * THREADS) {
            float values[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int id = first + i * THREADS;
                values[i] = id < vocabulary ? load_fresh(logits + id) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int id = first + i * THREADS;
                const float logit = bounded(values[i]);
                if (id < vocabulary && has(logit)) visit(logit, id);
            }
        }
    }
};
