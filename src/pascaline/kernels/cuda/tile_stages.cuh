// What a block of linear_tile.cu has of its operands: in shared memory, and on the way there in registers.
//
// Definitions: those of linear_tile.cu.
#pragma once
#include "packed_weight.cuh"
#include "quantised_input.cuh"

constexpr int WARPS = WARPS_M * WARPS_N, THREADS = 32 * WARPS;
constexpr int BLOCK_ROWS = 32 * WARPS_M, BLOCK_OUTPUTS = 32 * WARPS_N;
constexpr int THREAD_ROWS = 8, THREAD_OUTPUTS = 4;

constexpr int WEIGHT_GROUP = HALVES == 2 ? 16 : INTEGERS != NO_INTEGERS ? 32 : SLAB / SCALES_PER_SLAB;
constexpr int GROUP = WEIGHT_GROUP < SCALE_GROUP ? WEIGHT_GROUP : SCALE_GROUP;
constexpr int GROUPS = SLAB / GROUP, WEIGHT_GROUPS = SLAB / WEIGHT_GROUP, INPUT_GROUPS = SLAB / SCALE_GROUP;

// A byte holds a code less its zero, unless the code takes all of it: then the zero goes to the offset.
constexpr bool IS_ZERO_APART = BITS == 8 && (ZERO != 0 || ZERO_BITS != 0);
constexpr bool HAS_TOTALS = HAS_OFFSETS || IS_ZERO_APART;
// Four bits about 8, in the upper half of a byte: sixteen times the code, its sign by flipping one bit.
constexpr bool IS_SHIFTED = BITS == 4 && !HAS_TABLE && ZERO == 8 && ZERO_BITS == 0;

constexpr int SLAB_WORDS = SLAB / 4, HALF_WORDS = SLAB_WORDS / 2, GROUP_WORDS = GROUP / 4;
constexpr int INPUT_LOADS = (BLOCK_ROWS * (HALF_WORDS / 4) + THREADS - 1) / THREADS;
constexpr int WEIGHT_LOADS = (BLOCK_OUTPUTS * 4 + THREADS - 1) / THREADS;
constexpr uint32_t START = 0x4B400000u;  // 1.5 * 2^23
constexpr float START_VALUE = 12582912.0f;

// Where a word of row or output 0 lies. A warp stores four pieces of each of eight rows at once: the 8 words
// of padding between pieces make that all banks.
PASCALINE_INLINE constexpr int input_place(int word) { return word * BLOCK_ROWS + word / 4 * 8; }
PASCALINE_INLINE constexpr int weight_place(int word) { return word * BLOCK_OUTPUTS + word / WORDS * 8; }

// The totals are an input's scale times the sum of its integers.
struct SharedSlab {
    alignas(16) uint32_t weights[weight_place(SLAB_WORDS)];
    alignas(16) float weight_scales[WEIGHT_GROUPS][BLOCK_OUTPUTS];
    alignas(16) float input_scales[INPUT_GROUPS][BLOCK_ROWS];
    alignas(16) float weight_offsets[HAS_TOTALS ? WEIGHT_GROUPS : 1][HAS_TOTALS ? BLOCK_OUTPUTS : 4];
    alignas(16) float input_totals[HAS_TOTALS ? GROUPS : 1][HAS_TOTALS ? BLOCK_ROWS : 4];
};

struct alignas(16) SharedInputs {
    uint32_t words[input_place(HALF_WORDS)];
};

// Output `local` of the block: as gridded, or with gate and up of the same index in one thread.
PASCALINE_INLINE int output_of(int local, int outputs) {
    if constexpr (GATE == 0) return blockIdx.y * BLOCK_OUTPUTS + local;
    const int within = local & 31, first = blockIdx.y * (BLOCK_OUTPUTS / 2) + (local >> 5) * 16;
    return first + (within & 15) + (within >> 4) * (outputs / 2);
}

// Where it stands: threads read 4 outputs in one piece, of which two are gates and two are ups.
PASCALINE_INLINE int output_place(int local) {
    if constexpr (GATE == 0) return local;
    const int within = local & 31;
    return (local & ~31) + ((within & 15) >> 1) * 4 + (within >> 4) * 2 + (within & 1);
}

