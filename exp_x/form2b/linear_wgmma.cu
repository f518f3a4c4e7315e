// y[row, output] = sum over inputs of x[row, input] * w[output, input], by products of warpgroups (chips of capability
// 9.0): a packed weight, made fp16 numbers and rounded once, x as order_input.cu leaves it, sums in fp32.
//
// A block multiplies BLOCK_OUTPUTS outputs by BLOCK_ROWS rows, slab by slab of 128 inputs. Codes and x of a slab come
// by copies into one of STAGES places in shared memory, some slabs ahead; a warp makes the codes of its outputs
// fragments of A, word by word, while the products of the word before are under way.
//
// Blocks of the result, the parts of some of them, and how these meet: as linear_mma.cu has it.
//
// Definitions: those of packed_weight.cuh, matrix_weight.cuh and epilogue.cuh; BLOCK_ROWS, 16, 32, 64 or 128;
// WARPGROUPS; PRODUCTS, of 64 outputs, that each of them has side by side; STAGES.
#include "arrivals.cuh"
#include "epilogue.cuh"
#include "matrix_weight.cuh"
#include "warpgroup.cuh"

static_assert(IS_SCALED && MATRIX_TYPE == FP16, "one set of sums, of fp16 numbers");

constexpr int WARPS = 4 * WARPGROUPS, THREADS = 32 * WARPS;
constexpr int ROW_BLOCKS = BLOCK_ROWS / 8;
// A warp has two tiles of each product; with GATE half of them are gates of the other half.
constexpr int WARP_TILES = 2 * PRODUCTS, WARP_OUTPUTS = WARP_TILES * TILE_OUTPUTS;
constexpr int BATCH_WORDS = 2;
constexpr int SEGMENTS = GATE ? 2 : 1, WARP_SEGMENT = WARP_TILES / SEGMENTS;
constexpr int SEGMENT_TILES = WARPS * WARP_TILES / SEGMENTS;  // of a block
constexpr int STAGE_CODES = SEGMENTS * SEGMENT_TILES * TILE_BYTES;
constexpr int STAGE_BYTES = STAGE_CODES + ROW_BLOCKS * B_STRIDE;
// At the end a warp's sums of so many rows lie in shared memory; the stride keeps what is written at once in different
// banks.
constexpr int ROWS_AT_ONCE = BLOCK_ROWS < 32 ? BLOCK_ROWS : 32, SUM_STRIDE = WARP_OUTPUTS + 4;

using Totals = float[PRODUCTS][ROW_BLOCKS][4];
using Fragments = uint32_t[PRODUCTS][4];

// A block of threads' share of the product.
struct Share {
    int row_block, output_block;
    int part = 0, parts = 1, shared_block = 0;
    int first_slab, slabs;

    PASCALINE_INLINE Share(int rows, int all_slabs, int whole_blocks, int all_parts) {
        int block = blockIdx.x;
        if (block >= whole_blocks) {
            parts = all_parts;
            part = (block - whole_blocks) % parts;
            shared_block = (block - whole_blocks) / parts;
            block = whole_blocks + shared_block;
        }
        const int row_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
        row_block = block % row_blocks;
        output_block = block / row_blocks;
        first_slab = int(int64_t(all_slabs) * part / parts);
        slabs = int(int64_t(all_slabs) * (part + 1) / parts) - first_slab;
    }
};

// The slabs' codes and inputs on their way.
struct Stages {
    uint8_t* shared;
    CopyBarrier *filled, *read;
    const uint8_t* codes;  // of the block's first tile of the first slab
    size_t slab_codes, segment_codes;
    int codes_bytes[SEGMENTS];  // of a slab that there are
    const uint8_t* x;
    size_t slab_x;
    int x_bytes;

    PASCALINE_INLINE uint8_t* place(int turn) const { return shared + turn % STAGES * STAGE_BYTES; }

    // One thread's: begins to load a slab.
    PASCALINE_INLINE void load(int turn) const {
        load_codes(turn);
        load_inputs(turn);
    }

    // First of the two.
    PASCALINE_INLINE void load_codes(int turn) const {
        CopyBarrier& barrier = filled[turn % STAGES];
        uint8_t* const stage = place(turn);
        int nbytes = x_bytes;
#pragma unroll
        for (int segment = 0; segment < SEGMENTS; segment++) nbytes += codes_bytes[segment];
        barrier.expect(nbytes);
        const uint8_t* const slab = codes + turn * slab_codes;
#pragma unroll
        for (int segment = 0; segment < SEGMENTS; segment++) {
            if (codes_bytes[segment] == 0) continue;
            barrier.copy(stage + segment * SEGMENT_TILES * TILE_BYTES, slab + segment * segment_codes,
                         codes_bytes[segment]);
        }
    }

    PASCALINE_INLINE void load_inputs(int turn) const {
        filled[turn % STAGES].copy(place(turn) + STAGE_CODES, x + turn * slab_x, x_bytes);
    }

