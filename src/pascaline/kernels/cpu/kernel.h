// A kernel: how the launches of one op are computed.

#pragma once

#include "abi.h"
#include "simd.h"
#include "team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Scratch memory in bytes: of all threads together, and of each.
struct Room {
    int64_t shared;
    int64_t own;
};

struct Kernel {
    // All threads of a team call it for each launch; the next launch's barrier is not its business.
    void (*run)(const Launch&, const Step&, Team&);
    Room (*room)(const Launch&, const Step&, int threads);
    // One row of the output, written to `out`; null where rows are not computed one by one.
    void (*row)(const Launch&, int64_t row, float* out);
};

INLINE int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
INLINE int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }
INLINE int64_t at_least(int64_t value, int64_t least) { return value > least ? value : least; }

// Rows of the output's first axis in this step.
INLINE int64_t rows_of(const Launch& launch, const Step& step) {
    return launch.per_item * (launch.domain == TOKENS ? step.tokens : step.logit_rows);
}

INLINE const TensorView& output_of(const Launch& launch) { return launch.tensors[launch.output]; }

// Row `row` of a tensor whose elements are T.
template <class T>
INLINE T* row_of(const TensorView& tensor, int64_t row) {
    return static_cast<T*>(tensor.data) + row * tensor.strides[0];
}

// Elements of a row of the output, all axes but the first together.
INLINE int64_t width_of(const TensorView& tensor) {
    int64_t width = 1;
    for (int axis = 1; axis < tensor.axes; axis++) width *= tensor.sizes[axis];
    return width;
}

static Room no_room(const Launch&, const Step&, int) { return {0, 0}; }

// `run` of a kernel that has `row`.
static void row_by_row(const Launch& launch, const Step& step, Team& team) {
    const int64_t rows = rows_of(launch, step);
    const TensorView& out = output_of(launch);
    // Four chunks a thread: whoever is held up leaves some to the others.
    const int64_t together = at_least(rows / (4 * team.count), 1);
    team.share((rows + together - 1) / together, [&](int64_t chunk) {
        const int64_t stop = at_most((chunk + 1) * together, rows);
        for (int64_t row = chunk * together; row < stop; row++)
            launch.kernel->row(launch, row, row_of<float>(out, row));
    });
}
