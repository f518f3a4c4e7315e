// Wide: sixteen floats, as many as a page has keys.

#pragma once

#include "elementary.h"
#include "tile_vectors.h"

struct Wide {
    Floats parts[PARTS];
};

// of(part) for each part.
template <class Of>
INLINE Wide by_parts(const Of& of) {
    Wide v;
    for (int i = 0; i < PARTS; i++) v.parts[i] = of(i);
    return v;
}

INLINE Wide every_wide(float value) {
    return by_parts([=](int) { return every_float(value); });
}
INLINE Wide zero_wide() { return every_wide(0); }
INLINE Wide load_wide(const float* from) {
    return by_parts([=](int i) { return load_floats(from + i * LANES); });
}
INLINE Wide load_wide(const uint16_t* from) {
    return by_parts([=](int i) { return widen_halves(from + i * LANES); });
}
INLINE void store_wide(float* to, const Wide& v) {
    for (int i = 0; i < PARTS; i++) store_floats(to + i * LANES, v.parts[i]);
}
INLINE Wide add(const Wide& a, const Wide& b) {
    return by_parts([&](int i) { return add(a.parts[i], b.parts[i]); });
}
INLINE Wide largest(const Wide& a, const Wide& b) {
    return by_parts([&](int i) { return largest(a.parts[i], b.parts[i]); });
}
INLINE Wide subtract(const Wide& a, const Wide& b) {
    return by_parts([&](int i) { return subtract(a.parts[i], b.parts[i]); });
}
INLINE Wide subtract(const Wide& a, Floats b) {
    return by_parts([&](int i) { return subtract(a.parts[i], b); });
}
INLINE Wide multiply(const Wide& a, Floats b) {
    return by_parts([&](int i) { return multiply(a.parts[i], b); });
}
INLINE Wide multiply_add(const Wide& a, Floats b, const Wide& c) {
    return by_parts([&](int i) { return multiply_add(a.parts[i], b, c.parts[i]); });
}
INLINE Wide exponential(const Wide& v) {
    return by_parts([&](int i) { return exponential(v.parts[i]); });
}
INLINE Wide hyperbolic_tangent(const Wide& v) {
    return by_parts([&](int i) { return hyperbolic_tangent(v.parts[i]); });
}
// v in the lanes from `first` to before `stop`, minus infinity in the others.
INLINE Wide only(const Wide& v, int first, int stop) {
    return by_parts([&](int i) {
        return choose(lanes_between(first - i * LANES, stop - i * LANES), v.parts[i], every_float(-INFINITE));
    });
}

// Lanes i and i + 8 first, then i and i + 4, and so on, by every instruction set.
INLINE float add_all(Wide v) {
    for (int half = PARTS / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v.parts[i] = add(v.parts[i], v.parts[i + half]);
    return add_lanes(v.parts[0]);
}
INLINE float largest_of_all(Wide v) {
    for (int half = PARTS / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v.parts[i] = largest(v.parts[i], v.parts[i + half]);
    return largest_of_lanes(v.parts[0]);
}

INLINE float to_float(float value) { return value; }
INLINE float to_float(uint16_t half) { return widen_half(half); }