    PASCALINE_INLINE void wait_for(int turn) const { filled[turn % STAGES].wait_all(turn / STAGES & 1); }
    // A thread of each warp says that it has read a slab.
    PASCALINE_INLINE void release(int turn) const { read[turn % STAGES].arrive(); }
    PASCALINE_INLINE void wait_until_read(int turn) const { read[turn % STAGES].wait_one(turn / STAGES & 1); }
};

PASCALINE_INLINE void make_fragments(Fragments& fragments, const QuarterCodes (&codes)[WARP_TILES],
                                     const FragmentFactors (&factors)[WARP_TILES], int word) {
#pragma unroll
    for (int tile = 0; tile < WARP_TILES; tile++) {
        uint32_t pair[2];
        fragment_of(codes[tile], factors[tile], word, pair);
        fragments[tile / 2][tile % 2] = pair[0];
        fragments[tile / 2][tile % 2 + 2] = pair[1];
    }
}

PASCALINE_INLINE void multiply(Totals& totals, const Fragments& fragments, const uint8_t* inputs) {
    const SharedOperand b = shared_operand(inputs);
#pragma unroll
    for (int product = 0; product < PRODUCTS; product++) {
        multiply_64x16<BLOCK_ROWS>(totals[product], fragments[product], b);
    }
}

