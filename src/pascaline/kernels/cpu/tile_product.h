// A tile of 16 rows of w by a panel of rows of x: the one place where packed weights are multiplied.
//
// Each lane of a vector is a row of w, and sums up alone: nothing is added across lanes.

#pragma once

#include "activations.h"
#include "tile_numbers.h"

struct TileAt {
    TileCodes codes;
    TileNumbers numbers;
};

// Tiles that more than four rows of x are multiplied by at a time: fewer of x are read. Where a tile is several
// registers, it is done with one.
constexpr int TOGETHER = PARTS > 1 ? 1 : 2;
INLINE constexpr int tiles_together(int64_t width) { return width > 4 ? TOGETHER : 1; }

// Dots of WORDS vectors of w from vector `first` of a block on, in all COLUMNS, by M rows of x.
template <class Source, int M, int WORDS, int COLUMNS>
INLINE void piece_dots(const Source* sources, int64_t block, int first, const int8_t* x, const float* fields,
                       Integers (*dots)[M]) {
    constexpr int DEPTH = ADDS_IN_32 || Source::DEPTH > WORDS ? WORDS : Source::DEPTH;
    // Sums that are added up at last: what waits for the one before fills up the processor's queue. PERF: 23 ->
    // 49 GB/s of Q4_0 a core, out of its cache.
    constexpr int CHAINS = PARTS > 1 || M > 2 ? 1 : M == 1 && WORDS == 8 ? 4 : 2;
    Integers others[COLUMNS][M][CHAINS];
    for (int column = 0; column < COLUMNS; column++)
        for (int m = 0; m < M; m++)
            for (int chain = 1; chain < CHAINS; chain++) others[column][m][chain] = zero_integers();
#pragma GCC unroll 8
    for (int some = 0; some < WORDS; some += DEPTH) {
        Integers partial[COLUMNS][M];
        for (int m = 0; m < M; m++)
            for (int column = 0; column < COLUMNS; column++)
                partial[column][m] = ADDS_IN_32 ? every_integer(fields + START * M + m) : zero_integers();
#pragma GCC unroll 8
        for (int word = some; word < some + DEPTH; word++) {
            Factor factors[COLUMNS];
            for (int column = 0; column < COLUMNS; column++)
                factors[column] = factor<Source::SIGNED>(
                    sources[column / PARTS].vector(block, first + word, column % PARTS));
            for (int m = 0; m < M; m++) {
                const Word four = word_at(x, word * M + m);
                for (int column = 0; column < COLUMNS; column++) {
                    const int chain = word % CHAINS;
                    Integers& sum = chain ? others[column][m][chain] : partial[column][m];
                    sum = add_products<Source::SIGNED>(sum, factors[column], four);
                }
            }
        }
        for (int m = 0; m < M; m++)
            for (int column = 0; column < COLUMNS; column++) {
                Integers& sum = dots[column][m];
                if (some == 0 && !ADDS_IN_32) sum = every_integer(fields + START * M + m);
                sum = ADDS_IN_32 ? partial[column][m] : add_pairs(sum, partial[column][m]);
            }
    }
    for (int chain = CHAINS / 2; chain; chain /= 2)
        for (int m = 0; m < M; m++)
            for (int column = 0; column < COLUMNS; column++)
                for (int i = 0; i < chain; i++) {
                    Integers& sum = i ? others[column][m][i] : dots[column][m];
                    sum = add_integers(sum, others[column][m][i + chain]);
                }
}

