// Token ids (tokens,) of a step: where one is negative, −1 − i, it is what the step before chose as its i-th.
#include "platform.cuh"

extern "C" __global__ void __launch_bounds__(128)
take_sampled(int64_t* __restrict__ token_ids, const int64_t* __restrict__ sampled, int tokens) {
    let_next_launch_begin();
    wait_for_launches_before();
    const int token = blockIdx.x * 128 + threadIdx.x;
    if (token >= tokens) return;
    const int64_t id = load_fresh(token_ids + token);
    if (id < 0) token_ids[token] = load_fresh(sampled + (-1 - id));
}
