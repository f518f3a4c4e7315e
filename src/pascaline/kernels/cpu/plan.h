// How a packed weight is multiplied: what follows from its form alone.
//
// The sum over K of one output is taken in blocks of 32, or in pieces of 16 where a group is no multiple of 32.
// With codes as bytes u (shifted by a constant where that suits the multiplier) and x as bytes,
//
//     dot(piece) = sum u x - (zero + shift) sum x                  exact, in integers
//     y          = fma over pieces: (float) dot * (D a * dx), minus (D a zeros + E b) * (dx sum x)
//
// one chain in the order of K, for any number of rows of x, any split over threads and any instruction set:
// results are the same bits.

#pragma once

#include "abi.h"
#include "simd.h"

constexpr int ROWS = 16;   // of a tile
constexpr int BLOCK = 32;  // elements of x with a common scale

struct Plan;
// The numbers of pieces first to stop of a tile to `to`; see tile_numbers.h.
using MakeNumbers = void (*)(const WeightView& w, const Plan& plan, int64_t tile, int64_t first, int64_t stop,
                             float* to);

struct Plan {
    int64_t blocks;
    int64_t pieces;
    int64_t group_pieces;  // pieces of a group
    int64_t super_groups;  // groups of a super-block
    int piece;
    int bits;
    int zero;  // to take off what goes into `dot`
    bool offsets;
    bool has_table;
    MakeNumbers make_numbers;
};

INLINE Plan plan_of(const WeightView& w) {
    Plan plan;
    plan.piece = w.group_size % BLOCK ? 16 : 32;
    plan.blocks = (w.groups * w.group_size + BLOCK - 1) / BLOCK;
    plan.pieces = plan.blocks * (BLOCK / plan.piece);
    plan.group_pieces = w.group_size / plan.piece;
    plan.super_groups = w.groups / w.supers;
    plan.bits = 0;
    for (int i = 0; i < w.codes.count; i++) plan.bits += w.codes.planes[i].bits;
    plan.offsets = w.offsets.data != nullptr || w.zeros.count != 0;
    plan.has_table = w.table != nullptr;
    plan.zero = w.zero;
    if (plan.has_table) plan.zero = SIGNED_BYTES ? 0 : 128;
    // Bytes are stored as unsigned ones, 128 above the signed ones that they become.
    if (plan.bits == 8 && SIGNED_BYTES) plan.zero -= 128;
    return plan;
}
