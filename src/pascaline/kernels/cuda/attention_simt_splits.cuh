// What the splits of a sequence's tokens leave of it, and how the last of them to arrive merges all.
#pragma once
#include "arrivals.cuh"
#include "attention_simt_heads.cuh"

// What a split leaves: weighted values of each head, then the maxima of scores and the sums of weights.
constexpr int PART_FLOATS = HEADS * HEAD_DIM + (2 * HEADS + 3) / 4 * 4;


// Eight numbers of the block's weighted values, which are a thread's.
struct Numbers {
    float values[VECTOR];

    PASCALINE_INLINE void set(const float4& first, const float4& second) {
        const float numbers[VECTOR] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
        for (int i = 0; i < VECTOR; i++) values[i] = numbers[i];
    }

    PASCALINE_INLINE void store(float* target, float factor) const {
        auto* const fours = reinterpret_cast<float4*>(target);
        fours[0] = make_float4(values[0] * factor, values[1] * factor, values[2] * factor, values[3] * factor);
        fours[1] = make_float4(values[4] * factor, values[5] * factor, values[6] * factor, values[7] * factor);
    }
};

// One of a sequence's splits.
struct Split {
    int number, count, query_row, key_value_heads, key_value_head, first_head;

    // What the block has brought together is the whole.
    PASCALINE_INLINE void store_alone(const Shared& shared, float* y) const {
        each_vector([&](int head, int place) {
            const auto* const fours = reinterpret_cast<const float4*>(shared.query + place);
            Numbers numbers;
            numbers.set(fours[0], fours[1]);
            store(y, head, place, numbers, shared.warps[0].sums[0].values[head]);
        });
    }

    PASCALINE_INLINE void leave_part(const Shared& shared, float* parts) const {
        float* const part = parts + size_t(number) * PART_FLOATS;
        each_vector([&](int, int place) {
            const auto* const fours = reinterpret_cast<const float4*>(shared.query + place);
            Numbers numbers;
            numbers.set(fours[0], fours[1]);
            numbers.store(part + place, 1.0f);
        });
        if (threadIdx.x < HEADS) {
            part[HEADS * HEAD_DIM + threadIdx.x] = shared.warps[0].maxima.values[threadIdx.x];
            part[HEADS * HEAD_DIM + HEADS + threadIdx.x] = shared.warps[0].sums[0].values[threadIdx.x];
        }
    }

    // All parts. PERF: every thread finds its head's factors itself, so that none waits for another, and loads
    // several parts at once, the last one again where there are no more.
    PASCALINE_INLINE void merge(const float* parts, float* y) const {
        each_vector([&](int head, int place) {
            const auto part_of = [&](int index) { return parts + size_t(min(index, count - 1)) * PART_FLOATS; };
            const int maximum = HEADS * HEAD_DIM + head;
            float highest = NOTHING_SEEN;
#pragma unroll 1
            for (int first = 0; first < count; first += 8) {
#pragma unroll
                for (int i = 0; i < 8; i++) highest = fmaxf(highest, load_fresh(part_of(first + i) + maximum));
            }
            Numbers total = {};
            float sum = 0.0f;
#pragma unroll 1
            for (int first = 0; first < count; first += 4) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* const part = part_of(first + i);
                    const auto* const fours = reinterpret_cast<const float4*>(part + place);
                    Numbers numbers;
                    numbers.set(load_fresh(fours), load_fresh(fours + 1));
                    const float own = power_of_two(load_fresh(part + maximum) - highest);
                    const float factor = first + i < count ? own : 0.0f;
                    sum = fmaf(factor, load_fresh(part + maximum + HEADS), sum);
#pragma unroll
                    for (int j = 0; j < VECTOR; j++) total.values[j] = fmaf(factor, numbers.values[j], total.values[j]);
                }
            }
            store(y, head, place, total, sum);
        });
    }

  private:
    // Calls with each of the thread's heads and the place of its eight numbers.
    template <typename Call>
    static PASCALINE_INLINE void each_vector(Call call) {
        for (int i = threadIdx.x; i < HEADS * VECTORS; i += 32 * WARPS) call(i / VECTORS, i * VECTOR);
    }

    PASCALINE_INLINE void store(float* y, int head, int place, const Numbers& numbers, float sum) const {
        if (first_head + head >= GROUP) return;
        const size_t row = size_t(query_row) * key_value_heads * GROUP + key_value_head * GROUP + first_head;
        numbers.store(y + row * HEAD_DIM + place, 1.0f / sum);
    }
};
