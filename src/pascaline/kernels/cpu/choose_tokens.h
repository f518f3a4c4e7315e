// From a row of logits to a token: the same steps as those of engine/sampler.py, in fp64 too.
//
// Infinity and NaN count as the largest number there is, so that whatever a row holds, some token is chosen.

#pragma once

#include <algorithm>
#include <cfloat>

#include "elementary.h"
#include "kernel.h"

namespace sampling {

// Logits whose weights are added up on their own, so that a draw need not look into all of them again.
constexpr int64_t SECTION = 512;
// Logits of which the largest is noted: the k-th largest of those is a bound for top-k.
constexpr int64_t BLOCK = 64;

struct Largest {
    float value;    // NaN aside
    int64_t token;  // the first
    bool has_nan;
};

INLINE float largest_lane(Floats v) {
    float lanes[LANES], most = -INFINITE;
    store_floats(lanes, v);
    for (float lane : lanes) most = lane > most ? lane : most;
    return most;
}

// From the first on, NaN aside; `nan` gets a bit for each lane that had one.
INLINE float largest_of(const float* logits, int64_t count, uint32_t* nan) {
    Floats most[2] = {every_float(-INFINITE), every_float(-INFINITE)};
    int64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES)
        for (int j = 0; j < 2; j++) {
            const Floats v = load_floats(logits + i + j * LANES);
            most[j] = largest(v, most[j]);
            *nan |= bits_of(is_nan(v));
        }
    float value = largest_lane(largest(most[0], most[1]));
    for (; i < count; i++) {
        value = logits[i] > value ? logits[i] : value;
        *nan |= logits[i] != logits[i];
    }
    return value;
}

static Largest find_largest(const float* logits, int64_t count) {
    uint32_t nan = 0;
    const float value = largest_of(logits, count, &nan);
    constexpr uint32_t ALL = (1u << LANES) - 1;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const uint32_t here = ~bits_of(is_less(load_floats(logits + i), every_float(value))) & ALL;
        if (here) return {value, i + __builtin_ctz(here), nan != 0};
    }
    while (i + 1 < count && logits[i] < value) i++;
    return {value, i, nan != 0};
}

// exp((logit - largest) / temperature).
struct Weigher {
    Doubles largest, inverse;

    Weigher(const Largest& of, double temperature) {
        largest = every_double(of.has_nan ? FLT_MAX : of.value < FLT_MAX ? of.value : FLT_MAX);
        // Below 1e-300 all but the largest weigh 0 just as well, and the inverse remains finite.
        inverse = every_double(1 / (temperature > 1e-300 ? temperature : 1e-300));
    }
    INLINE_MEMBER Doubles of(Four logits) const {
        return exponential(multiply(subtract(widen_up_to(logits, FLT_MAX), largest), inverse));
    }
    double of(float logit) const { return first_of(of(four_of(logit))); }
};

INLINE Four load_four(const float* logits, int64_t left) {
    if (left >= 4) return four_at(logits);
    float four[4] = {-INFINITE, -INFINITE, -INFINITE, -INFINITE};
    for (int64_t i = 0; i < left; i++) four[i] = logits[i];
    return four_at(four);
}

// Of a section: four partial sums of four lanes, added pairwise.
static double add_section(const float* logits, int64_t count, const Weigher& weigher) {
    Doubles parts[4] = {every_double(0), every_double(0), every_double(0), every_double(0)};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int j = 0; j < 4; j++) parts[j] = add(parts[j], weigher.of(four_at(logits + i + 4 * j)));
    for (int j = 0; i < count; j++, i += 4)
        parts[j] = add(parts[j], weigher.of(load_four(logits + i, count - i)));
    double lanes[4];
    store_doubles(lanes, add(add(parts[0], parts[1]), add(parts[2], parts[3])));
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

// The weights' sum, and where `sums` is given those of all sections.
static double add_weights(const float* logits, int64_t count, const Weigher& weigher, double* sums) {
    double total = 0;
    for (int64_t first = 0; first < count; first += SECTION) {
        const double sum = add_section(logits + first, at_most(SECTION, count - first), weigher);
        total += sum;
        if (sums) sums[first / SECTION] = sum;
    }
    return total;
}

