// y = x W^T for many rows in fp32: a tiled product of fused multiply-adds, for chips without anything faster.
//
// A block multiplies 16 inputs (half a quarter of a slab) at a time from shared memory, where the next have just
// been stored, while those after them are on their way to registers as they lie in memory: packed weights packed.
// Both operands become fp32 on their way to shared memory, where all rows' values of an input lie side by side. A
// thread makes THREAD_ROWS rows x 8 outputs.
//
// Definitions: IS_DENSE, then WEIGHT_TYPE of W (outputs, columns), else those of packed_weight.cuh;
// INPUT_TYPE; HAS_PERMUTATION; IS_VECTOR, 1 if rows of x, and of W, are whole pieces of 8 numbers; IS_WHOLE, 1 if
// they are whole quarters; THREAD_ROWS, 4 or 8; WARPS_M; MIN_BLOCKS a multiprocessor; those of epilogue.cuh.
//
// Quarters are split over gridDim.z; the last block of a tile to arrive adds the parts up in their order.
#include "epilogue.cuh"
#include "number_pieces.cuh"
#include "partial_sums.cuh"
#if !IS_DENSE
#include "packed_pair.cuh"
#endif

constexpr int STEP = 16;            // inputs: half a quarter
constexpr int PIECES = STEP / PIECE;  // of a row in a step, each a thread's
constexpr int WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
constexpr int THREAD_OUTPUTS = 8;
constexpr int WARP_ROWS = 8 * THREAD_ROWS, WARP_OUTPUTS = 4 * THREAD_OUTPUTS;
constexpr int BLOCK_ROWS = WARP_ROWS * WARPS_M, BLOCK_OUTPUTS = WARP_OUTPUTS * WARPS_N;

// A thread loads pieces of rows of x and of W, or of what is packed of them: always the same piece of a step, of rows
// THREADS / PIECES apart. Those of a warp are 32 neighbours, whose stores fall on all banks.
PASCALINE_INLINE int own_piece() { return threadIdx.x / (THREADS / PIECES); }
PASCALINE_INLINE int own_local(int part) { return threadIdx.x % (THREADS / PIECES) + part * (THREADS / PIECES); }

// Output `local` of the block: as gridded, or 16 gates and then the 16 ups of the same index.
PASCALINE_INLINE int output_of(int local, int outputs) {
    if constexpr (GATE == 0) return blockIdx.y * BLOCK_OUTPUTS + local;
    const int within = local & 31, first = blockIdx.y * (BLOCK_OUTPUTS / 2) + (local >> 5) * 16;
    return first + (within & 15) + (within >> 4) * (outputs / 2);
}

struct Shared {
    alignas(16) float inputs[STEP][BLOCK_ROWS];
    alignas(16) float weights[STEP][BLOCK_OUTPUTS];
};

// This thread's share of LOCALS rows of a matrix in a step.
template <int type, int LOCALS>
struct RowLoader {
    using Stored = typename Element<type>::Stored;
    static constexpr int COUNT = (LOCALS * PIECES + THREADS - 1) / THREADS;
    static constexpr bool IS_FULL = LOCALS * PIECES % THREADS == 0;
    const Stored* rows[COUNT];
    Piece<type, true> pieces[COUNT];

    PASCALINE_INLINE void load(int step, int columns) {
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            pieces[part].load(rows[part], step * STEP + own_piece() * PIECE, IS_WHOLE ? 0x7FFFFFFF : columns);
        }
    }

    PASCALINE_INLINE void gather(int step, const int32_t* indices) {
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            pieces[part].gather(rows[part], indices + step * STEP + own_piece() * PIECE);
        }
    }

    PASCALINE_INLINE void store(float (&shared)[STEP][LOCALS]) const {
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            if (!IS_FULL && own_local(part) >= LOCALS) return;
            float* place = &shared[own_piece() * PIECE][own_local(part)];
#pragma unroll
            for (int i = 0; i < PIECE; i++) place[i * LOCALS] = pieces[part].number(i);
        }
    }
};

#if IS_DENSE

struct WeightLoader : RowLoader<WEIGHT_TYPE, BLOCK_OUTPUTS> {
    int columns;

