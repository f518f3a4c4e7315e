// The C interface of the library: `native.py` mirrors these structures field by field.

#pragma once

#include <cstdint>

enum NumberForm : int32_t { FP32 = 0, FP16 = 1, BF16 = 2, EXPONENT = 3, INT32 = 4, INT64 = 5 };

// A plane of bits; see weights/codes.py. `stride` is the bytes from one row to the next.
struct PlaneView {
    const uint8_t* data;
    int64_t stride;
    int32_t bits;
    int32_t run;
};

// Small integers in one or two planes; without any, `count` is 0.
struct CodesView {
    PlaneView planes[2];
    int32_t count;
    int32_t is_signed;
};

// A row of numbers a weight row; `stride` is in elements.
struct NumbersView {
    const void* data;
    int64_t stride;
    int32_t form;
    int32_t unused;
};

// A packed weight as checkpoints have it, row by row: see weights/packed.py. What tiles are made from.
struct PackedView {
    int64_t rows;
    int64_t columns;
    NumbersView scales;
    NumbersView offsets;
    CodesView codes;
    CodesView group_scales;
    CodesView group_offsets;
    CodesView zeros;
    int64_t group_size;
    int64_t super_size;
};

// What a linear multiplies by: tiles of 16 rows, see weights/tiled.py, or dense where `codes.count` is 0; its
// values are `scales` then. `stride` is of a row of a dense weight, and of a tile otherwise.
struct WeightView {
    int64_t rows;
    int64_t columns;  // of x
    NumbersView scales;
    NumbersView offsets;
    CodesView codes;
    CodesView group_scales;
    CodesView group_offsets;
    CodesView zeros;
    const int8_t* table;
    const int32_t* inputs;  // which element of x each stored column multiplies, -1 for none; null: that of its number
    int64_t groups;         // of a row
    int64_t supers;
    int64_t group_size;     // stored columns
    int32_t zero;
    int32_t group_scale_zero;
};

// A tensor of up to four axes; sizes and strides are in elements. Where an operand is missing, or is a weight,
// `data` is null.
struct TensorView {
    void* data;
    int64_t sizes[4];
    int64_t strides[4];
    int32_t form;
    int32_t axes;
};

struct Kernel;  // kernel.h

constexpr int OPERANDS = 8;
constexpr int NUMBERS = 4;

enum Domain : int32_t { TOKENS = 0, LOGIT_ROWS = 1 };

// One launch of a step. Operands are in the op's order, the output last.
struct Launch {
    const Kernel* kernel;
    const WeightView* weight;  // of the one operand that is a matrix, packed or dense
    // A launch by rows, whose output is tensors[0] of this one and is computed on the way, instead of read.
    const Launch* before;
    int32_t domain;    // what the output's first axis counts
    int32_t barrier;   // whether all threads are waited for before this launch
    int64_t per_item;  // rows of the output for each of what `domain` counts
    int32_t count;     // tensors in use
    int32_t output;    // index of the output
    TensorView tensors[OPERANDS];
    TensorView residual;  // added to a linear's output, where there is one
    double numbers[NUMBERS];  // the op's parameters, in the kernel's order
};

// What changes from step to step.
struct Step {
    int64_t tokens;
    int64_t sequences;
    int64_t logit_rows;
};

constexpr int REPORTED = 20;

// How a token is chosen from a row of logits; what is found out comes last.
struct Choice {
    const float* raw;     // as the model gives them
    const float* logits;  // those to choose from, which penalties may have changed
    double temperature;   // 0 for the most likely
    double top_p;         // 1 for none
    double min_p;         // 0 for none
    double draw;          // from 0 to less than 1
    int64_t top_k;        // 0 for none
    int32_t reported;     // most likely tokens to report with the raw distribution; -1 for neither
    int32_t is_finite;    // whether the largest raw logit is, and none is NaN
    int64_t token;
    double largest;  // of the raw logits; this and the rest only where it is finite and `reported` is not -1
    double total;    // of exp(raw - largest)
    int32_t ids[REPORTED];
    float values[REPORTED];  // raw logits of `ids`
};
