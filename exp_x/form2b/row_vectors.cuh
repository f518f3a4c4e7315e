// Neighbouring numbers of a row, as fp32: four of them where all rows are whole vectors that begin at multiples of
// their size, else one.
//
// Definitions: WIDTH, 4 or 1.
#pragma once
#include "platform.cuh"

struct Vector {
    float values[WIDTH];
};

// As they lie in memory.
template <int type, int width>
struct Lying {
    using Whole = uint2;
};
template <int type>
struct Lying<type, 1> {
    using Whole = uint16_t;
};
template <>
struct Lying<FP32, 4> {
    using Whole = float4;
};
template <>
struct Lying<FP32, 1> {
    using Whole = float;
};

template <int type>
union Numbers {
    typename Lying<type, WIDTH>::Whole whole;
    typename Element<type>::Stored numbers[WIDTH];

    PASCALINE_INLINE Vector widened() const {
        Vector vector;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) vector.values[i] = Element<type>::widen(numbers[i]);
        return vector;
    }
};

// Of a parameter, which no launch writes.
template <int type>
PASCALINE_INLINE Vector load_parameter(const typename Element<type>::Stored* place) {
    using Whole = typename Lying<type, WIDTH>::Whole;
    Numbers<type> lying;
    lying.whole = load_constant(reinterpret_cast<const Whole*>(place));
    return lying.widened();
}

// Of what an earlier launch wrote and this one does not.
PASCALINE_INLINE Vector load_activation(const float* place) {
    using Whole = Lying<FP32, WIDTH>::Whole;
    Numbers<FP32> lying;
    lying.whole = load_handed_on(reinterpret_cast<const Whole*>(place));
    return lying.widened();
}

// Of what this launch may write to afterwards.
PASCALINE_INLINE Vector load_changing(const float* place) {
    using Whole = Lying<FP32, WIDTH>::Whole;
    Numbers<FP32> lying;
    lying.whole = load_fresh(reinterpret_cast<const Whole*>(place));
    return lying.widened();
}

template <int type>
PASCALINE_INLINE void store_vector(typename Element<type>::Stored* place, const Vector& vector) {
    using Whole = typename Lying<type, WIDTH>::Whole;
    Numbers<type> lying;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) lying.numbers[i] = Element<type>::narrow(vector.values[i]);
    *reinterpret_cast<Whole*>(place) = lying.whole;
}
