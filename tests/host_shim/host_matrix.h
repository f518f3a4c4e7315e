// The tensor cores' products, with the fragments as the PTX ISA lays them out (mma.sync, ldmatrix).
//
// With group = lane / 4 and member = lane % 4, a register holds E neighbouring k of one row or column (two
// fp16 or bf16, four int8):
//     A, register r: row group + 8 * (r % row halves), k = E * member + 4 * E * (r / row halves) + 0 ... E -
//     1 B, register r: column group,                     k = E * member + 4 * E * r + 0 ... E - 1 C, number
//     i:   row group + 8 * (i / 2), column 2 * member + i % 2
// Sums are exact in int32; those of fp16 and bf16 are taken in fp64 and rounded once, which is within what
// the chips' own orders and roundings give.
#pragma once

#include "host_collectives.h"

namespace host {

struct HalfNumbers {
    using Sum = float;
    using Wide = double;
    static constexpr int per_register = 2;
    static Wide widen(uint32_t word, int i) { return half_to_float(uint16_t(word >> 16 * i)); }
    static Wide add(Wide sum, Wide a, Wide b) { return sum + a * b; }
};

struct Bfloat16Numbers : HalfNumbers {
    static Wide widen(uint32_t word, int i) {
        return bits_to_float(i == 0 ? word << 16 : word & 0xFFFF0000u);
    }
};

struct Int8Numbers {
    using Sum = int32_t;
    using Wide = uint32_t;  // int32 that wraps
    static constexpr int per_register = 4;
    static Wide widen(uint32_t word, int i) { return uint32_t(int32_t(int8_t(word >> 8 * i))); }
    static Wide add(Wide sum, Wide a, Wide b) { return sum + a * b; }
};

// sums += A · B for one warp; 8 * row_halves rows, 8 columns, 4 * E * k_parts deep.
template <typename Numbers, int row_halves, int k_parts>
PASCALINE_INLINE void multiply(const char* operation, typename Numbers::Sum* sums, const uint32_t* a,
                               const uint32_t* b) {
    using Sum = typename Numbers::Sum;
    constexpr int E = Numbers::per_register;
    struct Fragments {
        uint32_t a[row_halves * k_parts], b[k_parts];
        Sum sums[2 * row_halves];
    } own;
    struct Sums {
        Sum sums[2 * row_halves];
    };
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b, b, sizeof own.b);
    memcpy(own.sums, sums, sizeof own.sums);
    const auto choose = [](unsigned lane, const Fragments* const* warp) {
        Sums results;
        for (int i = 0; i < 2 * row_halves; i++) {
            const int half = i / 2, column = 2 * int(lane % 4) + i % 2, group = int(lane / 4);
            auto sum = typename Numbers::Wide(warp[lane]->sums[i]);
            for (int part = 0; part < k_parts; part++) {
                for (int member = 0; member < 4; member++) {
                    const uint32_t left = warp[4 * group + member]->a[part * row_halves + half];
                    const uint32_t right = warp[4 * column + member]->b[part];
                    for (int e = 0; e < E; e++) {
                        sum = Numbers::add(sum, Numbers::widen(left, e), Numbers::widen(right, e));
                    }
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
    host::multiply<host::HalfNumbers, 2, 2>("mma.m16n8k16.f16", sums, a, b);
}
PASCALINE_INLINE void multiply_16x8x16_bfloat16(float (&sums)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
    host::multiply<host::Bfloat16Numbers, 2, 2>("mma.m16n8k16.bf16", sums, a, b);
}
PASCALINE_INLINE void multiply_16x8x8_half(float (&sums)[4], const uint32_t (&a)[2], uint32_t b) {
    host::multiply<host::HalfNumbers, 2, 1>("mma.m16n8k8.f16", sums, a, &b);
}
PASCALINE_INLINE void multiply_16x8x32_int8(int32_t (&sums)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
    host::multiply<host::Int8Numbers, 2, 2>("mma.m16n8k32.s8", sums, a, b);
}
PASCALINE_INLINE void multiply_8x8x16_int8(int32_t (&sums)[2], uint32_t a, uint32_t b) {
    host::multiply<host::Int8Numbers, 1, 1>("mma.m8n8k16.s8", sums, &a, &b);
}

// Four 8x8 matrices of 16-bit numbers: lane L gives the address of row L % 8 of matrix L / 8.
PASCALINE_INLINE void load_four_matrices(uint32_t (&fragments)[4], const void* row) {
    struct Four {
        uint32_t words[4];
    };
    const Four four = host::exchange<const void*, Four>(
        "ldmatrix.x4", ALL_LANES, row, [](unsigned lane, const void* const* const* rows) {
            Four result;
            for (unsigned matrix = 0; matrix < 4; matrix++) {
                const uint32_t* words = static_cast<const uint32_t*>(*rows[8 * matrix + lane / 4]);
                result.words[matrix] = words[lane % 4];
            }
            return result;
        });
    memcpy(fragments, four.words, sizeof fragments);
}
