// The numbers of a tile's pieces: D a, and what is taken off, D a zeros + E b, in fp32, a vector of 16 rows each.

#pragma once

#include "kernel.h"
#include "tile_codes.h"

// A vector of numbers of any form; see `widen`.
template <int FORM>
INLINE Floats load_numbers(const NumbersView& numbers, int64_t index) {
    if (FORM == FP16) return widen_halves(static_cast<const uint16_t*>(numbers.data) + index);
    if (FORM == BF16) return widen_brains(static_cast<const uint16_t*>(numbers.data) + index);
    if (FORM == FP32) return load_floats(static_cast<const float*>(numbers.data) + index);
    return widen_exponents(static_cast<const uint8_t*>(numbers.data) + index);
}

// Small integers of this many groups are whole vectors of 32 bytes of two groups each.
constexpr int64_t GROUPS = 8;

template <int P>
INLINE Bytes two_groups(const uint8_t* plane, int two, int to) {
    // Of eight groups there are P * 16 bytes; field f of byte i belongs to byte f * P * 16 + i.
    constexpr int TWOS = P / 2;
    Bytes field;
    if constexpr (P == 1) {
        const Bytes bytes = bytes_twice(plane);
        field = halves_of(shift_right(bytes, 2 * two), shift_right(bytes, 2 * two + 1));
    } else {
        field = shift_right(bytes_at(plane + two % TWOS * 32), two / TWOS * P);
    }
    return shift_left(and_bits(field, (1 << P) - 1), to);
}

template <int LOW, int HIGH>
INLINE void unpack_groups(const uint8_t* low, const uint8_t* high, uint8_t* to) {
#pragma GCC unroll 4
    for (int two = 0; two < 4; two++) {
        Bytes v = two_groups<LOW>(low, two, 0);
        if constexpr (HIGH != 0) v = or_bits(v, two_groups<HIGH>(high, two, LOW));
        put_bytes(to + two * 32, v);
    }
}

// A tile's small integers from group `first`, a multiple of GROUPS, to `stop`, a byte each, [group][row]: in their
// own memory, or unpacked to `room`.
INLINE const uint8_t* integers_of(const CodesView& codes, int64_t tile, int64_t first, int64_t stop, uint8_t* room) {
    if (codes.count == 0) return nullptr;
    const PlaneView &low = codes.planes[0], &high = codes.planes[1];
    const uint8_t* at[2] = {low.data + tile * low.stride + first * low.bits / 8 * ROWS,
                            high.data + tile * high.stride + first * high.bits / 8 * ROWS};
    if (low.bits == 8) return at[0];
    for (uint8_t* to = room; first < stop; first += GROUPS, to += GROUPS * ROWS) {
        switch (low.bits * 8 + (codes.count > 1 ? high.bits : 0)) {
            case 1 * 8: unpack_groups<1, 0>(at[0], at[1], to); break;
            case 2 * 8: unpack_groups<2, 0>(at[0], at[1], to); break;
            case 2 * 8 + 1: unpack_groups<2, 1>(at[0], at[1], to); break;
            case 4 * 8: unpack_groups<4, 0>(at[0], at[1], to); break;
            case 4 * 8 + 1: unpack_groups<4, 1>(at[0], at[1], to); break;
            default: unpack_groups<4, 2>(at[0], at[1], to);
        }
        at[0] += low.bits * ROWS;
        at[1] += high.bits * ROWS;
    }
    return room;
}

// Blocks whose numbers are made at a time, where a tile is multiplied by one panel alone: what comes between the
// reads of codes is then short.
constexpr int64_t RUN = 8;
constexpr int64_t RUN_PIECES = 2 * RUN;

// Where the numbers of pieces come from, [piece][D a, D a zeros + E b][row]; the second is there for plan.offsets.
struct TileNumbers {
    const WeightView* w;
    const Plan* plan;
    int64_t tile;
    const float* made;  // all of them, or null

    // Of pieces first to stop, at most RUN_PIECES, made in `room` where they are not yet.
    INLINE_MEMBER const float* of_pieces(int64_t first, int64_t stop, float* room) const {
        if (made) return made + first * 2 * ROWS;
        plan->make_numbers(*w, *plan, tile, first, stop, room);
        return room;
    }
};

// A number a piece, and no integers.
template <int FORM, bool OFFSETS>
static void numbers_of_pieces(const WeightView& w, const Plan&, int64_t tile, int64_t first, int64_t stop,
                              float* to) {
    const int64_t scales = tile * w.scales.stride, offsets = tile * w.offsets.stride;
    for (int64_t at = first * ROWS; at < stop * ROWS; at += ROWS, to += 2 * ROWS) {
        const bool is_there = at < w.groups * ROWS;
        for (int part = 0; part < PARTS; part++) {
            const int64_t lane = at + part * LANES;
            store_floats(to + part * LANES, is_there ? load_numbers<FORM>(w.scales, scales + lane) : zero_floats());
            if (OFFSETS)
                store_floats(to + ROWS + part * LANES,
                             is_there ? load_numbers<FORM>(w.offsets, offsets + lane) : zero_floats());
        }
    }
}

