// Planes of bits, row by row as checkpoints have them, to bytes.

#pragma once

#include "kernel.h"

// Fields of BITS bits of a plane's row, shifted left, one a byte: stored for the first plane of a code, or-ed in
// for the second. Fields are taken out of whole words, of as many bytes as divide a run.
template <bool FIRST, class Word>
INLINE void put_word(Word value, uint8_t* to) {
    if (!FIRST) {
        Word old;
        memcpy(&old, to, sizeof(Word));
        value |= old;
    }
    memcpy(to, &value, sizeof(Word));
}

template <bool FIRST>
INLINE void put_vector(Bytes value, int shift, uint8_t* to) {
    put_bytes(to, FIRST ? value : or_bits(shift_left(value, shift), bytes_at(to)));
}

template <int BITS, bool FIRST, class Word>
INLINE void put_words(const uint8_t* from, int64_t wide, int64_t runs, int shift, uint8_t* out) {
    constexpr int COUNT = 8 / BITS;
    constexpr Word MASK = static_cast<Word>(0x0101010101010101ull * ((1u << BITS) - 1));
    for (int64_t run = 0; run < runs; run++, from += wide, out += wide * COUNT)
        for (int64_t i = 0; i < wide; i += static_cast<int64_t>(sizeof(Word))) {
            Word word;
            memcpy(&word, from + i, sizeof(Word));
            for (int field = 0; field < COUNT; field++)
                put_word<FIRST>(static_cast<Word>(((word >> field * BITS) & MASK) << shift), out + field * wide + i);
        }
}

template <int BITS, bool FIRST>
INLINE void put_vectors(const uint8_t* from, int64_t wide, int64_t runs, int shift, uint8_t* out) {
    constexpr int COUNT = 8 / BITS;
    for (int64_t run = 0; run < runs; run++, from += wide, out += wide * COUNT)
        for (int64_t i = 0; i < wide; i += 32) {
            const Bytes word = bytes_at(from + i);
            for (int field = 0; field < COUNT; field++) {
                const Bytes value = and_bits(shift_right(word, field * BITS), (1 << BITS) - 1);
                put_vector<FIRST>(value, shift, out + field * wide + i);
            }
        }
}

// A byte's fields are neighbours.
template <int BITS, bool FIRST>
INLINE void put_stream(const uint8_t* from, int64_t columns, int shift, uint8_t* out) {
    constexpr int COUNT = 8 / BITS, AT_ONCE = 32 / COUNT;
    int64_t byte = 0;
    for (; (byte + AT_ONCE) * COUNT <= columns; byte += AT_ONCE) {
        const Bytes fields = and_bits(spread<BITS>(from + byte), (1 << BITS) - 1);
        put_vector<FIRST>(fields, shift, out + byte * COUNT);
    }
    for (int64_t k = byte * COUNT; k < columns; k++) {
        int value = (from[k / COUNT] >> k % COUNT * BITS & ((1 << BITS) - 1)) << shift;
        put_word<FIRST>(static_cast<uint8_t>(value), out + k);
    }
}

template <int BITS, bool FIRST>
static void put_plane(const PlaneView& plane, int64_t row, int64_t columns, int shift, uint8_t* out) {
    const uint8_t* from = plane.data + row * plane.stride;
    const int64_t wide = static_cast<int64_t>(plane.run) * BITS / 8;
    const int64_t runs = (columns + plane.run - 1) / plane.run;
    if (wide == 1)
        put_stream<BITS, FIRST>(from, columns, shift, out);
    else if (wide % 32 == 0)
        put_vectors<BITS, FIRST>(from, wide, runs, shift, out);
    else if (wide % 8 == 0)
        put_words<BITS, FIRST, uint64_t>(from, wide, runs, shift, out);
    else if (wide % 4 == 0)
        put_words<BITS, FIRST, uint32_t>(from, wide, runs, shift, out);
    else
        put_words<BITS, FIRST, uint8_t>(from, wide, runs, shift, out);
}

// All codes of a row to bytes; `out` has room for whole runs of every plane, see `room_for`.
static void unpack_codes(const CodesView& codes, int64_t row, int64_t columns, uint8_t* out) {
    const PlaneView &first = codes.planes[0], &second = codes.planes[1];
    switch (first.bits) {
        case 1: put_plane<1, true>(first, row, columns, 0, out); break;
        case 2: put_plane<2, true>(first, row, columns, 0, out); break;
        case 4: put_plane<4, true>(first, row, columns, 0, out); break;
        default: memcpy(out, first.data + row * first.stride, static_cast<size_t>(columns));
    }
    if (codes.count < 2) return;
    if (second.bits == 1)
        put_plane<1, false>(second, row, columns, first.bits, out);
    else
        put_plane<2, false>(second, row, columns, first.bits, out);
}

// Bytes that `unpack_codes` may write for `columns` codes: whole runs of every plane.
static int64_t room_for(const CodesView& codes, int64_t columns) {
    int64_t run = 256;
    for (int i = 0; i < codes.count; i++) run = run > codes.planes[i].run ? run : codes.planes[i].run;
    return columns + run;
}
