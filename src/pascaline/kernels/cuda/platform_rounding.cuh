// Products whose rounding is part of a result: no compiler makes one operation of them and a sum.
#pragma once
#include "platform.cuh"

#if defined(PASCALINE_HOST)
PASCALINE_INLINE float multiply_rounded(float a, float b) { return a * b; }
#else
PASCALINE_INLINE float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }
#endif
