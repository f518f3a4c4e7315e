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
constexpr int INPUT_LOADS = BLOCK_ROWS * (HALF_WORDS / 4) / THREADS;
// Quarters of an output go to neighbouring threads, pairs of them at least, which are 32 bytes of 4-bit codes;
// a thread has QUARTER_LOADS of each of its outputs.
constexpr int QUARTERS_AT_ONCE = WARPS_M < 4 ? 2 : 4, QUARTER_LOADS = 4 / QUARTERS_AT_ONCE;
constexpr int WEIGHT_LOADS = BLOCK_OUTPUTS * 4 / THREADS;
static_assert(4 % WARPS_N == 0 && 4 % WARPS_M == 0, "every thread has as many loads");
constexpr uint32_t START = 0x4B400000u;  // 1.5 * 2^23
constexpr float START_VALUE = 12582912.0f;

// Where a word of row or output 0 lies. A warp stores four pieces of each of eight rows at once, and two or four
// quarters of each of 16 or 8 outputs: the words of padding between them make that all banks.
PASCALINE_INLINE constexpr int input_place(int word) { return word * BLOCK_ROWS + word / 4 * 8; }
PASCALINE_INLINE constexpr int weight_place(int word) {
    return word * BLOCK_OUTPUTS + word / WORDS * (32 / QUARTERS_AT_ONCE);
}

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
    const uint8_t* place;           // of its first row, in the plane that comes next
    uint32_t further[INPUT_LOADS];  // bytes from there to the row of each part
    uint4 parts[INPUT_LOADS];

    static constexpr int PIECES = HALF_WORDS / 4;

    PASCALINE_INLINE InputStage(const QuantisedInput& input, int slab) {
        const int first = row_of(0, input.rows);
        place = reinterpret_cast<const uint8_t*>(input.codes) +
                size_t(uint32_t(slab) * input.rows + first) * (PLANES * SLAB) + threadIdx.x % PIECES * sizeof(uint4);
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            further[part] = uint32_t(row_of(part, input.rows) - first) * (PLANES * SLAB);
        }
    }

    template <int half>
    PASCALINE_INLINE void load() {
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            parts[part] = load_constant(reinterpret_cast<const uint4*>(place + further[part]) + half * PIECES);
        }
    }

    PASCALINE_INLINE void store(SharedInputs& shared) const {
#pragma unroll
        for (int part = 0; part < INPUT_LOADS; part++) {
            uint32_t* words = shared.words + input_place(4 * (threadIdx.x % PIECES)) + local(part);
            words[0] = parts[part].x;
            words[BLOCK_ROWS] = parts[part].y;
            words[2 * BLOCK_ROWS] = parts[part].z;
            words[3 * BLOCK_ROWS] = parts[part].w;
        }
    }

  private:
    static PASCALINE_INLINE int local(int part) { return threadIdx.x / PIECES + part * (THREADS / PIECES); }
    static PASCALINE_INLINE int row_of(int part, int rows) {
        return min(int(blockIdx.x) * BLOCK_ROWS + local(part), rows - 1);
    }
};

// The block's weights of a slab: WEIGHT_LOADS quarters of this thread, packed, with their numbers. Those of an
// output lie at constant distances. Half of them are on their way at a time.
struct WeightStage {
    const PackedWeight weight;
    const int outputs;
    const uint8_t* place;  // of its first quarter's codes
    QuarterCodes codes[WEIGHT_LOADS];
    QuarterNumbers numbers[WEIGHT_LOADS];

    PASCALINE_INLINE WeightStage(const PackedWeight& packed, int all_outputs, int slab)
        : weight(packed), outputs(all_outputs) {
        place = codes_place(weight, slab, output(0) / TILE_OUTPUTS, lane(0));
    }

    // The first or the second half of the quarters; one alone is in the second.
    template <int half>
    PASCALINE_INLINE void load(int slab) {
#pragma unroll
        for (int part = first_part(half); part < first_part(half + 1); part++) {
            const uint8_t* own = place + (output(part) / TILE_OUTPUTS - output(0) / TILE_OUTPUTS) * TILE_BYTES;
            codes[part] = load_codes(own + (lane(part) - lane(0)) * LANE_BYTES, lane(part));
            numbers[part] = load_numbers(weight, slab, output(part), quarter(part));
        }
    }

    PASCALINE_INLINE void advance() { place += uint32_t(weight.padded_outputs) / TILE_OUTPUTS * TILE_BYTES; }

    template <int half>
    PASCALINE_INLINE void store(SharedSlab& shared, int slab) {
#pragma unroll
        for (int part = first_part(half); part < first_part(half + 1); part++) {
            // What is known again is not kept: in sm_61's code, one register too many costs the allocator its
            // choice of banks for the sums, and the kernel a fifth of its speed.
            numbers[part].integers_shift = 4 * (slab & 1);
            if (ZERO_BITS == 4 && (local(part) & 1)) numbers[part].zero >>= 4;
            numbers[part].zero_shift = 0;
            const QuarterFactors factors = factors_of(numbers[part]);
            const int column = output_place(local(part));
            uint32_t* words = shared.weights + weight_place(WORDS * quarter(part)) + column;
#pragma unroll
            for (int word = 0; word < WORDS; word++) {
                words[word * BLOCK_OUTPUTS] = signed_word(codes[part], word, factors.zero);
            }
            store_factors(shared, factors, column, quarter(part));
        }
    }

  private:
    static PASCALINE_INLINE constexpr int first_part(int half) { return half * WEIGHT_LOADS / 2; }
    // Unsigned, so that the compiler sees what is constant in these.
    static PASCALINE_INLINE int local(int part) {
        return threadIdx.x / QUARTERS_AT_ONCE + part / QUARTER_LOADS * (THREADS / QUARTERS_AT_ONCE);
    }
    static PASCALINE_INLINE int quarter(int part) {
        return threadIdx.x % QUARTERS_AT_ONCE + part % QUARTER_LOADS * QUARTERS_AT_ONCE;
    }
    PASCALINE_INLINE int output(int part) const {
        return min(output_of(local(part), outputs), weight.padded_outputs - 1);
    }
    PASCALINE_INLINE int lane(int part) const { return output(part) % TILE_OUTPUTS * 4 + quarter(part); }

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

    uint32_t index;  // of the row in the slab that comes next
    float scales[OWN];
    int32_t sums[HAS_TOTALS ? OWN_SUMS : 1];

    PASCALINE_INLINE InputNumberStage(const QuantisedInput& input, int slab) {
        index = uint32_t(slab) * input.rows + min(int(blockIdx.x) * BLOCK_ROWS + local_row(), input.rows - 1);
    }

    // The next slab's.
    PASCALINE_INLINE void load(const QuantisedInput& input) {
        if (share() >= SHARES) return;
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
        index += input.rows;
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
    static PASCALINE_INLINE int local_row() { return threadIdx.x / THREADS_PER_ROW; }
    static PASCALINE_INLINE int share() { return threadIdx.x % THREADS_PER_ROW; }
    static PASCALINE_INLINE int input_group(int i) { return (share() * OWN + i) * INPUT_GROUPS / OWN_GROUPS; }
};
