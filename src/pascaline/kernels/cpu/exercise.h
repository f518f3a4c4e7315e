// What the processor does at most: loops that do one thing, on all threads at once.
//
// Products are those of a matrix product's innermost loop, A vectors by B single values out of the first cache into
// A * B sums: enough of these that none waits for the one before, few enough that they fit into registers.

#pragma once

#include "kernel.h"
#include "tile_vectors.h"

#include <ctime>

namespace exercise {

enum What : int32_t { FP32 = 0, INT8 = 1, CLOCKS = 2, READS = 3 };

struct Exercise {
    int32_t what;
    int64_t rounds;
    const char* data;  // to read
    int64_t bytes;
    double* seconds;  // what each thread had of a processor: others may take it away meanwhile
};

INLINE double processor_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// AVX2 has sixteen registers, the others twice as many.
constexpr bool FEW_REGISTERS = VECTOR_BYTES == 32;
constexpr int FLOAT_VECTORS = FEW_REGISTERS ? 3 : 4, BYTE_VECTORS = FEW_REGISTERS ? 2 : 4, VALUES = 4;
constexpr int ADDITIONS = 16;
constexpr int64_t BYTES_A_CHUNK = 1 << 20;
constexpr int CHAINS = 8;

// The compiler may not know what is at `from`, else it would multiply once and be done.
template <class T>
INLINE void forget(const T*& from) {
    asm volatile("" : "+r"(from));
}

static void multiply_floats(int64_t rounds, char* room) {
    const float* from = reinterpret_cast<const float*>(room);
    Floats sums[FLOAT_VECTORS][VALUES];
    for (auto& row : sums)
        for (Floats& sum : row) sum = zero_floats();
    for (int64_t round = 0; round < rounds; round++) {
        forget(from);
        Floats vectors[FLOAT_VECTORS];
        for (int a = 0; a < FLOAT_VECTORS; a++) vectors[a] = load_floats(from + a * LANES);
        for (int b = 0; b < VALUES; b++) {
            const Floats value = every_float(from + b);
            for (int a = 0; a < FLOAT_VECTORS; a++) sums[a][b] = multiply_add(vectors[a], value, sums[a][b]);
        }
    }
    for (int a = 0; a < FLOAT_VECTORS; a++)
        for (int b = 0; b < VALUES; b++)
            store_floats(reinterpret_cast<float*>(room) + (a * VALUES + b) * LANES, sums[a][b]);
}

static void multiply_bytes(int64_t rounds, char* room) {
    const int8_t* from = reinterpret_cast<const int8_t*>(room);
    Integers sums[BYTE_VECTORS][VALUES];
    for (auto& row : sums)
        for (Integers& sum : row) sum = zero_integers();
    for (int64_t round = 0; round < rounds; round++) {
        forget(from);
        Factor factors[BYTE_VECTORS];
        for (int a = 0; a < BYTE_VECTORS; a++) factors[a] = factor<false>(load_bytes(from + a * VECTOR_BYTES));
        for (int b = 0; b < VALUES; b++) {
            const Word value = word_at(from, b);
            for (int a = 0; a < BYTE_VECTORS; a++) sums[a][b] = add_products<false>(sums[a][b], factors[a], value);
        }
    }
    for (int a = 0; a < BYTE_VECTORS; a++)
        for (int b = 0; b < VALUES; b++) store_bytes(room + (a * VALUES + b) * VECTOR_BYTES, sums[a][b]);
}

// A register to itself takes a clock; adding a constant would not, where processors do it while they rename registers.
static void count_clocks(int64_t rounds) {
    uint64_t value = 1;
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 16
        for (int i = 0; i < ADDITIONS; i++)
#if defined(__x86_64__)
            asm volatile("add %0, %0" : "+r"(value)::"cc");
#else
            asm volatile("add %0, %0, %0" : "+r"(value));
#endif
}

static void read_memory(const Exercise& work, Team& team) {
    Integers sums[CHAINS];
    for (Integers& sum : sums) sum = zero_integers();
    team.share(work.bytes / BYTES_A_CHUNK, [&](int64_t chunk) {
        const char* from = work.data + chunk * BYTES_A_CHUNK;
        for (int64_t at = 0; at < BYTES_A_CHUNK; at += CHAINS * VECTOR_BYTES)
            for (int chain = 0; chain < CHAINS; chain++)
                sums[chain] = add_integers(sums[chain], load_bytes(from + at + chain * VECTOR_BYTES));
    });
    for (int chain = 0; chain < CHAINS; chain++) store_bytes(team.own + chain * VECTOR_BYTES, sums[chain]);
}

// Also of what the products read.
constexpr int64_t ROOM = 16 * 64;

static void go_on(const Exercise& work, Team& team) {
    switch (work.what) {
        case FP32: return multiply_floats(work.rounds, team.own);
        case INT8: return multiply_bytes(work.rounds, team.own);
        case CLOCKS: return count_clocks(work.rounds);
        default:
            for (int64_t round = 0; round < work.rounds; round++) read_memory(work, team);
    }
}

static void run(const void* job, Team& team) {
    const Exercise& work = *static_cast<const Exercise*>(job);
    memset(team.own, 0, ROOM);
    const double began = processor_seconds();
    go_on(work, team);
    work.seconds[team.number] = processor_seconds() - began;
}

// What all rounds amount to: operations of each thread, a product and a sum being two; clocks; bytes of all.
INLINE int64_t amount(const Exercise& work) {
    switch (work.what) {
        case FP32: return work.rounds * FLOAT_VECTORS * VALUES * LANES * 2;
        case INT8: return work.rounds * BYTE_VECTORS * VALUES * VECTOR_BYTES * 2;
        case CLOCKS: return work.rounds * ADDITIONS;
        default: return work.rounds * (work.bytes / BYTES_A_CHUNK) * BYTES_A_CHUNK;
    }
}

}  // namespace exercise
