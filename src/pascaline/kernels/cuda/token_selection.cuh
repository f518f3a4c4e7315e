// Finds tokens by their rank or by the sum of weights up to them, in the order of likelihood. No more than a window of
// that order is ever sorted.
#pragma once
#include "token_bins.cuh"

constexpr uint32_t WINDOW = THREADS;  // a thread for each token of a window
constexpr uint32_t SPARE = 32;        // more than MOST_REPORTED

struct Found {
    uint64_t place;
    uint64_t mass;  // of all tokens up to it
};

// Tokens of one bin whose places are first ... last, and what comes before them.
struct Interval {
    uint64_t first, last;
    uint64_t mass;
    uint32_t rank;
    uint32_t count;
    int32_t bin;
};

struct TokenWindow {
    uint64_t places[WINDOW];
    uint64_t sums[WINDOW];  // of weights, from the window's first token on
};

struct SelectionMemory {
    uint64_t longs[WARPS];
    uint32_t words[WARPS];
    uint64_t masses[BINS];  // of all tokens before a bin, as all below
    uint32_t ranks[BINS];
    union {
        BlockBins parts;
        TokenWindow window;
    };
    Interval interval;
    uint64_t mass, window_mass, window_sum;
    uint32_t count, window_rank, window_count;  // of all tokens; before the window's; of it
    uint32_t cursor;
    uint32_t chosen;
};

// Used by all threads of a block together.
class Selection {
  public:
    // `bin_mass` and `bin_count`: of the bin of the own thread's number.
    PASCALINE_INLINE Selection(const Tokens& tokens, uint64_t bin_mass, uint32_t bin_count, SelectionMemory& memory)
        : tokens(tokens), memory(memory) {
        const uint64_t mass_up_to = running_sum(bin_mass, memory.longs);
        const uint32_t rank_up_to = running_sum(bin_count, memory.words);
        memory.masses[threadIdx.x] = mass_up_to - bin_mass;
        memory.ranks[threadIdx.x] = rank_up_to - bin_count;
        if (threadIdx.x == THREADS - 1) {
            memory.mass = mass_up_to;
            memory.count = rank_up_to;
            memory.window_mass = memory.window_sum = memory.window_rank = memory.window_count = 0;
        }
        __syncthreads();
    }

    // Of all tokens.
    PASCALINE_INLINE uint64_t mass() const { return memory.mass; }
    PASCALINE_INLINE uint32_t count() const { return memory.count; }

    // By its rank: the token with `target` before it, which is less than `count`. Else by weights: the token at which
    // their sum first is above `target`, which is less than `mass`.
    PASCALINE_INLINE Found find(bool is_by_rank, uint64_t target) {
        const uint64_t begin = is_by_rank ? memory.window_rank : memory.window_mass;
        const uint64_t size = is_by_rank ? memory.window_count : memory.window_sum;
        if (target < begin || target - begin >= size) make_window(is_by_rank, target);
        if (is_by_rank) {
            if (threadIdx.x == 0) memory.chosen = uint32_t(target) - memory.window_rank;
        } else {
            const uint64_t before = threadIdx.x > 0 ? memory.window.sums[threadIdx.x - 1] : 0;
            const uint64_t rest = target - memory.window_mass;
            if (before <= rest && rest < memory.window.sums[threadIdx.x]) memory.chosen = threadIdx.x;
        }
        __syncthreads();
        const uint32_t chosen = memory.chosen;
        __syncthreads();
        return {memory.window.places[chosen], memory.window_mass + memory.window.sums[chosen]};
    }

    // The place of the token with `rank` before it, where the window begins with the first.
    PASCALINE_INLINE uint64_t place(uint32_t rank) const { return memory.window.places[rank]; }

  private:
    const Tokens& tokens;
    SelectionMemory& memory;

    // Of tokens in the interval's bin: whether they are in it.
    static PASCALINE_INLINE bool is_within(uint64_t place, const Interval& interval) {
        return interval.first <= place && place <= interval.last;
    }

    // Leaves, of all threads' intervals, the one that has `target` between what is before it and behind.
    PASCALINE_INLINE void pick(bool is_by_rank, uint64_t target, const Interval& own, uint64_t own_mass) {
        const uint64_t before = is_by_rank ? own.rank : own.mass;
        __syncthreads();
        if (before <= target && target - before < (is_by_rank ? own.count : own_mass)) memory.interval = own;
        __syncthreads();
    }