// By inversion of the cumulative distribution, in the order of ids.
static int64_t draw_from_all(const float* logits, int64_t count, const Weigher& weigher, double draw,
                             double* sums) {
    const double wanted = draw * add_weights(logits, count, weigher, sums);
    double before = 0;
    int64_t section = 0, last = 0;
    // A draw that rounds up to the total would find nothing: the last that weighs something is meant.
    for (; section * SECTION < count; before += sums[section++]) {
        if (sums[section] > 0) last = section;
        if (before + sums[section] > wanted) break;
    }
    const int64_t first = last * SECTION, stop = at_most(first + SECTION, count);
    int64_t token = first;
    for (int64_t i = first; i < stop; i += 4) {
        double weights[4];
        store_doubles(weights, weigher.of(load_four(logits + i, stop - i)));
        for (int64_t j = 0; j < at_most(4, stop - i); j++) {
            before += weights[j];
            if (weights[j] > 0) token = i + j;
            if (last == section && before > wanted) return token;
        }
    }
    return token;
}

struct Candidate {
    double weight;
    int32_t id;
    float logit;

    bool operator<(const Candidate& other) const {
        return weight > other.weight || (weight == other.weight && id < other.id);
    }
};

// All tokens whose logit is at least `least` and, but for the `first` look, less than `below`, by id.
static int64_t gather(const float* logits, int64_t count, float least, float below, bool first,
                      const Weigher& weigher, Candidate* to) {
    constexpr uint32_t ALL = (1u << LANES) - 1;
    int64_t found = 0, i = 0;
    const auto take = [&](int64_t id) {
        to[found++] = {weigher.of(logits[id]), static_cast<int32_t>(id), logits[id]};
    };
    for (; i + LANES <= count; i += LANES) {
        const Floats v = load_floats(logits + i);
        uint32_t here = ~bits_of(is_less(v, every_float(least))) & ALL;
        if (!first) here &= bits_of(is_less(v, every_float(below)));
        for (; here; here &= here - 1) take(i + __builtin_ctz(here));
    }
    for (; i < count; i++)
        if (!(logits[i] < least) && (first || logits[i] < below)) take(i);
    return found;
}

// The `wanted` most likely tokens, in order; `tops` has room for a number a block.
static int64_t most_likely(const float* logits, int64_t count, int64_t wanted, const Weigher& weigher,
                           float* tops, Candidate* to) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    float least = -INFINITE;
    if (wanted <= blocks) {
        uint32_t nan = 0;
        for (int64_t block = 0; block < blocks; block++)
            tops[block] = largest_of(logits + block * BLOCK, at_most(BLOCK, count - block * BLOCK), &nan);
        std::nth_element(tops, tops + wanted - 1, tops + blocks, [](float a, float b) { return a > b; });
        least = tops[wanted - 1];
    }
    const int64_t found = gather(logits, count, least, 0, true, weigher, to);
    if (found > wanted) std::nth_element(to, to + wanted - 1, to + found);
    std::sort(to, to + at_most(found, wanted));
    return at_most(found, wanted);
}

struct Drawn {
    int64_t token;
    bool ends;  // whether the filters dropped one of the candidates, and so all that would follow
};

// From what top-p and min-p leave of candidates that are in order; `total` of all weights.
static Drawn draw_filtered(const Candidate* candidates, int64_t count, double total, const Choice& choice) {
    double sum = 0;
    int64_t kept = 0;
    for (; kept < count; kept++) {
        const double probability = candidates[kept].weight / total;
        const double before = (sum + probability) - probability;
        const bool beyond = choice.top_p < 1 && before >= choice.top_p && kept > 0;
        if (beyond || probability < choice.min_p * (candidates[0].weight / total)) break;
        sum += probability;
    }
    const double wanted = choice.draw * sum;
    int64_t at = 0, token = candidates[0].id;
    for (sum = 0; at < kept; at++) {
        const double probability = candidates[at].weight / total;
        sum += probability;
        if (probability > 0) token = candidates[at].id;
        if (sum > wanted) break;
    }
    return {token, kept < count};
}

// Candidates are looked for in steps of the temperature below the largest: finer ones would look more often,
// coarser ones sort more that is dropped. At DEEPEST, all that are left.
constexpr int DEEPEST = 32;

