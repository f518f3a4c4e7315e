// The epilogue of neighbours in a row of y, which are stored together.
//
// Definitions: those of epilogue.cuh; STORED_TOGETHER: 4 if y's rows are multiples of 4 numbers, else 1.
#pragma once
#include "epilogue.cuh"

static_assert(STORED_TOGETHER == 1 || STORED_TOGETHER == 4, "a row of y is stored in fours or one by one");

// Neighbours in a row of sums or of y.
struct alignas(4 * STORED_TOGETHER) Neighbours {
    float values[STORED_TOGETHER];

    PASCALINE_INLINE void add(const Neighbours& addends) {
#pragma unroll
        for (int i = 0; i < STORED_TOGETHER; i++) values[i] += addends.values[i];
    }
};

// What y has of them in memory.
struct alignas(sizeof(OutputElement::Stored) * STORED_TOGETHER) StoredNeighbours {
    OutputElement::Stored values[STORED_TOGETHER];

    StoredNeighbours() = default;

    explicit PASCALINE_INLINE StoredNeighbours(const Neighbours& numbers) {
#pragma unroll
        for (int i = 0; i < STORED_TOGETHER; i++) values[i] = OutputElement::narrow(numbers.values[i]);
    }

    PASCALINE_INLINE Neighbours widened() const {
        Neighbours numbers;
#pragma unroll
        for (int i = 0; i < STORED_TOGETHER; i++) numbers.values[i] = OutputElement::widen(values[i]);
        return numbers;
    }
};

struct WideEpilogue : Epilogue {
    PASCALINE_INLINE Neighbours with_biases(int output, Neighbours sums) const {
#pragma unroll
        for (int i = 0; i < STORED_TOGETHER; i++) sums.values[i] = with_bias(output + i, sums.values[i]);
        return sums;
    }

    // y[row, output ...] of the sums; outputs that are padding are left out.
    PASCALINE_INLINE void store(int row, int output, const Neighbours& sums) const {
        if (output >= outputs) return;
        const size_t index = size_t(row) * outputs + output;
        Neighbours numbers = with_biases(output, sums);
        // In this place: the residual may be y itself.
        if constexpr (HAS_RESIDUAL) numbers.add(load_fresh(at(residual, index)).widened());
        *at(y, index) = StoredNeighbours(numbers);
    }

    // y[row, output ...] of the sums of outputs `output` (gates) and `output + outputs / 2`.
    PASCALINE_INLINE void store_gated(int row, int output, const Neighbours& gate_sums,
                                      const Neighbours& up_sums) const {
        const int half = outputs / 2;
        if (output >= half) return;
        const Neighbours gates = with_biases(output, gate_sums);
        Neighbours numbers = with_biases(output + half, up_sums);
#pragma unroll
        for (int i = 0; i < STORED_TOGETHER; i++) {
            numbers.values[i] *= gates.values[i] / (1.0f + expf(-gates.values[i]));
        }
        *at(y, size_t(row) * half + output) = StoredNeighbours(numbers);
    }

  private:
    static PASCALINE_INLINE const StoredNeighbours* at(const void* numbers, size_t index) {
        return reinterpret_cast<const StoredNeighbours*>(static_cast<const OutputElement::Stored*>(numbers) + index);
    }
    static PASCALINE_INLINE StoredNeighbours* at(void* numbers, size_t index) {
        return reinterpret_cast<StoredNeighbours*>(static_cast<OutputElement::Stored*>(numbers) + index);
    }
};
