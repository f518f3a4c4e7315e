// x (rows, columns) in bf16: `rows` rows of the nearest numbers to it and, with two of them, as many of the nearest to
// what is left.
//
// A thread takes a vector. Definitions: INPUT_TYPE; those of brain_numbers.cuh.
#include "brain_numbers.cuh"

using InputElement = Element<INPUT_TYPE>;
constexpr int THREADS = 256;

// vectors: of all rows.
extern "C" __global__ void __launch_bounds__(THREADS)
round_rows(const void* __restrict__ x, uint16_t* __restrict__ halves, int vectors) {
    let_next_launch_begin();
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= vectors) return;
    const auto* const place = static_cast<const InputElement::Stored*>(x) + size_t(index) * WIDTH;
    wait_for_launches_before();
    Numbers<INPUT_TYPE> lying;
    lying.whole = load_handed_on(reinterpret_cast<const Lying<INPUT_TYPE, WIDTH>::Whole*>(place));
    store_brain_numbers(lying.widened(), halves + size_t(index) * WIDTH, size_t(vectors) * WIDTH);
}