    PASCALINE_INLINE void set(const uint8_t* weight, int outputs, int row_columns) {
        columns = row_columns;
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            const int output = min(output_of(own_local(part), outputs), outputs - 1);
            rows[part] = reinterpret_cast<const Stored*>(weight) + size_t(output) * columns;
        }
    }

    PASCALINE_INLINE void load(int step) { RowLoader::load(step, columns); }
    PASCALINE_INLINE void store(Shared& shared, int) const { RowLoader::store(shared.weights); }
};

#else

// Two words of either half of a quarter of an output are a thread's; what both are in is kept from half to
// half.
struct WeightLoader {
    static constexpr int COUNT = BLOCK_OUTPUTS * PIECES / THREADS;
    static_assert(COUNT * THREADS == BLOCK_OUTPUTS * PIECES, "every thread has as many pieces");
    // Signed bytes get a bias of 128.
    static constexpr uint32_t BIAS = BITS == 8 || HAS_TABLE ? 128 : 0;

    PackedWeight weight;
    uint32_t tiles[COUNT];  // that the thread's outputs are of
    PairCodes codes[COUNT];
    QuarterNumbers numbers[COUNT];

    PASCALINE_INLINE void set(const PackedWeight& packed, int outputs) {
        weight = packed;
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            tiles[part] = min(output_of(own_local(part), outputs), packed.padded_outputs - 1) / TILE_OUTPUTS;
        }
    }

    // What is of the step's quarter; nothing where the step before was of the same.
    PASCALINE_INLINE void load(int step) {
        if (step & 1) return;
        const int slab = step >> 3, quarter = (step >> 1) & 3;
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            // Gates and ups begin with a tile, and so do parts: a thread's outputs lie alike in theirs.
            const uint32_t output = threadIdx.x % TILE_OUTPUTS;
            codes[part] = load_pair_codes(weight, slab, tiles[part], output * 4 + quarter, own_piece());
            numbers[part] = load_numbers(weight, slab, tiles[part] * TILE_OUTPUTS + output, quarter);
        }
    }

    PASCALINE_INLINE void store(Shared& shared, int step) const {
        const int piece = own_piece();
        const int half = step & 1;
#pragma unroll
        for (int part = 0; part < COUNT; part++) {
            // What is known again is not kept: registers are all taken.
            QuarterNumbers known = numbers[part];
            known.integers_shift = 4 * ((step >> 3) & 1);
            known.zero_shift = 0;
            if (ZERO_BITS == 4 && (own_local(part) & 1)) known.zero >>= 4;
            const QuarterFactors factors = factors_of(known);
            const float scale = half ? factors.scale[HALVES - 1] : factors.scale[0];
            const float offset = half ? factors.offset[HALVES - 1] : factors.offset[0];
            // 2^23 plus a byte is that byte in the lowest bits.
            const float zero = 8388608.0f + float(factors.zero + int32_t(BIAS));
            float* place = &shared.weights[piece * PIECE][own_local(part)];
#pragma unroll
            for (int word = 0; word < 2; word++) {
                const uint32_t four = pair_word(codes[part], half, piece, word) ^ (BIAS * 0x01010101u);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float code = bits_to_float(permute_bytes(four, 0x4B000000u, 0x7440 + i)) - zero;
                    const float value = HAS_OFFSETS ? fmaf(scale, code, -offset) : scale * code;
                    place[(4 * word + i) * BLOCK_OUTPUTS] = value;
                }
            }
        }
    }
};

#endif

// The thread's first row, and output: it has 4 from there on, and 4 more 32 rows, and 16 outputs, further on.
PASCALINE_INLINE int first_row() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    // Lanes' bits 1, 3 and 4: a wide read goes half a warp at a time if each lane shares its address with the
    // lane one or two away.
    return warp / WARPS_N * WARP_ROWS + (((lane >> 1) & 1) | ((lane >> 2) & 6)) * 4;
}
PASCALINE_INLINE int first_output() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    return warp % WARPS_N * WARP_OUTPUTS + ((lane & 1) | ((lane >> 1) & 2)) * 4;
}

PASCALINE_INLINE void put_four(float* target, const float* source) {
    const float4 four = *reinterpret_cast<const float4*>(source);
    target[0] = four.x;
    target[1] = four.y;
    target[2] = four.z;
    target[3] = four.w;
}

