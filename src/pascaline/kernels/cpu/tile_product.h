// A tile of 16 rows of w by a panel of rows of x: the one place where packed weights are multiplied.
//
// Each lane of a vector is a row of w, and sums up alone: nothing is added across lanes.

#pragma once

#include "activations.h"
#include "tile_numbers.h"

// How far ahead of its use a tile's memory is asked for.
constexpr int64_t AHEAD = 4096;

// y[m, row] of M rows of x to out[m * ROWS + row].
template <class Source, int M, int PIECE, bool OFFSETS>
static void tile_product(const TileAt& at, const TileNumbers& numbers_at, const Panel& panel, float* out) {
    constexpr int PIECES = BLOCK / PIECE, WORDS = PIECE / 4;
    constexpr int DEPTH = ADDS_IN_32 || Source::DEPTH > WORDS ? WORDS : Source::DEPTH;
    // Sums that are added up at last: what waits for the one before fills up the processor's queue.
    constexpr int CHAINS = !ADDS_IN_32 || M > 2 ? 1 : M == 1 ? 4 : 2;
    const Source source(at);
    const int8_t* x = panel.bytes;
    const float* fields = panel.fields;
    Floats sums[PARTS][M];
    for (int part = 0; part < PARTS; part++)
        for (int m = 0; m < M; m++) sums[part][m] = zero_floats();
    alignas(64) float room[RUN * PIECES * 2 * ROWS];
    for (int64_t run = 0; run < numbers_at.plan.blocks; run += RUN) {
        const int64_t stop = at_most(run + RUN, numbers_at.plan.blocks);
        const float* numbers = numbers_at.of_pieces(run * PIECES, stop * PIECES, room);
        for (int64_t block = run; block < stop; block++) {
#pragma GCC unroll 2
            for (int piece = 0; piece < PIECES; piece++) {
                Integers dots[PARTS][M], others[PARTS][M][CHAINS];
                for (int m = 0; m < M; m++)
                    for (int part = 0; part < PARTS; part++) {
                        dots[part][m] = every_integer(fields + START * M + m);
                        for (int chain = 1; chain < CHAINS; chain++) others[part][m][chain] = zero_integers();
                    }
#pragma GCC unroll 8
                for (int some = 0; some < WORDS; some += DEPTH) {
                    Integers partial[PARTS][M];
                    for (int m = 0; m < M; m++)
                        for (int part = 0; part < PARTS; part++) partial[part][m] = open_sum(dots[part][m]);
#pragma GCC unroll 8
                    for (int word = some; word < some + DEPTH; word++) {
                        Factor factors[PARTS];
                        for (int part = 0; part < PARTS; part++)
                            factors[part] = factor<Source::SIGNED>(source.vector(block, piece * WORDS + word, part));
                        for (int m = 0; m < M; m++) {
                            const Integers four = every_integer(x + (word * M + m) * 4);
                            for (int part = 0; part < PARTS; part++) {
                                const int chain = word % CHAINS;
                                Integers& sum = chain ? others[part][m][chain] : partial[part][m];
                                sum = add_products<Source::SIGNED>(sum, factors[part], four);
                            }
                        }
                    }
                    for (int m = 0; m < M; m++)
                        for (int part = 0; part < PARTS; part++)
                            dots[part][m] = close_sum(dots[part][m], partial[part][m]);
                }
                for (int chain = CHAINS / 2; chain; chain /= 2)
                    for (int m = 0; m < M; m++)
                        for (int part = 0; part < PARTS; part++)
                            for (int i = 0; i < chain; i++) {
                                Integers& sum = i ? others[part][m][i] : dots[part][m];
                                sum = add_integers(sum, others[part][m][i + chain]);
                            }
                for (int part = 0; part < PARTS; part++) {
                    const Floats scale = load_floats(numbers + part * LANES);
                    const Floats offset = load_floats(numbers + ROWS + part * LANES);
                    for (int m = 0; m < M; m++) {
                        const Floats scaled = multiply(scale, every_float(fields + SCALE * M + m));
                        Floats sum = multiply_add(to_floats(dots[part][m]), scaled, sums[part][m]);
                        if (OFFSETS) sum = subtract_product(sum, offset, every_float(fields + WEIGHTED * M + m));
                        sums[part][m] = sum;
                    }
                }
                numbers += 2 * ROWS;
                fields += FIELDS * M;
                x += PIECE * M;
            }
        }
    }
    for (int part = 0; part < PARTS; part++)
        for (int m = 0; m < M; m++) store_floats(out + m * ROWS + part * LANES, sums[part][m]);
}

using TileProduct = void (*)(const TileAt& at, const TileNumbers& numbers_at, const Panel& panel, float* out);

template <class Source, int PIECE, bool OFFSETS>
static TileProduct product_for_width(int64_t width) {
    switch (width) {
        case 1: return tile_product<Source, 1, PIECE, OFFSETS>;
        case 2: return tile_product<Source, 2, PIECE, OFFSETS>;
#if defined(__AVX512VNNI__)
        case 4: return tile_product<Source, 4, PIECE, OFFSETS>;
        case 8: return tile_product<Source, 8, PIECE, OFFSETS>;
#endif
        default: return tile_product<Source, PANEL, PIECE, OFFSETS>;
    }
}

template <class Source, int PIECE>
static TileProduct product_of(const Plan& plan, int64_t width) {
    return plan.offsets ? product_for_width<Source, PIECE, true>(width)
                        : product_for_width<Source, PIECE, false>(width);
}

template <int DEPTH, bool SIGNED>
static TileProduct unpacked_product(const Plan& plan, int64_t width) {
    using Source = Unpacked<ADDS_IN_32 ? 8 : DEPTH, SIGNED>;
    return plan.piece == 32 ? product_of<Source, 32>(plan, width) : product_of<Source, 16>(plan, width);
}

// What is common to all products by one weight: from its own codes, or from unpacked ones.
struct Products {
    void (*unpack)(const TileAt& at, int64_t blocks, uint8_t* to);
    TileProduct (*unpacked)(const Plan& plan, int64_t width);
    TileProduct (*packed)(const Plan& plan, int64_t width);  // null where codes are always unpacked first
};

template <class Source, bool AT_32, bool AT_16>
static Products products_from(const Plan& plan) {
    Products products{unpack_tile<Source>, unpacked_product<Source::DEPTH, Source::SIGNED>, nullptr};
    if constexpr (AT_32)
        if (plan.piece == 32) products.packed = product_of<Source, 32>;
    if constexpr (AT_16)
        if (plan.piece == 16) products.packed = product_of<Source, 16>;
    return products;
}

// The second and third parameter: for which sizes of pieces there is code of its own.
static Products products_of(const Plan& plan) {
    if (plan.has_table) return products_from<LookedUp, true, false>(plan);
    switch (plan.bits) {
        case 1: return products_from<Bits<1>, false, false>(plan);
        case 2: return products_from<Bits<2>, true, true>(plan);
        case 3: return products_from<Bits<3>, true, true>(plan);
        case 4: return products_from<Bits<4>, true, false>(plan);
        case 5: return products_from<Bits<5>, true, false>(plan);
        case 6: return products_from<Bits<6>, false, true>(plan);
        default: return products_from<Bits<8>, true, false>(plan);
    }
}
