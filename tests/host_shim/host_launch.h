// The launch of one kernel, and what the compiler's checks call when one fails.
#pragma once

#include <type_traits>
#include <utility>

#include "host_fibers.h"

// Static shared memory lies in a section of its own; the linker knows where. The first makes it exist.
extern "C" unsigned char __start_host_shared[] __attribute__((visibility("hidden")));
extern "C" unsigned char __stop_host_shared[] __attribute__((visibility("hidden")));
static unsigned char host_shared_anchor[16] __attribute__((section("host_shared"), used, aligned(16)));

namespace host {

// A kernel's parameters, as the driver is given them: an array of addresses of values.
template <typename... Parameters>
struct Signature {
    static constexpr size_t count = sizeof...(Parameters);

    static int bytes(unsigned number) {
        const size_t sizes[] = {sizeof(Parameters)..., 0};
        return number < count ? int(sizes[number]) : -1;
    }

    static void call(void (*kernel)(Parameters...), void** arguments) {
        spread(kernel, arguments, std::index_sequence_for<Parameters...>());
    }

  private:
    template <size_t... numbers>
    static void spread(void (*kernel)(Parameters...), void** arguments, std::index_sequence<numbers...>) {
        kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[numbers])...);
    }
};

template <typename... Parameters>
Signature<Parameters...> signature_of(void (*)(Parameters...)) {
    return {};
}

static size_t static_shared_bytes() {
    return size_t(__stop_host_shared - __start_host_shared) - sizeof host_shared_anchor;
}

// Runs the blocks whose numbers are given (x fastest), in that order. 0, or 1 and the reason in `text`.
static int launch(const unsigned* grid, const unsigned* block, size_t shared_bytes, const uint64_t* blocks,
                  size_t block_count, uint64_t seed, int poison, char* text, size_t text_size) {
    message = text;
    message_size = text_size;
    message_used = 0;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    fiber_count = block[0] * block[1] * block[2];
    dynamic_shared_bytes = (shared_bytes + 15) / 16 * 16;
    order = seed;
    if (fiber_count == 0 || fiber_count > MOST_THREADS || shared_bytes > SHARED_BYTES) {
        say("a block of %u threads and %zu bytes of shared memory", fiber_count, shared_bytes);
        return 1;
    }
    const FiberMemory memory;
    if (stacks == nullptr) {
        say("no memory for %u stacks", fiber_count);
        return 1;
    }
    Faults faults;
    for (size_t each = 0; each < block_count; each++) {
        const uint64_t number = blocks[each];
        blockIdx = {unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]),
                    unsigned(number / grid[0] / grid[1])};
        memset(__start_host_shared, poison, size_t(__stop_host_shared - __start_host_shared));
        memset(shared_end - dynamic_shared_bytes, poison, dynamic_shared_bytes);
        if (!run_block()) return 1;
    }
    return 0;
}

struct SourceLocation {
    const char* file;
    unsigned line, column;
};

[[noreturn]] static void fail_check(const void* data, const char* what, size_t value, const void* place) {
    const SourceLocation& location = *static_cast<const SourceLocation*>(data);
    say_who();
    say(": %s (0x%zx) at %s:%u, <0x%zx>", what, value, location.file, location.line, relative(place));
    give_up();
}

}  // namespace host

// The entries that -fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero calls.
#define HOST_CHECK extern "C" __attribute__((noinline, used, noreturn)) void
HOST_CHECK __ubsan_handle_type_mismatch_v1_abort(void* data, size_t address) {
    host::fail_check(data, "an access that is not aligned to its type", address, __builtin_return_address(0));
}
HOST_CHECK __ubsan_handle_out_of_bounds_abort(void* data, size_t index) {
    host::fail_check(data, "an index beyond its array", index, __builtin_return_address(0));
}
HOST_CHECK __ubsan_handle_shift_out_of_bounds_abort(void* data, size_t, size_t amount) {
    host::fail_check(data, "a shift by as many bits as there are, or more", amount,
                     __builtin_return_address(0));
}
HOST_CHECK __ubsan_handle_divrem_overflow_abort(void* data, size_t dividend, size_t) {
    host::fail_check(data, "a division by zero", dividend, __builtin_return_address(0));
}
#undef HOST_CHECK
