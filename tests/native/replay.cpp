// Runs on an emulated processor what the tests recorded, to compare the bits: `replay LIBRARY FILE`.
//
// FILE is memory as the calls need it, with the pointers in it made for this one address. Kernels are there as their
// names. What the calls write goes back to FILE.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>

#include "abi.h"

namespace {

void* const ADDRESS = reinterpret_cast<void*>(0x200000000000);

enum Kind : int64_t { RUN, RETILE, CHOOSE };

struct Call {
    int64_t kind;
    void* first;
    void* second;
    int64_t count;
    int64_t vocabulary;
    int64_t threads;
};

struct Header {
    int64_t count;
    Call* calls;
};

void* library;

void* symbol(const char* name) {
    void* found = dlsym(library, name);
    if (!found) fprintf(stderr, "replay: %s\n", dlerror());
    return found;
}

template <class Function>
Function function(const char* name) {
    return reinterpret_cast<Function>(symbol(name));
}

const Kernel* kernel_of(const Kernel* name) {
    char whole[64];
    snprintf(whole, sizeof(whole), "pascaline_%s", reinterpret_cast<const char*>(name));
    return static_cast<const Kernel*>(symbol(whole));
}

int run(const Call& call) {
    Launch* launches = static_cast<Launch*>(call.first);
    for (int64_t i = 0; i < call.count; i++) {
        launches[i].kernel = kernel_of(launches[i].kernel);
        Launch* before = const_cast<Launch*>(launches[i].before);
        if (before) before->kernel = kernel_of(before->kernel);
    }
    const Step* step = static_cast<const Step*>(call.second);
    return function<int (*)(const Launch*, int64_t, const Step*)>("pascaline_run")(launches, call.count, step);
}

int replay(const Call& call) {
    function<void (*)(int)>("pascaline_use_threads")(static_cast<int>(call.threads));
    switch (call.kind) {
        case RUN: return run(call);
        case RETILE: return function<int (*)(void*, void*)>("pascaline_retile")(call.first, call.second);
        default:
            return function<int (*)(void*, int64_t, int64_t)>("pascaline_choose")(call.first, call.count,
                                                                                  call.vocabulary);
    }
}

}  // namespace

int main(int, char** arguments) {
    library = dlopen(arguments[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "replay: %s\n", dlerror());
        return 1;
    }
    const int file = open(arguments[2], O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        perror("replay: the recording");
        return 1;
    }
    void* memory = mmap(ADDRESS, static_cast<size_t>(status.st_size), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    if (memory != ADDRESS) {
        perror("replay: memory at a fixed address");
        return 1;
    }
    const Header& header = *static_cast<const Header*>(memory);
    for (int64_t i = 0; i < header.count; i++)
        if (replay(header.calls[i])) {
            fprintf(stderr, "replay: call %lld failed\n", static_cast<long long>(i));
            return 1;
        }
    return 0;
}