// y[m, row] of M rows of x to out[m * TILES * ROWS + row], for tiles that are neighbours or the same.
template <class Source, int M, int PIECE, bool OFFSETS>
static void tile_product(const TileAt* tiles, const Panel& panel, float* out) {
    constexpr int TILES = tiles_together(M), COLUMNS = TILES * PARTS;
    constexpr int PIECES = BLOCK / PIECE, WORDS = PIECE / 4;
    const Source sources[2] = {Source(tiles[0].codes), Source(tiles[TILES - 1].codes)};
    const int8_t* x = panel.bytes;
    const float* fields = panel.fields;
    const int64_t blocks = tiles[0].numbers.plan->blocks;
    Floats sums[COLUMNS][M];
    for (int column = 0; column < COLUMNS; column++)
        for (int m = 0; m < M; m++) sums[column][m] = zero_floats();
    alignas(64) float room[TILES][RUN * PIECES * 2 * ROWS];
    for (int64_t run = 0; run < blocks; run += RUN) {
        const int64_t stop = at_most(run + RUN, blocks);
        const float* numbers[TILES];
        for (int tile = 0; tile < TILES; tile++)
            numbers[tile] = tiles[tile].numbers.of_pieces(run * PIECES, stop * PIECES, room[tile]);
        for (int64_t block = run; block < stop; block++) {
            // PERF: 6.2 -> 5.6 times the time of one row for 16. One row alone is faster without.
            if (M > 2)
                for (int tile = 0; tile < TILES; tile++) sources[tile].fetch_next(block);
#pragma GCC unroll 2
            for (int piece = 0; piece < PIECES; piece++) {
                Integers dots[COLUMNS][M];
                piece_dots<Source, M, WORDS, COLUMNS>(sources, block, piece * WORDS, x, fields, dots);
                for (int m = 0; m < M; m++) {
                    const Floats dx = every_float(fields + SCALE * M + m);
                    const Floats weighted = every_float(fields + WEIGHTED * M + m);
                    for (int column = 0; column < COLUMNS; column++) {
                        const float* at = numbers[column / PARTS] + column % PARTS * LANES;
                        Floats sum = sums[column][m];
                        sum = multiply_add(to_floats(dots[column][m]), multiply(load_floats(at), dx), sum);
                        if (OFFSETS) sum = subtract_product(sum, load_floats(at + ROWS), weighted);
                        sums[column][m] = sum;
                    }
                }
                for (int tile = 0; tile < TILES; tile++) numbers[tile] += 2 * ROWS;
                fields += FIELDS * M;
                x += PIECE * M;
            }
        }
    }
    for (int column = 0; column < COLUMNS; column++)
        for (int m = 0; m < M; m++) store_floats(out + m * TILES * ROWS + column * LANES, sums[column][m]);
}

using TileProduct = void (*)(const TileAt* tiles, const Panel& panel, float* out);

template <class Source, int PIECE, bool OFFSETS>
static TileProduct product_for_width(int64_t width) {
    switch (width) {
        case 1: return tile_product<Source, 1, PIECE, OFFSETS>;
        case 2: return tile_product<Source, 2, PIECE, OFFSETS>;
#if defined(__AVX512VNNI__)
        case 4: return tile_product<Source, 4, PIECE, OFFSETS>;
#endif
        default: return tile_product<Source, PANEL, PIECE, OFFSETS>;
    }
}

template <class Source, int PIECE>
static TileProduct product_of(const Plan& plan, int64_t width) {
    return plan.offsets ? product_for_width<Source, PIECE, true>(width)
                        : product_for_width<Source, PIECE, false>(width);
}

template <class Source>
static TileProduct product_from(const Plan& plan, int64_t width) {
    return plan.piece == 32 ? product_of<Source, 32>(plan, width) : product_of<Source, 16>(plan, width);
}

static TileProduct choose_product(const Plan& plan, int64_t width) {
    if (plan.has_table) return product_from<LookedUp>(plan, width);
    switch (plan.bits) {
        case 1: return product_from<Bits<1>>(plan, width);
        case 2: return product_from<Bits<2>>(plan, width);
        case 3: return product_from<Bits<3>>(plan, width);
        case 4: return product_from<Bits<4>>(plan, width);
        case 5: return product_from<Bits<5>>(plan, width);
        case 6: return product_from<Bits<6>>(plan, width);
        default: return product_from<Bits<8>>(plan, width);
    }
}
