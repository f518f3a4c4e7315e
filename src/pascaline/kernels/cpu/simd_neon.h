// Vectors of NEON with dot products of bytes.

#pragma once

#include <arm_neon.h>

constexpr int VECTOR_BYTES = 16;
// sdot multiplies signed bytes.
constexpr bool SIGNED_BYTES = true;
using Integers = int32x4_t;
using Floats = float32x4_t;
// Sixteen bytes that are looked up.
using Table = int8x16_t;

INLINE uint8x16_t as_bytes(Integers v) { return vreinterpretq_u8_s32(v); }
INLINE Integers as_integers(uint8x16_t v) { return vreinterpretq_s32_u8(v); }

INLINE Integers load_bytes(const void* from) { return as_integers(vld1q_u8(static_cast<const uint8_t*>(from))); }
INLINE void store_bytes(void* to, Integers v) { vst1q_u8(static_cast<uint8_t*>(to), as_bytes(v)); }
INLINE Integers zero_integers() { return vdupq_n_s32(0); }
INLINE Integers every_byte(int value) { return as_integers(vdupq_n_u8(static_cast<uint8_t>(value))); }
INLINE Integers every_integer(const void* from) {
    int32_t value;
    memcpy(&value, from, 4);
    return vdupq_n_s32(value);
}
INLINE Integers and_bits(Integers a, Integers b) { return vandq_s32(a, b); }
INLINE Integers flip_bits(Integers a, Integers b) { return veorq_s32(a, b); }
INLINE Table load_table(const int8_t* from) { return vld1q_s8(from); }
INLINE Integers look_up(Table table, Integers indices) {
    return vreinterpretq_s32_s8(vqtbl1q_s8(table, as_bytes(indices)));
}
INLINE Integers add_integers(Integers a, Integers b) { return vaddq_s32(a, b); }
INLINE Floats to_floats(Integers v) { return vcvtq_f32_s32(v); }
INLINE Floats zero_floats() { return vdupq_n_f32(0); }
INLINE Floats load_floats(const float* from) { return vld1q_f32(from); }
INLINE void store_floats(float* to, Floats v) { vst1q_f32(to, v); }
INLINE Floats every_float(const float* from) { return vld1q_dup_f32(from); }
INLINE Floats every_float(float value) { return vdupq_n_f32(value); }
INLINE Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
INLINE Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
INLINE Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return vfmsq_f32(c, a, b); }
// Where one of the two is NaN: b, which is not what fmax does.
INLINE Floats largest(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE Floats smallest(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE Floats magnitude(Floats v) { return vabsq_f32(v); }
INLINE Floats with_sign(Floats a, Floats b) { return vbslq_f32(vdupq_n_u32(0x80000000), b, a); }
INLINE Floats nearest(Floats v) { return vrndnq_f32(v); }
INLINE Floats scale_by_power(Floats v, Floats n) {
    // In two steps, each by a power that fp32 has; the first is exact.
    const int32x4_t power = vcvtnq_s32_f32(n), half = vshrq_n_s32(power, 1), one = vdupq_n_s32(127);
    const int32x4_t low = vshlq_n_s32(vaddq_s32(half, one), 23);
    const int32x4_t high = vshlq_n_s32(vaddq_s32(vsubq_s32(power, half), one), 23);
    return vmulq_f32(vmulq_f32(v, vreinterpretq_f32_s32(low)), vreinterpretq_f32_s32(high));
}
using Mask = uint32x4_t;
INLINE Mask is_less(Floats a, Floats b) { return vcltq_f32(a, b); }
INLINE Mask is_nan(Floats v) { return vmvnq_u32(vceqq_f32(v, v)); }
INLINE Floats choose(Mask mask, Floats yes, Floats no) { return vbslq_f32(mask, yes, no); }
INLINE uint32_t bits_of(Mask mask) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(mask, bits));
}
INLINE Floats load_some(const float* from, int64_t count) {
    if (count >= 4) return vld1q_f32(from);
    float some[4] = {};
    for (int64_t i = 0; i < count; i++) some[i] = from[i];
    return vld1q_f32(some);
}
INLINE void store_some(float* to, Floats v, int64_t count) {
    if (count >= 4) return vst1q_f32(to, v);
    float some[4];
    vst1q_f32(some, v);
    for (int64_t i = 0; i < count; i++) to[i] = some[i];
}