// Brings the sums of a block's parts together: true in the block of threads that came last, which then has them whole.
PASCALINE_INLINE bool gather_parts(Totals& totals, const Share& share, float* partial_sums, uint32_t* arrivals) {
    __shared__ uint32_t arrived;
    constexpr int fours = PRODUCTS * ROW_BLOCKS;
    float4* const parts = reinterpret_cast<float4*>(partial_sums) +
                          size_t(share.shared_block) * share.parts * fours * THREADS + threadIdx.x;
    float4* const own = parts + size_t(share.part) * fours * THREADS;
#pragma unroll
    for (int i = 0; i < fours; i++) {
        const float(&four)[4] = totals[i / ROW_BLOCKS][i % ROW_BLOCKS];
        own[i * THREADS] = make_float4(four[0], four[1], four[2], four[3]);
    }
    if (!comes_last(arrivals + share.shared_block, share.parts, arrived)) return false;
#pragma unroll
    for (int i = 0; i < fours; i++) {
        float(&four)[4] = totals[i / ROW_BLOCKS][i % ROW_BLOCKS];
        four[0] = four[1] = four[2] = four[3] = 0.0f;
#pragma unroll 4
        for (int part = 0; part < share.parts; part++) {
            const float4 addend = load_fresh(parts + (size_t(part) * fours + i) * THREADS);
            four[0] += addend.x;
            four[1] += addend.y;
            four[2] += addend.z;
            four[3] += addend.w;
        }
    }
    return true;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
linear_wgmma(const uint8_t* codes, const uint8_t* scales, const uint8_t* integers, const uint8_t* integers_high,
             const uint8_t* zeros, const uint8_t* ordered, const void* bias, const void* residual, void* y,
             float* partial_sums, uint32_t* arrivals, int rows, int outputs, int columns, int whole_blocks,
             int parts) {
    DYNAMIC_SHARED(uint4, shared);
    __shared__ CopyBarrier filled[STAGES], read[STAGES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Share share(rows, (columns + SLAB - 1) / SLAB, whole_blocks, parts);
    const int tiles = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const PackedWeight weight = {codes, scales, integers, integers_high, zeros, tiles * TILE_OUTPUTS};
    const int first_tile = share.output_block * SEGMENT_TILES, all_row_blocks = (rows + 7) / 8;
    const int first_row_block = share.row_block * ROW_BLOCKS;
    const int half_tiles = tiles / SEGMENTS;  // of a segment in the weight

    Stages stages;
    stages.shared = reinterpret_cast<uint8_t*>(shared);
    stages.filled = filled;
    stages.read = read;
    stages.slab_codes = size_t(tiles) * TILE_BYTES;
    stages.segment_codes = size_t(half_tiles) * TILE_BYTES;
    stages.codes = codes + share.first_slab * stages.slab_codes + size_t(first_tile) * TILE_BYTES;
#pragma unroll
    for (int segment = 0; segment < SEGMENTS; segment++) {
        stages.codes_bytes[segment] = min(SEGMENT_TILES, half_tiles - first_tile) * TILE_BYTES;
    }
    stages.slab_x = size_t(all_row_blocks) * B_STRIDE;
    stages.x = ordered + share.first_slab * stages.slab_x + size_t(first_row_block) * B_STRIDE;
    stages.x_bytes = min(ROW_BLOCKS, all_row_blocks - first_row_block) * B_STRIDE;

    if (threadIdx.x == 0) {
#pragma unroll
        for (int stage = 0; stage < STAGES; stage++) {
            filled[stage].start(1);
            read[stage].start(WARPS);
        }
        publish_barriers();
    }
    __syncthreads();
    const int first_turns = min(STAGES, share.slabs);
    if (threadIdx.x == 0) {
        for (int turn = 0; turn < first_turns; turn++) stages.load_codes(turn);
    }

    // The warp's tiles: of a block's codes, and of the weight, where those beyond its end are the last again.
    int own_tiles[WARP_TILES], weight_tiles[WARP_TILES];
#pragma unroll
    for (int tile = 0; tile < WARP_TILES; tile++) {
        const int segment = tile / WARP_SEGMENT, within = warp * WARP_SEGMENT + tile % WARP_SEGMENT;
        own_tiles[tile] = segment * SEGMENT_TILES + within;
        weight_tiles[tile] = segment * half_tiles + min(first_tile + within, half_tiles - 1);
    }
    const auto load_numbers_of = [&](QuarterNumbers(&numbers)[WARP_TILES], int slab) {
#pragma unroll
        for (int tile = 0; tile < WARP_TILES; tile++) {
            numbers[tile] =
                load_numbers(weight, slab, weight_tiles[tile] * TILE_OUTPUTS + lane / 4, lane % 4);
        }
    };

    Totals totals = {};
    Fragments fragments[2][BATCH_WORDS];
    QuarterNumbers numbers[WARP_TILES];
    load_numbers_of(numbers, share.first_slab);
    wait_for_launches_before();
    let_next_launch_begin();
    if (threadIdx.x == 0) {
        for (int turn = 0; turn < first_turns; turn++) stages.load_inputs(turn);
    }
    for (int turn = 0; turn < share.slabs; turn++) {
        stages.wait_for(turn);
        const uint8_t* const stage = stages.place(turn);
        FragmentFactors factors[WARP_TILES];
        QuarterCodes own_codes[WARP_TILES];
#pragma unroll
        for (int tile = 0; tile < WARP_TILES; tile++) {
            own_codes[tile] = load_codes<FromShared>(stage + own_tiles[tile] * TILE_BYTES + lane * LANE_BYTES, lane);
            factors[tile] = fragment_factors(numbers[tile]);
        }
#pragma unroll
        for (int batch = 0; batch < WORDS / BATCH_WORDS; batch++) {
            Fragments(&own)[BATCH_WORDS] = fragments[batch % 2];
#pragma unroll
            for (int word = 0; word < BATCH_WORDS; word++) {
                make_fragments(own[word], own_codes, factors, batch * BATCH_WORDS + word);
            }
            begin_products();
#pragma unroll
            for (int word = 0; word < BATCH_WORDS; word++) {
                multiply(totals, own[word], stage + STAGE_CODES + (batch * BATCH_WORDS + word) * 2 * B_BLOCK);
            }
            close_products();
            // The batch before is multiplied, and its fragments are free.
            wait_for_products<1>();
            // Each of what follows is a branch, too: past it ptxas sees that no fragment is made among the
            // instructions of a batch, and does not have them run one by one.
            if (batch == 0) {
                if (turn + 1 < share.slabs) load_numbers_of(numbers, share.first_slab + turn + 1);
                if (turn > 0 && lane == 0) stages.release(turn - 1);
            }
            // Warps take turns at loading: it would make one of them late at every slab.
            if (batch == 1 && turn > 1 && turn - 2 + STAGES < share.slabs && threadIdx.x == turn % WARPS * 32) {
                // All warps have read that slab, but for what they are late.
                stages.wait_until_read(turn - 2);
                stages.load(turn - 2 + STAGES);
            }
        }
    }
    wait_for_products<0>();
    if (share.parts > 1 && !gather_parts(totals, share, partial_sums, arrivals)) return;

    // Rows' sums, in place of the stages.
    __syncthreads();
    const Epilogue epilogue = {bias, residual, y, outputs};
    float* const sums = reinterpret_cast<float*>(shared) + warp * ROWS_AT_ONCE * SUM_STRIDE;
    const int first_row = share.row_block * BLOCK_ROWS;
#pragma unroll
    for (int first_block = 0; first_block < ROW_BLOCKS; first_block += ROWS_AT_ONCE / 8) {
        sync_warp();
#pragma unroll
        for (int block = 0; block < ROWS_AT_ONCE / 8; block++) {
#pragma unroll
            for (int i = 0; i < 4 * PRODUCTS; i++) {
                const int row = 8 * block + 2 * (lane % 4) + i % 2;
                sums[row * SUM_STRIDE + i / 2 * TILE_OUTPUTS + lane / 4] =
                    totals[i / 4][first_block + block][i % 4];
            }
        }
        sync_warp();
        const int begin = first_row + 8 * first_block, count = min(ROWS_AT_ONCE, rows - begin);
        constexpr int columns_at_once = WARP_SEGMENT * TILE_OUTPUTS, rows_at_once = 32 / columns_at_once;
        const int column = lane % columns_at_once;
        const int output = (first_tile + WARP_SEGMENT * warp) * TILE_OUTPUTS + column;
        for (int row = lane / columns_at_once; row < count; row += rows_at_once) {
            const float* const own = sums + row * SUM_STRIDE + column;
            if constexpr (GATE) {
                epilogue.store_gated(begin + row, output, own[0], own[columns_at_once]);
            } else {
                epilogue.store(begin + row, output, own[0]);
            }
        }
    }
}