template <int FORM>
static void numbers_of_groups(const WeightView& w, const Plan& plan, int64_t tile, int64_t first, int64_t stop,
                              float* to) {
    alignas(32) uint8_t room[3][(RUN_PIECES + 2 * GROUPS) * ROWS];
    int64_t group = first / plan.group_pieces;
    int64_t super = group / plan.super_groups;
    int64_t super_stop = (super + 1) * plan.super_groups, piece_stop = (group + 1) * plan.group_pieces;
    const int64_t eight = group / GROUPS * GROUPS, last = at_most((stop - 1) / plan.group_pieces + 1, w.groups);
    const uint8_t* a = integers_of(w.group_scales, tile, eight, last, room[0]);
    const uint8_t* b = integers_of(w.group_offsets, tile, eight, last, room[1]);
    const uint8_t* zeros = integers_of(w.zeros, tile, eight, last, room[2]);
    const Floats taken_off = every_float(static_cast<float>(w.group_scale_zero));
    int64_t scales = tile * w.scales.stride + super * ROWS, offsets = tile * w.offsets.stride + super * ROWS;
    int64_t lane = (group - eight) * ROWS;
    for (int64_t piece = first; piece < stop; group++, lane += ROWS, piece_stop += plan.group_pieces) {
        if (group == super_stop) {
            super_stop += plan.super_groups;
            scales += ROWS;
            offsets += ROWS;
        }
        const int64_t end = at_most(piece_stop, stop);
        const bool is_there = group < w.groups;
        for (int part = 0; part < PARTS; part++) {
            Floats scale = zero_floats(), offset = zero_floats();
            const int64_t at = lane + part * LANES;
            if (is_there) {
                scale = load_numbers<FORM>(w.scales, scales + part * LANES);
                if (a) scale = multiply(subtract(widen_bytes(a + at), taken_off), scale);
                if (w.offsets.data) offset = load_numbers<FORM>(w.offsets, offsets + part * LANES);
                if (b) offset = multiply(widen_bytes(b + at), offset);
                if (zeros) offset = multiply_add(scale, widen_bytes(zeros + at), offset);
            }
            float* out = to + part * LANES;
            for (int64_t i = piece; i < end; i++, out += 2 * ROWS) {
                store_floats(out, scale);
                if (plan.offsets) store_floats(out + ROWS, offset);
            }
        }
        to += (end - piece) * 2 * ROWS;
        piece = end;
    }
}

// An integer a piece, and numbers for eight or sixteen: the two-level types.
template <int FORM, bool OFFSETS>
static void numbers_of_supers(const WeightView& w, const Plan& plan, int64_t tile, int64_t first, int64_t stop,
                              float* to) {
    alignas(32) uint8_t room[2][RUN_PIECES * ROWS];
    const uint8_t* a = integers_of(w.group_scales, tile, first, stop, room[0]);
    const uint8_t* b = integers_of(w.group_offsets, tile, first, stop, room[1]);
    const Floats taken_off = every_float(static_cast<float>(w.group_scale_zero));
    const int64_t count = plan.super_groups, super = first / count * ROWS;
    int64_t scales = tile * w.scales.stride + super, offsets = tile * w.offsets.stride + super;
    for (; first < stop; first += count, scales += ROWS, offsets += ROWS) {
        Floats scale[PARTS], offset[PARTS];
        for (int part = 0; part < PARTS; part++) {
            scale[part] = load_numbers<FORM>(w.scales, scales + part * LANES);
            if (OFFSETS) offset[part] = load_numbers<FORM>(w.offsets, offsets + part * LANES);
        }
        for (int64_t i = 0; i < count; i++, a += ROWS, b += ROWS, to += 2 * ROWS)
            for (int part = 0; part < PARTS; part++) {
                const int lane = part * LANES;
                store_floats(to + lane, multiply(subtract(widen_bytes(a + lane), taken_off), scale[part]));
                if (OFFSETS) store_floats(to + ROWS + lane, multiply(widen_bytes(b + lane), offset[part]));
            }
    }
}

template <int FORM>
static MakeNumbers numbers_of_form(const WeightView& w, const Plan& plan) {
    const bool two_levels = w.group_scales.count && !w.zeros.count && plan.group_pieces == 1 &&
                            (w.offsets.data != nullptr) == (w.group_offsets.count != 0);
    const bool in_a_run = plan.super_groups <= RUN * (BLOCK / plan.piece);  // what `room` is made for
    if (two_levels && in_a_run && (plan.super_groups == 8 || plan.super_groups == 16))
        return plan.offsets ? numbers_of_supers<FORM, true> : numbers_of_supers<FORM, false>;
    const bool plain = !w.group_scales.count && !w.group_offsets.count && !w.zeros.count;
    if (!plain || plan.super_groups * plan.group_pieces != 1) return numbers_of_groups<FORM>;
    return plan.offsets ? numbers_of_pieces<FORM, true> : numbers_of_pieces<FORM, false>;
}

static MakeNumbers numbers_of(const WeightView& w, const Plan& plan) {
    switch (w.scales.form) {
        case FP16: return numbers_of_form<FP16>(w, plan);
        case BF16: return numbers_of_form<BF16>(w, plan);
        case FP32: return numbers_of_form<FP32>(w, plan);
        default: return numbers_of_form<EXPONENT>(w, plan);
    }
}

// All numbers of a tile.
static void numbers_of_tile(const WeightView& w, const Plan& plan, int64_t tile, float* numbers) {
    for (int64_t first = 0; first < plan.pieces; first += RUN_PIECES)
        plan.make_numbers(w, plan, tile, first, at_most(first + RUN_PIECES, plan.pieces), numbers + first * 2 * ROWS);
}