// Those from `first` to before `stop`, which may lie outside.
INLINE Mask lanes_between(int first, int stop) {
    const int32x4_t lane = {0, 1, 2, 3};
    return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(first)), vcltq_s32(lane, vdupq_n_s32(stop)));
}
// Lanes i and i + 2, and of those i and i + 1.
INLINE float add_lanes(Floats v) {
    const float32x2_t two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(vadd_f32(two, vdup_lane_f32(two, 1)), 0);
}
INLINE float largest_of_lanes(Floats v) {
    const Floats two = largest(v, vextq_f32(v, v, 2));
    return vgetq_lane_f32(largest(two, vextq_f32(two, two, 1)), 0);
}

INLINE float square_root(float value) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(value)), 0); }
INLINE float widen_half(uint16_t half) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

// Eight numbers rounded to fp16, of two nearest the even one; what is too large becomes the largest, NaN stays.
INLINE void narrow_eight(const float* from, uint16_t* to) {
    const Floats most = vdupq_n_f32(65504.0f), least = vdupq_n_f32(-65504.0f);
    for (int i = 0; i < 8; i += 4) {
        const Floats x = smallest(most, largest(least, vld1q_f32(from + i)));
        vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(x)));
    }
}

// Of four rows, the 16 bytes from `at` on to columns of four bytes: column i to `to + i * stride`.
INLINE void put_columns(uint8_t* const* rows, int64_t at, uint8_t* to, int64_t stride) {
    uint32x4_t four[4];
    for (int i = 0; i < 4; i++) four[i] = vreinterpretq_u32_u8(vld1q_u8(rows[i] + at));
    const uint64x2_t low = vreinterpretq_u64_u32(vtrn1q_u32(four[0], four[1]));
    const uint64x2_t high = vreinterpretq_u64_u32(vtrn1q_u32(four[2], four[3]));
    const uint64x2_t odd_low = vreinterpretq_u64_u32(vtrn2q_u32(four[0], four[1]));
    const uint64x2_t odd_high = vreinterpretq_u64_u32(vtrn2q_u32(four[2], four[3]));
    const uint64x2_t columns[4] = {vtrn1q_u64(low, high), vtrn1q_u64(odd_low, odd_high), vtrn2q_u64(low, high),
                                   vtrn2q_u64(odd_low, odd_high)};
    for (int i = 0; i < 4; i++) vst1q_u8(to + i * stride, vreinterpretq_u8_u64(columns[i]));
}

// 32 bytes.
struct Bytes {
    uint8x16_t low, high;
};

INLINE Bytes bytes_at(const void* from) {
    const uint8_t* bytes = static_cast<const uint8_t*>(from);
    return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
}
INLINE void put_bytes(void* to, Bytes v) {
    vst1q_u8(static_cast<uint8_t*>(to), v.low);
    vst1q_u8(static_cast<uint8_t*>(to) + 16, v.high);
}
INLINE Bytes zero_bytes() { return {vdupq_n_u8(0), vdupq_n_u8(0)}; }
// The sixteen at `from`, twice.
INLINE Bytes bytes_twice(const void* from) {
    const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(from));
    return {bytes, bytes};
}
INLINE Bytes halves_of(Bytes low, Bytes high) { return {low.low, high.high}; }
INLINE Bytes and_bits(Bytes v, int mask) {
    const uint8x16_t masks = vdupq_n_u8(static_cast<uint8_t>(mask));
    return {vandq_u8(v.low, masks), vandq_u8(v.high, masks)};
}
INLINE Bytes or_bits(Bytes a, Bytes b) { return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)}; }
INLINE Bytes shift_left(Bytes v, int bits) { return {v.low << bits, v.high << bits}; }
INLINE Bytes shift_right(Bytes v, int bits) { return {v.low >> bits, v.high >> bits}; }

// A byte each for the fields, of BITS bits, of 4 * BITS bytes; what lies above the field is to be masked out.
template <int BITS>
INLINE Bytes spread(const uint8_t* from) {
    constexpr int COUNT = 8 / BITS;
    uint8_t some[16] = {}, places[32];
    int8_t down[16];
    memcpy(some, from, 4 * BITS);
    for (int i = 0; i < 32; i++) places[i] = static_cast<uint8_t>(i / COUNT);
    for (int i = 0; i < 16; i++) down[i] = static_cast<int8_t>(-(i % COUNT * BITS));
    const uint8x16_t bytes = vld1q_u8(some);
    const int8x16_t shifts = vld1q_s8(down);
    return {vshlq_u8(vqtbl1q_u8(bytes, vld1q_u8(places)), shifts),
            vshlq_u8(vqtbl1q_u8(bytes, vld1q_u8(places + 16)), shifts)};
}