PASCALINE_INLINE void multiply(const Shared& shared, float (&totals)[THREAD_ROWS][THREAD_OUTPUTS]) {
#pragma unroll
    for (int k = 0; k < STEP; k++) {
        float rows[THREAD_ROWS], columns[THREAD_OUTPUTS];
#pragma unroll
        for (int part = 0; part < THREAD_ROWS / 4; part++) {
            put_four(rows + 4 * part, &shared.inputs[k][first_row() + 32 * part]);
        }
#pragma unroll
        for (int part = 0; part < 2; part++) {
            put_four(columns + 4 * part, &shared.weights[k][first_output() + 16 * part]);
        }
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int step = 0; step < THREAD_OUTPUTS; step++) {
                // To and fro: each product shares an operand with the one before, which chips up to 6.x then
                // need not read from its register bank again.
                const int j = i % 2 ? THREAD_OUTPUTS - 1 - step : step;
                totals[i][j] = fmaf(rows[i], columns[j], totals[i][j]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
linear_simt(const void* x, const int32_t* inputs, const uint8_t* codes, const uint8_t* scales,
            const uint8_t* integers, const uint8_t* integers_high, const uint8_t* zeros,
            const void* bias, const void* residual, void* y, float* partials, uint32_t* arrivals,
            int rows, int outputs, int columns) {
    __shared__ Shared shared[2];

    using InputLoader = RowLoader<INPUT_TYPE, BLOCK_ROWS>;
    InputLoader input_loader;
#pragma unroll
    for (int part = 0; part < InputLoader::COUNT; part++) {
        const int row = min(int(blockIdx.x) * BLOCK_ROWS + own_local(part), rows - 1);
        input_loader.rows[part] = static_cast<const InputLoader::Stored*>(x) + size_t(row) * columns;
    }
    WeightLoader weight_loader;
#if IS_DENSE
    weight_loader.set(codes, outputs, columns);
#else
    const int padded_outputs = (outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS;
    weight_loader.set({codes, scales, integers, integers_high, zeros, padded_outputs}, outputs);
#endif
    auto load = [&](int step) {
        if constexpr (HAS_PERMUTATION) {
            input_loader.gather(step, inputs);
        } else {
            input_loader.load(step, columns);
        }
        weight_loader.load(step);
    };
    auto store = [&](int step, Shared& target) {
        input_loader.store(target.inputs);
        weight_loader.store(target, step);
    };

    const uint32_t quarters = (columns + 2 * STEP - 1) / (2 * STEP);
    const int first = 2 * int(quarters * blockIdx.z / gridDim.z);
    const int last = 2 * int(quarters * (blockIdx.z + 1) / gridDim.z);

    float totals[THREAD_ROWS][THREAD_OUTPUTS];
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < THREAD_OUTPUTS; j++) totals[i][j] = 0.0f;
    }
    load(first);
    store(first, shared[0]);
    load(first + 1);
    __syncthreads();
#pragma unroll 1
    for (int step = first; step < last; step++) {
        // What was loaded a step ago is there by now; loads of the next are under way before the products. The
        // last two steps load the last again, for nobody.
        store(step + 1, shared[(step + 1) & 1]);
        load(min(step + 2, last - 1));
        sync_warp();
        multiply(shared[step & 1], totals);
        __syncthreads();
    }

    if (gridDim.z > 1) {
        uint32_t& arrived = reinterpret_cast<uint32_t&>(shared[0].inputs[0][0]);
        if (!gather_parts<THREADS>(totals, partials, arrivals, arrived)) return;
    }

    const Epilogue epilogue = {bias, residual, y, outputs};
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = blockIdx.x * BLOCK_ROWS + first_row() + i % 4 + i / 4 * 32;
        if (row >= rows) break;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int output = output_of(first_output() + j, outputs);
            if constexpr (GATE == 0) {
                epilogue.store(row, output, totals[i][j]);
                epilogue.store(row, output + 16, totals[i][j + 4]);
            } else {
                epilogue.store_gated(row, output, totals[i][j], totals[i][j + 4]);
            }
        }
    }
}