    PASCALINE_INLINE void pick_bin(bool is_by_rank, uint64_t target) {
        const int bin = threadIdx.x;
        const bool is_last = bin == BINS - 1;
        const uint64_t mass_before = memory.masses[bin];
        const uint32_t rank_before = memory.ranks[bin];
        const uint64_t own_mass = (is_last ? memory.mass : memory.masses[bin + 1]) - mass_before;
        const uint32_t own_count = (is_last ? memory.count : memory.ranks[bin + 1]) - rank_before;
        const Interval own = {0, ~uint64_t(0), mass_before, rank_before, own_count, bin};
        pick(is_by_rank, target, own, own_mass);
    }

    // The part, of up to BINS equal ones, of an interval with too many tokens. As places are distinct, a few times
    // of that always end.
    PASCALINE_INLINE void pick_part(bool is_by_rank, uint64_t target) {
        const Interval& whole = memory.interval;
        uint64_t first = ~uint64_t(0), last = 0;
        tokens.visit_all<4>([&](float logit, int id) {
            const uint64_t place = place_of(logit, id);
            if (tokens.bin(logit) != whole.bin || !is_within(place, whole)) return;
            first = LeastValue::of(first, place);
            last = MostValue::of(last, place);
        });
        first = over_block<LeastValue>(first, memory.longs);
        last = over_block<MostValue>(last, memory.longs);
        int shift = 0;
        while ((last - first) >> shift >= BINS) shift++;
        memory.parts.clear();
        tokens.visit_all<4>([&](float logit, int id) {
            const uint64_t place = place_of(logit, id);
            if (tokens.bin(logit) != whole.bin || !is_within(place, whole)) return;
            memory.parts.add(int((place - first) >> shift), tokens.weight(logit));
        });
        __syncthreads();
        const uint64_t own_mass = memory.parts.mass(threadIdx.x);
        const uint32_t own_count = memory.parts.counts[threadIdx.x];
        const uint64_t mass_before = whole.mass + running_sum(own_mass, memory.longs) - own_mass;
        const uint32_t rank_before = whole.rank + running_sum(own_count, memory.words) - own_count;
        const uint64_t own_first = first + (uint64_t(threadIdx.x) << shift);
        const uint64_t own_last = own_first + ((uint64_t(1) << shift) - 1);
        const Interval own = {own_first, own_last, mass_before, rank_before, own_count, whole.bin};
        pick(is_by_rank, target, own, own_mass);
    }

    // Sorts tokens around the target: from the first one on where there is room for them.
    PASCALINE_INLINE void make_window(bool is_by_rank, uint64_t target) {
        pick_bin(is_by_rank, target);
        const Interval& interval = memory.interval;
        bool is_from_first = interval.rank + interval.count <= WINDOW;
        while (!is_from_first && interval.count > WINDOW - SPARE) {
            pick_part(is_by_rank, target);
            is_from_first = interval.rank + interval.count <= WINDOW;
        }
        const uint32_t window_count = is_from_first ? interval.rank + interval.count : interval.count;
        memory.window.places[threadIdx.x] = ~uint64_t(0);
        if (threadIdx.x == 0) {
            memory.window_rank = is_from_first ? 0 : interval.rank;
            memory.window_mass = is_from_first ? 0 : interval.mass;
            memory.window_count = window_count;
            memory.cursor = 0;
        }
        __syncthreads();
        tokens.visit_all<8>([&](float logit, int id) {
            const int bin = tokens.bin(logit);
            if (bin > interval.bin || (bin < interval.bin && !is_from_first)) return;
            const uint64_t place = place_of(logit, id);
            if (bin == interval.bin && (place > interval.last || (place < interval.first && !is_from_first))) return;
            memory.window.places[atomicAdd(&memory.cursor, 1u)] = place;
        });
        __syncthreads();
        sort(window_count);
        const uint64_t own = memory.window.places[threadIdx.x];
        const uint64_t weight = threadIdx.x < window_count ? tokens.weight(logit_at(own)) : 0;
        const uint64_t sum = running_sum(weight, memory.longs);
        memory.window.sums[threadIdx.x] = sum;
        if (threadIdx.x == THREADS - 1) memory.window_sum = sum;
        __syncthreads();
    }

    // The first `sorted` places and those after them, which are larger, up to a power of two (Batcher 1968).
    PASCALINE_INLINE void sort(uint32_t sorted) {
        for (uint32_t run = 2; run < 2 * sorted; run *= 2) {
            for (uint32_t step = run / 2; step > 0; step /= 2) {
                const uint32_t low = (threadIdx.x & ~(step - 1)) * 2 + (threadIdx.x & (step - 1));
                if (low < WINDOW && low < 2 * sorted) {
                    const uint64_t a = memory.window.places[low], b = memory.window.places[low + step];
                    if ((a > b) == ((low & run) == 0)) {
                        memory.window.places[low] = b;
                        memory.window.places[low + step] = a;
                    }
                }
                __syncthreads();
            }
        }
    }
};
