// What linear_rows.cu's threads bring of quantised inputs, and have of the weight to multiply with them.
//
// Definitions: those of row_tiles.cuh and quantised_input.cuh.
#pragma once
#include "quantised_input.cuh"
#include "row_tiles.cuh"

using RowInput = QuantisedInput;

// Slabs of inputs that are brought at once: a thread brings one quarter of a row's plane.
constexpr int MOST_STAGE_SLABS = ROWS * PLANES > 8 ? 4 : 8;  // of 48 KiB
constexpr int THREAD_SLABS = THREADS / (4 * ROWS * PLANES) / K_WARPS * K_WARPS;
constexpr int STAGE_SLABS = THREAD_SLABS < MOST_STAGE_SLABS ? THREAD_SLABS : MOST_STAGE_SLABS;

static_assert(STAGE_SLABS > 0 && STAGE_SLABS % K_WARPS == 0, "there are threads for a step's inputs");

// What a thread brings to the next stages: codes of one quarter, numbers of perhaps another.
class QuantisedPart {
  public:
    PASCALINE_INLINE QuantisedPart() {
        const int thread = threadIdx.x;
        stage = thread / (4 * PLANES * ROWS);
        row = thread / (4 * PLANES) % ROWS;
        plane = thread / 4 % PLANES;
        number_stage = thread / (4 * ROWS);
        number_row = thread / 4 % ROWS;
        quarter = thread % 4;
    }

    // Of slabs first_slab ...
    PASCALINE_INLINE void load(const QuantisedInput& input, int first_slab, int slabs) {
        first = second = make_uint4(0, 0, 0, 0);
        scale = 0.0f;
        sums = make_int2(0, 0);
        const int slab = first_slab + stage, number_slab = first_slab + number_stage;
        if (stage < STAGE_SLABS && slab < slabs && row < input.rows) {
            const auto* words = reinterpret_cast<const uint32_t*>(input.codes);
            const auto* fours =
                reinterpret_cast<const uint4*>(words + input.word_index(slab, row, plane, 8 * quarter));
            first = load_handed_on(fours);
            second = load_handed_on(fours + 1);
        }
        if (number_stage < STAGE_SLABS && number_slab < slabs && number_row < input.rows) {
            const size_t place = (size_t(number_slab) * input.rows + number_row) * 4 + quarter;
            scale = load_handed_on(input.scales + place);
            sums = load_handed_on(reinterpret_cast<const int2*>(input.sums) + place);
        }
    }

  protected:
    int stage, row, plane, number_stage, number_row, quarter;
    float scale;
    int2 sums;

    // The quarter's codes, in the order of the weight's words.
    PASCALINE_INLINE void store_codes(uint4& lower, uint4& upper) const {
        if constexpr (HAS_TABLE) {  // bytes in the order of paired_word
            lower = make_uint4(paired_low(first.x, second.x), paired_high(first.x, second.x),
                               paired_low(first.y, second.y), paired_high(first.y, second.y));
            upper = make_uint4(paired_low(first.z, second.z), paired_high(first.z, second.z),
                               paired_low(first.w, second.w), paired_high(first.w, second.w));
        } else {
            lower = first;
            upper = second;
        }
    }

  private:
    uint4 first, second;

    static PASCALINE_INLINE uint32_t paired_low(uint32_t a, uint32_t b) {
        return permute_bytes(a, b, 0x5140);
    }
    static PASCALINE_INLINE uint32_t paired_high(uint32_t a, uint32_t b) {
        return permute_bytes(a, b, 0x7362);
    }
};

// A warp's tiles of one slab, ready to be multiplied.
struct TileWords {
    uint32_t words[TILES][WORDS];
    float scale[TILES][HALVES], offset[TILES][HALVES], zero[TILES];

    PASCALINE_INLINE void unpack(const LoadedTiles& loaded) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int word = 0; word < WORDS; word++) {
                words[tile][word] =
                    HAS_TABLE ? paired_word(loaded.codes[tile], word) : code_word(loaded.codes[tile], word);
            }
            const QuarterFactors factors = factors_of(loaded.numbers[tile]);
            zero[tile] = float(factors.zero - ZERO);
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                scale[tile][half] = factors.scale[half];
                offset[tile][half] = factors.offset[half];
            }
        }
    }
};
