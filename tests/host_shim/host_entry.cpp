// A library of one kernel: PASCALINE_SOURCE and PASCALINE_ENTRY say which.
#include "host_cuda.h"

// Internal to the library, as a kernel's constants and templates are to its compilation on a card.
namespace {
#include PASCALINE_SOURCE

using Signature = decltype(host::signature_of(PASCALINE_ENTRY));
void** kernel_arguments;

void run_kernel() { Signature::call(PASCALINE_ENTRY, kernel_arguments); }
}  // namespace

#define HOST_EXPORT extern "C" __attribute__((visibility("default")))

HOST_EXPORT int parameter_count() { return int(Signature::count); }

HOST_EXPORT int parameter_bytes(unsigned number) { return Signature::bytes(number); }

HOST_EXPORT size_t static_shared_bytes() { return host::static_shared_bytes(); }

HOST_EXPORT int launch(const unsigned* grid, const unsigned* block, size_t shared_bytes, void** arguments,
                       const uint64_t* blocks, size_t block_count, uint64_t order, int poison, char* message,
                       size_t message_size) {
    kernel_arguments = arguments;
    host::run_kernel = run_kernel;
    return host::launch(grid, block, shared_bytes, blocks, block_count, order, poison, message, message_size);
}