static int64_t draw_nucleus(const Choice& choice, int64_t count, const Weigher& weigher,
                            Candidate* candidates) {
    const double total = choice.top_p < 1 ? add_weights(choice.logits, count, weigher, nullptr) : 1;
    const double most = first_of(weigher.largest);
    int64_t found = 0;
    double mass = 0;
    float below = 0;
    for (int depth = 2;; depth++) {
        const double lowest = most - depth * choice.temperature;
        const float least = depth < DEEPEST ? static_cast<float>(lowest) : -INFINITE;
        const int64_t more =
            gather(choice.logits, count, least, below, depth == 2, weigher, candidates + found);
        for (int64_t i = found; i < found + more; i++) mass += candidates[i].weight;
        found += more;
        below = least;
        // All others are less likely than min-p allows, or top-p is reached, or there are no others.
        const bool ends = weigher.of(least) < choice.min_p || depth == DEEPEST;
        if (!ends && (choice.top_p == 1 || mass < choice.top_p * total)) continue;
        std::sort(candidates, candidates + found);
        const Drawn drawn = draw_filtered(candidates, found, total, choice);
        if (ends || drawn.ends) return drawn.token;
    }
}

struct Scratch {
    double* sums;
    float* tops;
    Candidate* candidates;

    static int64_t candidate_bytes(int64_t count) { return aligned(count * int64_t{sizeof(Candidate)}); }
    static int64_t bytes(int64_t count) {
        return aligned((count / SECTION + 1) * 8) + aligned((count / BLOCK + 1) * 4) + candidate_bytes(count);
    }
    Scratch(char* own, int64_t count) {
        sums = reinterpret_cast<double*>(own);
        tops = reinterpret_cast<float*>(own + aligned((count / SECTION + 1) * 8));
        candidates = reinterpret_cast<Candidate*>(own + bytes(count) - candidate_bytes(count));
    }
};

static void report(Choice& choice, int64_t count, const Largest& most, const Scratch& scratch) {
    const Weigher weigher(most, 1);
    choice.largest = most.value;
    choice.total = add_weights(choice.raw, count, weigher, nullptr);
    const int64_t wanted = at_most(choice.reported, count);
    if (wanted == 0) return;
    most_likely(choice.raw, count, wanted, weigher, scratch.tops, scratch.candidates);
    for (int64_t i = 0; i < wanted; i++) {
        choice.ids[i] = scratch.candidates[i].id;
        choice.values[i] = scratch.candidates[i].logit;
    }
}

static void choose(Choice& choice, int64_t count, char* own) {
    const Scratch scratch(own, count);
    const Largest raw = find_largest(choice.raw, count);
    choice.is_finite = !raw.has_nan && raw.value <= FLT_MAX && raw.value >= -FLT_MAX;
    if (choice.reported >= 0 && choice.is_finite) report(choice, count, raw, scratch);
    const Largest most = choice.logits == choice.raw ? raw : find_largest(choice.logits, count);
    choice.token = most.token;
    // Of nothing but minus infinity there is nothing to weigh.
    if (choice.temperature == 0 || most.value < -FLT_MAX) return;
    const Weigher weigher(most, choice.temperature);
    if (choice.top_k > 0) {
        const int64_t wanted = at_most(choice.top_k, count);
        const int64_t kept =
            most_likely(choice.logits, count, wanted, weigher, scratch.tops, scratch.candidates);
        double total = 0;
        for (int64_t i = 0; i < kept; i++) total += scratch.candidates[i].weight;
        choice.token = draw_filtered(scratch.candidates, kept, total, choice).token;
    } else if (choice.top_p < 1 || choice.min_p > 0) {
        choice.token = draw_nucleus(choice, count, weigher, scratch.candidates);
    } else {
        choice.token = draw_from_all(choice.logits, count, weigher, choice.draw, scratch.sums);
    }
}

struct Choices {
    Choice* choices;
    int64_t count;
    int64_t vocabulary;
};

// Whether waking other threads pays, which may take as long as four rows do whose logits are all weighed.
static bool is_long(const Choice* choices, int64_t count) {
    int64_t weighed = 0;
    for (int64_t row = 0; row < count; row++) {
        const Choice& choice = choices[row];
        weighed += choice.reported >= 0 || (choice.temperature > 0 && choice.top_k == 0);
    }
    return weighed > 4;
}

static void choose_all(const void* job, Team& team) {
    const Choices& all = *static_cast<const Choices*>(job);
    team.share(all.count, [&](int64_t row) { choose(all.choices[row], all.vocabulary, team.own); });
}

}  // namespace sampling
