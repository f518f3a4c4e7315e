// A packed weight's rows to tiles of 16, once at load.

#pragma once

#include "plan.h"
#include "unpack.h"

struct RetileJob {
    const PackedView* from;
    const WeightView* to;
    int64_t columns;        // stored ones
    int64_t group_columns;  // of a group, as the checkpoint has it
    int64_t codes_room;
    int64_t integers_room;
};

static RetileJob retile_job(const PackedView& from, const WeightView& to) {
    const int64_t blocks = (to.groups * to.group_size + BLOCK - 1) / BLOCK;
    int64_t integers = room_for(from.group_scales, to.groups);
    integers = at_least(integers, room_for(from.group_offsets, to.groups));
    integers = at_least(integers, room_for(from.zeros, to.groups));
    const int64_t codes = at_least(room_for(from.codes, from.columns), blocks * BLOCK);
    return {&from, &to, blocks * BLOCK, from.group_size, aligned(codes), aligned(integers + 64)};
}

static Room retile_room(const RetileJob& job) {
    return {0, job.codes_room * (ROWS + 1) + job.integers_room * ROWS};
}

// Four bytes of each of 16 rows side by side: vector j of the 16 elements at `rows[.] + at` is the j-th four.
INLINE void interleave_sixteen(uint8_t* const* rows, int64_t at, uint8_t* to) {
    for (int first = 0; first < ROWS; first += 4) put_columns(rows + first, at, to + first * 4, 64);
}

// Bytes to run number `run` of planes; a run of a plane is `words_of_a_bit` times 8 bytes for each of its bits.
INLINE void put_planes(const CodesView& planes, int64_t tile, int64_t run, int64_t words_of_a_bit,
                       const uint8_t* codes) {
    int done = 0;
    for (int i = 0; i < planes.count; i++) {
        const PlaneView& plane = planes.planes[i];
        const int bits = plane.bits, count = 8 / bits;
        const int64_t words = words_of_a_bit * bits;
        const uint64_t mask = 0x0101010101010101ull * ((1u << bits) - 1);
        uint8_t* to = const_cast<uint8_t*>(plane.data) + tile * plane.stride + run * words * 8;
        for (int64_t word = 0; word < words; word++) {
            uint64_t all = 0;
            for (int field = 0; field < count; field++) {
                uint64_t some;
                memcpy(&some, codes + (field * words + word) * 8, 8);
                all |= ((some >> done) & mask) << field * bits;
            }
            memcpy(to + word * 8, &all, 8);
        }
        done += bits;
    }
}

static void retile_codes(const RetileJob& job, int64_t tile, char* own) {
    const PackedView& from = *job.from;
    const WeightView& to = *job.to;
    const int64_t used = to.groups * to.group_size;
    uint8_t* rows[ROWS];
    uint8_t* const apart = reinterpret_cast<uint8_t*>(own + ROWS * job.codes_room);
    for (int i = 0; i < ROWS; i++) {
        rows[i] = reinterpret_cast<uint8_t*>(own + i * job.codes_room);
        const int64_t row = tile * ROWS + i;
        if (row >= from.rows) {
            memset(rows[i], 0, static_cast<size_t>(job.columns));
        } else if (to.group_size == job.group_columns) {
            unpack_codes(from.codes, row, from.columns, rows[i]);
            memset(rows[i] + used, 0, static_cast<size_t>(job.columns - used));
        } else {
            unpack_codes(from.codes, row, from.columns, apart);
            memset(rows[i], 0, static_cast<size_t>(job.columns));
            for (int64_t group = 0; group < to.groups; group++)
                memcpy(rows[i] + group * to.group_size, apart + group * job.group_columns,
                       static_cast<size_t>(job.group_columns));
        }
        for (int64_t k = 0; from.codes.is_signed && k < job.columns; k++) rows[i][k] ^= 0x80;
    }
    alignas(64) uint8_t block[BLOCK * ROWS];
    for (int64_t at = 0; at < job.columns; at += BLOCK) {
        interleave_sixteen(rows, at, block);
        interleave_sixteen(rows, at + 16, block + 4 * 64);
        put_planes(to.codes, tile, at / BLOCK, 8, block);
    }
}

static void retile_integers(const RetileJob& job, const CodesView& from, const CodesView& to, int64_t tile,
                            char* own) {
    if (!from.count) return;
    const int64_t groups = job.to->groups;
    for (int row = 0; row < ROWS; row++) {
        uint8_t* integers = reinterpret_cast<uint8_t*>(own + row * job.integers_room);
        if (tile * ROWS + row < job.from->rows)
            unpack_codes(from, tile * ROWS + row, groups, integers);
        else
            memset(integers, 0, static_cast<size_t>(groups));
        for (int64_t group = groups; group < (groups + 7) / 8 * 8; group++) integers[group] = 0;
    }
    for (int64_t first = 0; first < groups; first += 8) {
        uint8_t eight[8 * ROWS];
        for (int group = 0; group < 8; group++)
            for (int row = 0; row < ROWS; row++) {
                const uint8_t integer = static_cast<uint8_t>(own[row * job.integers_room + first + group]);
                eight[group * ROWS + row] = from.is_signed ? integer ^ 0x80 : integer;
            }
        put_planes(to, tile, first / 8, 2, eight);
    }
}

template <class Number>
INLINE void retile_numbers(const NumbersView& from, const NumbersView& to, int64_t rows, int64_t supers,
                           int64_t tile) {
    Number* out = static_cast<Number*>(const_cast<void*>(to.data)) + tile * to.stride;
    for (int64_t row = 0; row < ROWS; row++) {
        const bool is_there = tile * ROWS + row < rows;
        const Number* in = static_cast<const Number*>(from.data) + (tile * ROWS + row) * from.stride;
        for (int64_t super = 0; super < supers; super++) out[super * ROWS + row] = is_there ? in[super] : Number{0};
    }
}

static void retile_any_numbers(const RetileJob& job, const NumbersView& from, const NumbersView& to, int64_t tile) {
    if (!from.data) return;
    const int64_t rows = job.from->rows, supers = job.to->supers;
    if (from.form == FP32)
        retile_numbers<uint32_t>(from, to, rows, supers, tile);
    else if (from.form == EXPONENT)
        retile_numbers<uint8_t>(from, to, rows, supers, tile);
    else
        retile_numbers<uint16_t>(from, to, rows, supers, tile);
}

// By all threads of a team.
static void retile(const void* what, Team& team) {
    const RetileJob& job = *static_cast<const RetileJob*>(what);
    const PackedView& from = *job.from;
    const WeightView& to = *job.to;
    char* const integers = team.own + (ROWS + 1) * job.codes_room;
    team.share((from.rows + ROWS - 1) / ROWS, [&](int64_t tile) {
        retile_codes(job, tile, team.own);
        retile_integers(job, from.group_scales, to.group_scales, tile, integers);
        retile_integers(job, from.group_offsets, to.group_offsets, tile, integers);
        retile_integers(job, from.zeros, to.zeros, tile, integers);
        retile_any_numbers(job, from.scales, to.scales, tile);
        retile_any_numbers(job, from.offsets, to.offsets, tile);
    });
}
