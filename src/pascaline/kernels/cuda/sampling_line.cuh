// What sampling is told of each row of logits; kernels/cuda/sampling.py has the same as numpy's types.
#pragma once
#include "block_scan.cuh"
#include "token_weight.cuh"

constexpr int ONLY_LOOKED_AT = 0, GREEDY = 1, FROM_ALL = 2, FILTERED = 3;  // Line.way
constexpr int MOST_REPORTED = 20;

// A row of logits of which something is wanted.
struct alignas(16) Line {
    uint64_t draw;           // of 2^64
    uint64_t top_p;          // of 2^64; 0: all
    SplitNumber reach;       // of min-p below the largest logit; infinite: all
    SplitNumber exponent;    // log2(e) / temperature; greedy: not read
    int32_t row;             // of the model's logits, and of all results
    int32_t shaped;          // row of the shaped logits, which are its logits then; -1: the model's
    int32_t top_k;           // 0: all
    int32_t way;             // how a token is chosen
    int32_t is_raw;          // says whether the model's logits are finite
    int32_t unused[3];
};

struct Choice {
    int32_t token;
    int32_t is_finite;  // of all of the model's logits; nothing else here means anything otherwise
    float logit;        // the token's, of the model
    float most;         // the largest of the model
};

// The logits of a line that are finite lie between these.
struct Range {
    float least, most;
};

// What the host has copied to the card, and no launch writes: read before those before are done.
PASCALINE_INLINE Line load_line(const Line* lines, int line) {
    union {
        uint4 words[sizeof(Line) / 16];
        Line line;
    } loaded;
#pragma unroll
    for (int i = 0; i < int(sizeof(Line) / 16); i++) {
        loaded.words[i] = load_once(reinterpret_cast<const uint4*>(lines + line) + i);
    }
    return loaded.line;
}

// The model's logits lie `stride` apart, shaped ones `vocabulary`.
PASCALINE_INLINE const float* logits_of(const Line& line, const float* logits, const float* shaped, int vocabulary,
                                        int stride) {
    return line.shaped < 0 ? logits + size_t(line.row) * stride : shaped + size_t(line.shaped) * vocabulary;
}
