// x (rows, columns) as a warpgroup's products read it from shared memory: blocks of 8 rows by slabs of 128 inputs,
// 2048 bytes each, the blocks of a slab one after another.
//
// Within a block word w of the four quarters of a slab is the 16 inputs of product w, whose two halves are 128 bytes
// each: a row's 8 numbers are pair 2 * half of the word of every quarter in turn (as packed_weight.cuh has words, and
// matrix_weight.cuh the other operand). Rows and inputs that are not there are zeros.
//
// A thread takes a word of a row's slab. Definitions: INPUT_TYPE; HAS_PERMUTATION: column c is input `inputs[c]`;
// IS_WHOLE: x has fp16 numbers in the weight's order, and whole words of them at multiples of 8 bytes.
#include "number_pairs.cuh"
#include "slab.cuh"

using InputElement = Element<INPUT_TYPE>;

// Small blocks: few rows are to reach all multiprocessors.
constexpr int THREADS = 64, BLOCK_ROWS = 8;

extern "C" __global__ void __launch_bounds__(THREADS)
order_input(const void* __restrict__ x, const int32_t* __restrict__ inputs, uint4* __restrict__ ordered, int rows,
            int columns, int row_blocks) {
    let_next_launch_begin();
    wait_for_launches_before();
    // Rows of a block follow one another in what is written.
    const int row_in_block = threadIdx.x % BLOCK_ROWS, word = threadIdx.x / BLOCK_ROWS;
    const int block = blockIdx.x;
    const int slab = block / row_blocks, row_block = block - slab * row_blocks;
    const int row = row_block * BLOCK_ROWS + row_in_block;
    const auto* own = static_cast<const InputElement::Stored*>(x) + size_t(row) * columns;
    const auto input_of = [&](int stored) {
        if (row >= rows || stored >= columns) return 0.0f;
        const int input = HAS_PERMUTATION ? load_constant(inputs + stored) : stored;
        return input < 0 ? 0.0f : InputElement::widen(load_handed_on(own + input));
    };
    uint32_t pairs[2][4];
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
        const int first = slab * SLAB + quarter * QUARTER + word * 4;
        if constexpr (IS_WHOLE) {
            const bool is_there = row < rows && first < columns;
            const uint2 four = is_there ? load_handed_on(reinterpret_cast<const uint2*>(own + first)) : make_uint2(0, 0);
            pairs[0][quarter] = four.x;
            pairs[1][quarter] = four.y;
        } else {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                pairs[half][quarter] = pair_of(input_of(first + 2 * half), input_of(first + 2 * half + 1));
            }
        }
    }
    uint4* const place = ordered + (size_t(block) * WORDS + word) * (2 * BLOCK_ROWS) + row_in_block;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        place[half * BLOCK_ROWS] = make_uint4(pairs[half][0], pairs[half][1], pairs[half][2], pairs[half][3]);
    }
}
