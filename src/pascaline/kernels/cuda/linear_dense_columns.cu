// y = x * W^T for one row, W dense, (outputs, columns), in fp32 arithmetic: bound by reading W once.
//
// A block takes a run of outputs, and each of its threads the same columns of all of them, whose inputs stay in registers:
// they are read once a block, so that they may come from L2 and launches may overlap. OUTPUTS rows of W (with GATE, half
// of them gates and half the ups of the same outputs) are multiplied while as many are on their way.
//
// Definitions: those of epilogue.cuh; WEIGHT_TYPE; OUTPUTS; STEPS, vectors of 16 bytes of a row that a thread has; WARPS
// of a block; BLOCKS of a multiprocessor.
#include "dense_vector.cuh"
#include "epilogue.cuh"
#include "reduction.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int UNITS = OUTPUTS / (1 + GATE);  // outputs, or pairs of gate and up

struct Vectors {
    uint4 rows[OUTPUTS][STEPS];
};

class Columns {
  public:
    PASCALINE_INLINE Columns(const void* weight, int columns, int units, int last)
        : weight_(static_cast<const WeightElement::Stored*>(weight)), columns_(columns), units_(units), last_(last) {}

    // Of unit, unit + 1 ... before the block's last one; zeros of others.
    PASCALINE_INLINE void load(Vectors& vectors, int unit) const {
#pragma unroll
        for (int output = 0; output < OUTPUTS; output++) {
            const bool is_ours = unit + output % UNITS < last_;
            const int own = unit + output % UNITS + output / UNITS * units_;
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
                vectors.rows[output][i] = make_uint4(0, 0, 0, 0);
                if (is_ours && column(i) < columns_) {
                    const auto* const place = weight_ + size_t(own) * columns_ + column(i);
                    vectors.rows[output][i] = load_once(reinterpret_cast<const uint4*>(place));
                }
            }
        }
    }

    PASCALINE_INLINE void load_inputs(const float* x) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
#pragma unroll
            for (int j = 0; j < VECTOR; j += 4) {
                float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (column(i) < columns_) four = load_handed_on(reinterpret_cast<const float4*>(x + column(i) + j));
                inputs_[i][j] = four.x;
                inputs_[i][j + 1] = four.y;
                inputs_[i][j + 2] = four.z;
                inputs_[i][j + 3] = four.w;
            }
        }
    }

    PASCALINE_INLINE void multiply(const Vectors& vectors, float (&sums)[OUTPUTS]) const {
#pragma unroll
        for (int output = 0; output < OUTPUTS; output++) {
            sums[output] = 0.0f;
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
#pragma unroll
                for (int j = 0; j < VECTOR; j++) sums[output] += inputs_[i][j] * weight_of(vectors.rows[output][i], j);
            }
        }
    }

  private:
    const WeightElement::Stored* weight_;
    int columns_, units_, last_;
    float inputs_[STEPS][VECTOR];

    static PASCALINE_INLINE int column(int i) { return (i * THREADS + int(threadIdx.x)) * VECTOR; }
};

// Stores outputs unit ... of the threads' sums. Calls in a row use one half of `warps` and the other in turns: a warp that
// writes to one has passed the barrier of the call between, and so have those that read it before.
PASCALINE_INLINE void store(float (&sums)[OUTPUTS], float (&warps)[WARPS][OUTPUTS], const Epilogue& epilogue, int unit,
                            int last) {
    const int lane = threadIdx.x % 32;
    reduce_lanes<32>(sums, lane);
    if (lane % (32 / OUTPUTS) == 0) warps[threadIdx.x / 32][lane * OUTPUTS / 32] = sums[0];
    __syncthreads();
    const int own = threadIdx.x;
    if (own >= UNITS || unit + own >= last) return;
    float sum = 0.0f, up = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
        sum += warps[warp][own];
        if constexpr (GATE) up += warps[warp][own + OUTPUTS / 2];
    }
    if constexpr (GATE) {
        epilogue.store_gated(0, unit + own, sum, up);
    } else {
        epilogue.store(0, unit + own, sum);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
linear_dense_columns(const void* __restrict__ weight, const void* __restrict__ x, const void* bias, const void* residual,
                     void* y, int columns, int outputs) {
    __shared__ float warps[2][WARPS][OUTPUTS];
    const Epilogue epilogue = {bias, residual, y, outputs};
    const int units = outputs / (1 + GATE);
    const int first = int(size_t(units) * blockIdx.x / gridDim.x);
    const int last = int(size_t(units) * (blockIdx.x + 1) / gridDim.x);
    Columns own(weight, columns, units, last);
    Vectors even, odd;
    float sums[OUTPUTS];
    own.load(even, first);
    wait_for_launches_before();
    let_next_launch_begin();
    own.load_inputs(static_cast<const float*>(x));
#pragma unroll 1
    for (int unit = first; unit < last; unit += 2 * UNITS) {
        own.load(odd, unit + UNITS);
        own.multiply(even, sums);
        store(sums, warps[0], epilogue, unit, last);
        own.load(even, unit + 2 * UNITS);
        own.multiply(odd, sums);
        store(sums, warps[1], epilogue, unit + UNITS, last);
    }
}