// The largest magnitude of 32 numbers, as bits: those of positive floats order like integers, and Inf and NaN are
// the largest.
INLINE uint32_t largest_bits(const float* x) {
    uint32x4_t most = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++)
        most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + 4 * i)), vdupq_n_u32(0x7FFFFFFF)));
    return vmaxvq_u32(most);
}

// 32 numbers times `factor` to the nearest integers, of two the even one, which must be signed bytes.
INLINE Bytes round_to_bytes(const float* x, float factor) {
    uint8x16_t halves[2];
    for (int half = 0; half < 2; half++) {
        int16x4_t narrow[4];
        for (int i = 0; i < 4; i++)
            narrow[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * half + 4 * i), factor)));
        const int8x8_t first = vmovn_s16(vcombine_s16(narrow[0], narrow[1]));
        const int8x8_t last = vmovn_s16(vcombine_s16(narrow[2], narrow[3]));
        halves[half] = vreinterpretq_u8_s8(vcombine_s8(first, last));
    }
    return {halves[0], halves[1]};
}

// Sums of the first and the last 16, as signed bytes.
struct Sums {
    int low, high;
};

INLINE Sums sums_of(Bytes v) {
    return {vaddlvq_s8(vreinterpretq_s8_u8(v.low)), vaddlvq_s8(vreinterpretq_s8_u8(v.high))};
}

// Four floats, and four doubles.
using Four = float32x4_t;
struct Doubles {
    float64x2_t low, high;
};

INLINE Four four_at(const float* from) { return vld1q_f32(from); }
INLINE Four four_of(float value) { return vdupq_n_f32(value); }
// In place of larger ones, and of NaN, `most`.
INLINE Doubles widen_up_to(Four v, float most) {
    const Floats some = smallest(v, vdupq_n_f32(most));
    return {vcvt_f64_f32(vget_low_f32(some)), vcvt_high_f64_f32(some)};
}
INLINE Doubles every_double(double value) { return {vdupq_n_f64(value), vdupq_n_f64(value)}; }
INLINE void store_doubles(double* to, Doubles v) {
    vst1q_f64(to, v.low);
    vst1q_f64(to + 2, v.high);
}
INLINE double first_of(Doubles v) { return vgetq_lane_f64(v.low, 0); }
INLINE Doubles add(Doubles a, Doubles b) { return {vaddq_f64(a.low, b.low), vaddq_f64(a.high, b.high)}; }
INLINE Doubles subtract(Doubles a, Doubles b) { return {vsubq_f64(a.low, b.low), vsubq_f64(a.high, b.high)}; }
INLINE Doubles multiply(Doubles a, Doubles b) { return {vmulq_f64(a.low, b.low), vmulq_f64(a.high, b.high)}; }
INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
    return {vfmaq_f64(c.low, a.low, b.low), vfmaq_f64(c.high, a.high, b.high)};
}
INLINE Doubles subtract_product(Doubles c, Doubles a, Doubles b) {
    return {vfmsq_f64(c.low, a.low, b.low), vfmsq_f64(c.high, a.high, b.high)};
}
// Where one of the two is NaN: b.
INLINE Doubles largest(Doubles a, Doubles b) {
    return {vbslq_f64(vcgtq_f64(a.low, b.low), a.low, b.low), vbslq_f64(vcgtq_f64(a.high, b.high), a.high, b.high)};
}
// v where a < b, else 0.
INLINE Doubles where_less(Doubles a, Doubles b, Doubles v) {
    const float64x2_t zero = vdupq_n_f64(0);
    return {vbslq_f64(vcltq_f64(a.low, b.low), v.low, zero), vbslq_f64(vcltq_f64(a.high, b.high), v.high, zero)};
}
// v 2^n, for a normal v and result; `shifted` is 1.5 * 2^52 + n.
INLINE Doubles scale_by_shifted(Doubles v, Doubles shifted) {
    const auto part = [](float64x2_t value, float64x2_t by) {
        const int64x2_t exponent = vshlq_n_s64(vreinterpretq_s64_f64(by), 52);
        return vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(value), exponent));
    };
    return {part(v.low, shifted.low), part(v.high, shifted.high)};
}
