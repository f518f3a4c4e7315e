// Planes of bits, row by row as checkpoints have them, to bytes.

#pragma once

#include <immintrin.h>

#include <cstring>

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
INLINE void put_vector(__m256i value, uint8_t* to) {
    __m256i* at = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(at, FIRST ? value : _mm256_or_si256(value, _mm256_loadu_si256(at)));
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
    const __m256i mask = _mm256_set1_epi8((1 << BITS) - 1);
    const __m128i left = _mm_cvtsi32_si128(shift);
    for (int64_t run = 0; run < runs; run++, from += wide, out += wide * COUNT)
        for (int64_t i = 0; i < wide; i += 32) {
            __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
            for (int field = 0; field < COUNT; field++) {
                __m256i value = _mm256_and_si256(_mm256_srli_epi16(word, field * BITS), mask);
                put_vector<FIRST>(FIRST ? value : _mm256_sll_epi16(value, left), out + field * wide + i);
            }
        }
}

// A byte's fields are neighbours.
template <int BITS, bool FIRST>
INLINE void put_stream(const uint8_t* from, int64_t columns, int shift, uint8_t* out) {
    constexpr int COUNT = 8 / BITS, AT_ONCE = 32 / COUNT;
    const __m256i mask = _mm256_set1_epi8((1 << BITS) - 1);
    const __m128i left = _mm_cvtsi32_si128(shift);
    int64_t byte = 0;
    for (; (byte + AT_ONCE) * COUNT <= columns; byte += AT_ONCE) {
        // Each byte in as many places as it has fields, and in each the one wanted shifted down.
        __m256i spread;
        if (BITS == 4) {
            spread = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + byte)));
            spread = _mm256_or_si256(spread, _mm256_slli_epi16(spread, 4));
        } else if (BITS == 2) {
            spread = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + byte)));
            spread = _mm256_or_si256(spread, _mm256_slli_epi32(spread, 12));
            spread = _mm256_or_si256(spread, _mm256_slli_epi32(spread, 6));
        } else {
            int32_t four;
            memcpy(&four, from + byte, 4);
            spread = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
            spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 28));
            spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 14));
            spread = _mm256_or_si256(spread, _mm256_slli_epi64(spread, 7));
        }
        spread = _mm256_and_si256(spread, mask);
        put_vector<FIRST>(FIRST ? spread : _mm256_sll_epi16(spread, left), out + byte * COUNT);
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
