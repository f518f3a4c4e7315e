// Products of linear_rows.cu in fp32, with inputs as they are.
//
// Definitions: those of row_tiles.cuh and number_pieces.cuh; INPUT_TYPE; HAS_PERMUTATION.
#pragma once
#include "number_pieces.cuh"
#include "row_tiles.cuh"

constexpr int SLAB_PIECES = SLAB / PIECE;

// Slabs of inputs that are brought at once, and the pieces of a thread.
constexpr int THREAD_SLABS = THREADS / (SLAB_PIECES * ROWS) / K_WARPS * K_WARPS;
constexpr int STAGE_SLABS = THREAD_SLABS > K_WARPS ? THREAD_SLABS : K_WARPS;
constexpr int THREAD_PIECES = (STAGE_SLABS * ROWS * SLAB_PIECES + THREADS - 1) / THREADS;

struct RowInput {
    const void* x;          // (rows, columns)
    const int32_t* inputs;  // of each stored input with HAS_PERMUTATION
    int columns, rows;
};

// One slab of the inputs: quarters begin in different banks.
struct Stage {
    alignas(16) float numbers[ROWS][4][QUARTER + 4];
};

// What a thread brings to the next stages.
class StagedPart {
  public:
    // Of slabs first_slab ...; zeros beyond the last.
    PASCALINE_INLINE void load(const RowInput& input, int first_slab, int slabs) {
#pragma unroll
        for (int part = 0; part < THREAD_PIECES; part++) {
            const int slab = first_slab + stage_of(part), row = row_of(part);
            const bool is_there = slab < slabs && row < input.rows;
            const auto* own =
                static_cast<const Stored*>(input.x) + size_t(is_there ? row : 0) * input.columns;
            const int first = slab * SLAB + place_of(part);
            if constexpr (HAS_PERMUTATION) {
                pieces[part].gather(own, input.inputs + (is_there ? first : 0));
            } else {
                pieces[part].load(own, is_there ? first : input.columns, input.columns);
            }
            if (!is_there) pieces[part] = {};
        }
    }

    PASCALINE_INLINE void store(Stage (&stages)[STAGE_SLABS]) const {
#pragma unroll
        for (int part = 0; part < THREAD_PIECES; part++) {
            if (stage_of(part) >= STAGE_SLABS) continue;
            const int place = place_of(part);
            auto* const fours = reinterpret_cast<float4*>(
                &stages[stage_of(part)].numbers[row_of(part)][place / QUARTER][place % QUARTER]);
            const Piece<INPUT_TYPE>& piece = pieces[part];
            fours[0] = make_float4(piece.number(0), piece.number(1), piece.number(2), piece.number(3));
            fours[1] = make_float4(piece.number(4), piece.number(5), piece.number(6), piece.number(7));
        }
    }

  private:
    using Stored = typename Element<INPUT_TYPE>::Stored;
    Piece<INPUT_TYPE> pieces[THREAD_PIECES];

    static PASCALINE_INLINE int index_of(int part) { return int(threadIdx.x) + part * THREADS; }
    static PASCALINE_INLINE int stage_of(int part) { return index_of(part) / (SLAB_PIECES * ROWS); }
    static PASCALINE_INLINE int row_of(int part) { return index_of(part) / SLAB_PIECES % ROWS; }
    static PASCALINE_INLINE int place_of(int part) { return index_of(part) % SLAB_PIECES * PIECE; }
};

// A warp's tiles of one slab: codes become numbers where they are multiplied, four at a time.
//
// A byte c as the upper bits of a mantissa gives (1 + c / 128) / 2, and w = scale * 256 * that - base. A mantissa
// has one bit too few for codes of 8 bits and for tables': those go to the lowest bits of 2^23.
struct UnpackedTiles {
    using Sums = QuarterSums;
    static constexpr bool IS_WIDE = BITS == 8 || HAS_TABLE;

    QuarterCodes codes[TILES];
    float scale[TILES][HALVES], base[TILES][HALVES], zero[TILES];

    PASCALINE_INLINE void unpack(const LoadedTiles& loaded) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            codes[tile] = loaded.codes[tile];
            const QuarterFactors factors = factors_of(loaded.numbers[tile]);
            zero[tile] = 8388608.0f + float(factors.zero + 128);  // bytes are signed: they get a bias of 128
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                const float factor = factors.scale[half];
                scale[tile][half] = IS_WIDE ? factor : 256.0f * factor;
                base[tile][half] = IS_WIDE ? 0.0f : factor * float(128 + factors.zero);
                if constexpr (HAS_OFFSETS) base[tile][half] += factors.offset[half];
            }
        }
    }

    // w of byte `byte` of a word of codes.
    PASCALINE_INLINE float weight(uint32_t word, int byte, int tile, int half) const {
        if constexpr (IS_WIDE) {
            const float code = bits_to_float(permute_bytes(word, 0x4B000000u, 0x7440 + byte)) - zero[tile];
            return HAS_OFFSETS ? fmaf(scale[tile][half], code, -base[tile][half]) : scale[tile][half] * code;
        }
        const float code = bits_to_float(permute_bytes(word, 0x3F000000u, 0x7044 + (byte << 8)));
        return fmaf(scale[tile][half], code, -base[tile][half]);
    }

    // sums[row][tile] += the products of the lane's quarter.
    PASCALINE_INLINE void multiply(const Stage& stage, int lane, Sums& sums) const {
        const int quarter = lane % 4;
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            const int half = word / WORDS_PER_HALF;
            float weights[TILES][4];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint32_t bytes = code_word(codes[tile], word);
                const uint32_t four = IS_WIDE ? bytes ^ 0x80808080u : bytes;
#pragma unroll
                for (int i = 0; i < 4; i++) weights[tile][i] = weight(four, i, tile, half);
            }
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const float4 four = *reinterpret_cast<const float4*>(&stage.numbers[row][quarter][4 * word]);
                const float inputs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        sums[row][tile] = fmaf(weights[tile][i], inputs[i], sums[row][tile]);
                    }
                }
            }
        }
    }
};