// The block's rows of half a slab of one plane: this thread's 16 inputs of INPUT_LOADS rows.
struct InputStage {
    const uint4* place;       // of its first row, in the plane that comes next
    int further[INPUT_LOADS];  // from there to the row of each part
    uint4 parts[INPUT_LOADS];

    static constexpr int PIECES = HALF_WORDS / 4;
    static constexpr bool IS_FULL = BLOCK_ROWS * PIECES % THREADS == 0;

    PASCALINE_INLINE InputStage(const QuantisedInput& input, int slab) {
        const int first = row_of(0, input.rows);
        place = reinterpret_cast<const uint4*>(input.codes) +
                (size_t(slab) * input.rows + first) * (PLANES * 2 * PIECES) + threadIdx.x % PIECES;
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            further[part] = (row_of(part, input.rows) - first) * (PLANES * 2 * PIECES);
        }
    }

    template <int half>
    PASCALINE_INLINE void load() {
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            if (!IS_FULL && local(part) >= BLOCK_ROWS) return;
            parts[part] = load_constant(place + further[part] + half * PIECES);
        }
    }

    PASCALINE_INLINE void store(SharedInputs& shared) const {
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            if (!IS_FULL && local(part) >= BLOCK_ROWS) return;
            uint32_t* words = shared.words + input_place(4 * int(threadIdx.x % PIECES)) + local(part);
            words[0] = parts[part].x;
            words[BLOCK_ROWS] = parts[part].y;
            words[2 * BLOCK_ROWS] = parts[part].z;
            words[3 * BLOCK_ROWS] = parts[part].w;
        }
    }

  private:
    static PASCALINE_INLINE int local(int part) { return (int(threadIdx.x) + part * THREADS) / PIECES; }
    static PASCALINE_INLINE int row_of(int part, int rows) {
        return min(int(blockIdx.x) * BLOCK_ROWS + local(part), rows - 1);
    }
};

// The block's weights of a slab: this thread's quarter of WEIGHT_LOADS outputs, packed, with its numbers.
struct WeightStage {
    const PackedWeight weight;
    const int outputs;
    const uint8_t* place;  // of its first tile's codes
    QuarterCodes codes[WEIGHT_LOADS];
    QuarterNumbers numbers[WEIGHT_LOADS];

    static constexpr bool IS_FULL = BLOCK_OUTPUTS * 4 % THREADS == 0;

    PASCALINE_INLINE WeightStage(const PackedWeight& packed, int all_outputs, int slab)
        : weight(packed), outputs(all_outputs) {
        place = codes_place(weight, slab, tile_of(0), lane());
    }

    PASCALINE_INLINE void load(int slab) {
#pragma unroll
        for (int part = 0; part < WEIGHT_LOADS; part++) {
            if (!IS_FULL && local(part) >= BLOCK_OUTPUTS) return;
            codes[part] = load_codes(place + (tile_of(part) - tile_of(0)) * TILE_BYTES, lane());
            const int output = tile_of(part) * TILE_OUTPUTS + lane() / 4;
            numbers[part] = load_numbers(weight, slab, output, lane() % 4);
        }
    }

    PASCALINE_INLINE void advance() { place += weight.padded_outputs / TILE_OUTPUTS * TILE_BYTES; }

    PASCALINE_INLINE void store(SharedSlab& shared, int slab) {
#pragma unroll
        for (int part = 0; part < WEIGHT_LOADS; part++) {
            if (!IS_FULL && local(part) >= BLOCK_OUTPUTS) return;
            // What is known again is not kept: in sm_61's code, one register too many costs the allocator its
            // choice of banks for the sums, and the kernel a fifth of its speed.
            numbers[part].integers_shift = 4 * (slab & 1);
            if (ZERO_BITS == 4 && (lane() & 4)) numbers[part].zero >>= 4;
            numbers[part].zero_shift = 0;
            const QuarterFactors factors = factors_of(numbers[part]);
            const int quarter = lane() % 4, column = output_place(local(part));
            uint32_t* words = shared.weights + weight_place(WORDS * quarter) + column;
#pragma unroll
            for (int word = 0; word < WORDS; word++) {
                words[word * BLOCK_OUTPUTS] = signed_word(codes[part], word, factors.zero);
            }
            store_factors(shared, factors, column, quarter);
        }
    }

