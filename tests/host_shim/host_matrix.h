// The tensor cores' products, with the fragments as the PTX ISA lays them out (mma.sync).
//
// With group = lane / 4 and member = lane % 4, a register holds two neighbouring k of one row or column, in fp16 or
// bf16:
//     A, register r: row group + 8 * (r % 2), k = 2 * member + 8 * (r / 2) + 0 ... 1
//     B, register r: column group,            k = 2 * member + 8 * r + 0 ... 1
//     C, number i:   row group + 8 * (i / 2), column 2 * member + i % 2
// Of signed bytes a register holds four neighbouring k, of products that are twice as deep: 4 * member + 16 * ... in
// place of 2 * member + 8 * ...
// Sums are taken in fp64 and rounded once, which is within what the chips' own orders and roundings give; those of
// integers are exact.
#pragma once

#include "host_collectives.h"

namespace host {

struct HalfNumbers {
    static double widen(uint32_t word, int i) { return half_to_float(uint16_t(word >> 16 * i)); }
};

struct Bfloat16Numbers {
    static double widen(uint32_t word, int i) { return bits_to_float(i == 0 ? word << 16 : word & 0xFFFF0000u); }
};

struct SignedBytes {
    static double widen(uint32_t word, int i) { return int8_t(word >> 8 * i); }
};

// sums += A · B for one warp; 16 rows, 8 columns, k_parts registers of B deep, each of `numbers` numbers.
template <typename Numbers, int k_parts, int numbers = 2, typename Sum>
PASCALINE_INLINE void multiply(const char* operation, Sum* sums, const uint32_t* a, const uint32_t* b) {
    struct Fragments {
        uint32_t a[2 * k_parts], b[k_parts];
        Sum sums[4];
    } own;
    struct Sums {
        Sum sums[4];
    };
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b, b, sizeof own.b);
    memcpy(own.sums, sums, sizeof own.sums);
    const auto choose = [](unsigned lane, const Fragments* const* warp) {
        Sums results;
        for (int i = 0; i < 4; i++) {
            const int half = i / 2, column = 2 * int(lane % 4) + i % 2, group = int(lane / 4);
            double sum = warp[lane]->sums[i];
            for (int part = 0; part < k_parts; part++) {
                for (int member = 0; member < 4; member++) {
                    const uint32_t left = warp[4 * group + member]->a[part * 2 + half];
                    const uint32_t right = warp[4 * column + member]->b[part];
                    for (int e = 0; e < numbers; e++) sum += Numbers::widen(left, e) * Numbers::widen(right, e);
                }
            }
            results.sums[i] = Sum(sum);
        }
        return results;
    };
    const Sums results = exchange<Fragments, Sums>(operation, ALL_LANES, own, choose);
    memcpy(sums, results.sums, sizeof results.sums);
}

}  // namespace host

PASCALINE_INLINE void multiply_16x8x16_half(float (&sums)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
    host::multiply<host::HalfNumbers, 2>("mma.m16n8k16.f16", sums, a, b);
}
PASCALINE_INLINE void multiply_16x8x16_bfloat16(float (&sums)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
    host::multiply<host::Bfloat16Numbers, 2>("mma.m16n8k16.bf16", sums, a, b);
}
PASCALINE_INLINE void multiply_16x8x8_half(float (&sums)[4], const uint32_t (&a)[2], uint32_t b) {
    host::multiply<host::HalfNumbers, 1>("mma.m16n8k8.f16", sums, a, &b);
}
PASCALINE_INLINE void multiply_16x8x32_bytes(int32_t (&sums)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    host::multiply<host::SignedBytes, 2, 4>("mma.m16n8k32.s8", sums, a, b);
}
