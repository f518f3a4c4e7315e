// What the lanes of a warp do together: shuffles, votes and products of tiles.
#pragma once

#include "host_numbers.h"

constexpr uint32_t ALL_LANES = 0xFFFFFFFFu;

PASCALINE_INLINE unsigned lane_number() { return unsigned(host::current - host::fibers) % host::WARP; }

namespace host {

// Each lane's `own`, gathered; `choose(lane, operands)` gives a lane its result.
template <typename Operand, typename Result, typename Choose>
PASCALINE_INLINE Result exchange(const char* operation, uint32_t mask, const Operand& own, Choose choose) {
    Result result;
    wait_for_lanes(operation, mask, &own, &result, __builtin_return_address(0), [mask, choose](Fiber* warp) {
        const Operand* operands[WARP] = {};
        for (unsigned lane = 0; lane < WARP; lane++) {
            if (mask >> lane & 1u) operands[lane] = static_cast<const Operand*>(warp[lane].operands);
        }
        for (unsigned lane = 0; lane < WARP; lane++) {
            if (mask >> lane & 1u) *static_cast<Result*>(warp[lane].results) = choose(lane, operands);
        }
    });
    return result;
}

template <typename Value>
struct Shuffled {
    Value value;
    int from;  // the lane asked for; the own one where there is none
};

template <typename Value>
PASCALINE_INLINE Value shuffle(const char* operation, uint32_t mask, Value value, int from) {
    const Shuffled<Value> own = {value, from};
    return exchange<Shuffled<Value>, Value>(
        operation, mask, own, [=](unsigned lane, const Shuffled<Value>* const* operands) {
            const unsigned source = unsigned(operands[lane]->from);
            if (source >= WARP || operands[source] == nullptr) {
                say_who();
                say(": lane %u asks in %s for lane %u, which its mask 0x%08x leaves out", lane, operation,
                    source, mask);
                give_up();
            }
            return operands[source]->value;
        });
}

}  // namespace host

template <typename Value>
PASCALINE_INLINE Value __shfl_sync(uint32_t mask, Value value, int from, int width = 32) {
    const int lane = int(lane_number());
    return host::shuffle("__shfl_sync", mask, value, (lane & -width) | (from & (width - 1)));
}

template <typename Value>
PASCALINE_INLINE Value __shfl_xor_sync(uint32_t mask, Value value, int lane_mask, int width = 32) {
    const int lane = int(lane_number()), from = lane ^ lane_mask;
    return host::shuffle("__shfl_xor_sync", mask, value, from >= (lane & -width) + width ? lane : from);
}

template <typename Value>
PASCALINE_INLINE Value __shfl_up_sync(uint32_t mask, Value value, unsigned delta, int width = 32) {
    const int lane = int(lane_number()), from = lane - int(delta);
    return host::shuffle("__shfl_up_sync", mask, value, from < (lane & -width) ? lane : from);
}

template <typename Value>
PASCALINE_INLINE Value __shfl_down_sync(uint32_t mask, Value value, unsigned delta, int width = 32) {
    const int lane = int(lane_number()), from = lane + int(delta);
    return host::shuffle("__shfl_down_sync", mask, value, from >= (lane & -width) + width ? lane : from);
}

PASCALINE_INLINE uint32_t __ballot_sync(uint32_t mask, int predicate) {
    return host::exchange<int, uint32_t>(
        "__ballot_sync", mask, predicate, [](unsigned, const int* const* operands) {
            uint32_t votes = 0;
            for (unsigned lane = 0; lane < host::WARP; lane++) {
                const bool is_set = operands[lane] != nullptr && *operands[lane];
                votes |= uint32_t(is_set) << lane;
            }
            return votes;
        });
}
PASCALINE_INLINE int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
PASCALINE_INLINE int __all_sync(uint32_t mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

PASCALINE_INLINE void __syncwarp(uint32_t mask = ALL_LANES) {
    host::exchange<int, int>("__syncwarp", mask, 0, [](unsigned, const int* const*) { return 0; });
}

template <typename Value>
PASCALINE_INLINE Value shuffle_xor(Value value, int mask) {
    return __shfl_xor_sync(ALL_LANES, value, mask);
}

template <typename Value>
PASCALINE_INLINE Value shuffle_from(Value value, int lane) {
    return __shfl_sync(ALL_LANES, value, lane);
}

PASCALINE_INLINE void sync_warp() { __syncwarp(); }
