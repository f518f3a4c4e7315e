// Powers of two, of which softmaxes are made: exp(x) is the one of x * log2(e).
#pragma once
#include "platform.cuh"

constexpr float LOG2_E = 1.44269504f;

// 2^x to about two ulps; 0 for -infinity and for results below 2^-126.
PASCALINE_INLINE float power_of_two(float x) {
#if defined(PASCALINE_HOST)
    return exp2f(x);
#else
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#endif
}