  private:
    static PASCALINE_INLINE int lane() { return threadIdx.x & 31; }
    static PASCALINE_INLINE int local(int part) { return (int(threadIdx.x) + part * THREADS) / 4; }
    PASCALINE_INLINE int tile_of(int part) const {
        return min(output_of(local(part), outputs), weight.padded_outputs - 1) / TILE_OUTPUTS;
    }

    // Four codes less their zero, as signed bytes.
    static PASCALINE_INLINE uint32_t signed_word(const QuarterCodes& codes, int word, int32_t zero) {
        if constexpr (IS_SHIFTED) {
            const uint32_t four = codes.words[word & 3];
            return ((word < 4 ? four << 4 : four) & 0xF0F0F0F0u) ^ 0x80808080u;
        }
        const uint32_t value = code_word(codes, word);
        if constexpr (BITS == 8 || (ZERO == 0 && ZERO_BITS == 0)) return value;
        // 128 more than the difference: no byte borrows of the next.
        return (value + permute_bytes(128u - uint32_t(zero), 0, 0)) ^ 0x80808080u;
    }

    static PASCALINE_INLINE void store_factors(SharedSlab& shared, const QuarterFactors& factors, int column,
                                               int quarter) {
        // Quarters that have the same factors.
        constexpr int QUARTERS = WEIGHT_GROUP > QUARTER ? WEIGHT_GROUP / QUARTER : 1;
        if (QUARTERS > 1 && quarter % QUARTERS != 0) return;
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const int group = HALVES == 2 ? 2 * quarter + half : quarter / QUARTERS;
            float scale = factors.scale[half];
            if constexpr (SCALE_TYPE == FP32) scale = bits_to_float((float_to_bits(scale) + 2u) & ~3u);
            shared.weight_scales[group][column] = IS_SHIFTED ? scale * 0.0625f : scale;
            if constexpr (HAS_TOTALS) {
                shared.weight_offsets[group][column] =
                    factors.offset[half] + (IS_ZERO_APART ? scale * float(factors.zero) : 0.0f);
            }
        }
    }
};

// The inputs' numbers of a slab: of some groups of one of the block's rows.
struct InputNumberStage {
    static constexpr int THREADS_PER_ROW = THREADS / BLOCK_ROWS;
    // Threads of a row that have groups, and how many each: all with offsets, else scales.
    static constexpr int OWN_GROUPS = HAS_TOTALS ? GROUPS : INPUT_GROUPS;
    static constexpr int SHARES = OWN_GROUPS < THREADS_PER_ROW ? OWN_GROUPS : THREADS_PER_ROW;
    static constexpr int OWN = OWN_GROUPS / SHARES, OWN_SUMS = 8 / SHARES;

    float scales[OWN];
    int32_t sums[HAS_TOTALS ? OWN_SUMS : 1];

    PASCALINE_INLINE void load(const QuantisedInput& input, int slab) {
        if (share() >= SHARES) return;
        const int row = min(int(blockIdx.x) * BLOCK_ROWS + local_row(), input.rows - 1);
        const uint32_t index = uint32_t(slab) * input.rows + row;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            scales[i] = load_constant(input.scales + size_t(index) * 4 + input_group(i) * (4 / INPUT_GROUPS));
        }
        if constexpr (HAS_TOTALS) {
#pragma unroll
            for (int i = 0; i < OWN_SUMS; i++) {
                sums[i] = load_constant(input.sums + size_t(index) * 8 + share() * OWN_SUMS + i);
            }
        }
    }

    PASCALINE_INLINE void store(SharedSlab& shared) const {
        if (share() >= SHARES) return;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int group = share() * OWN + i;
            if (group * INPUT_GROUPS % OWN_GROUPS == 0) {
                shared.input_scales[input_group(i)][local_row()] = scales[i];
            }
            if constexpr (HAS_TOTALS) {
                int32_t sum = 0;
#pragma unroll
                for (int part = 0; part < OWN_SUMS / OWN; part++) sum += sums[i * (OWN_SUMS / OWN) + part];
                shared.input_totals[group][local_row()] = scales[i] * float(sum);
            }
        }
    }

  private:
    static PASCALINE_INLINE int local_row() { return int(threadIdx.x) / THREADS_PER_ROW; }
    static PASCALINE_INLINE int share() { return int(threadIdx.x) % THREADS_PER_ROW; }
    static PASCALINE_INLINE int input_group(int i) { return (share() * OWN + i) * INPUT_GROUPS / OWN_GROUPS; }
};
