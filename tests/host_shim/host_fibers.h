// The threads of a block as fibers of one thread of the CPU.
//
// A fiber runs until it waits (for a barrier, or for the other lanes of a collective operation) or ends; then
// the next that is ready runs. Whoever arrives last does the collective operation for all of its lanes. When
// none is ready and not all have ended, they wait for each other for ever: on a card that is undefined, here
// it is an error that says who waits where. The order in which fibers run is part of the launch, so that
// whatever relies on an order can be seen to.
#pragma once

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

struct uint3 {
    unsigned x, y, z;
};

static uint3 threadIdx, blockIdx, blockDim, gridDim;

// What the compiler must take for a call of anything: the other fibers run inside of it.
#if defined(__clang__)
#define HOST_OPAQUE __attribute__((noinline, optnone))
#else
#define HOST_OPAQUE __attribute__((noipa))
#endif

namespace host {

constexpr unsigned MOST_THREADS = 1024, WARP = 32;
constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_BYTES = 256 << 10;  // no chip has as much

enum class State { ready, at_barrier, in_collective, ended };

struct Fiber {
    jmp_buf context;
    ucontext_t start;
    bool has_started;
    uint3 index;
    State state;
    // While it waits: the operation, the line that calls it, its place in the machine code, its lanes, and
    // what the last of them finds here.
    const char* operation;
    int line;
    const void* place;
    unsigned mask;
    const void* operands;
    void* results;
};

static Fiber fibers[MOST_THREADS];
static unsigned fiber_count, ended_count, at_barrier_count;
static Fiber* current;

// Numbers of the fibers that can run: a ring.
static unsigned ready[MOST_THREADS], ready_start, ready_count;
static uint64_t order;  // 0: in turn; else the state of a generator

static jmp_buf scheduler;
static unsigned char* stacks;
static size_t stacks_end;
static unsigned char* shared_end;
static size_t dynamic_shared_bytes;
static void (*run_kernel)();

static char* message;
static size_t message_size, message_used;

// Addresses in the text are written <0x…>, relative to the library, for the reader to look up.
static void say(const char* format, ...) {
    va_list values;
    va_start(values, format);
    const int length = vsnprintf(message + message_used, message_size - message_used, format, values);
    va_end(values);
    message_used += length < 0 ? 0 : size_t(length);
    if (message_used >= message_size) message_used = message_size - 1;
}

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

static size_t relative(const void* place) { return size_t(static_cast<const char*>(place) - &__ehdr_start); }

static void say_who() {
    const uint3 thread = current->index;
    say("block (%u, %u, %u), thread (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z, thread.x, thread.y,
        thread.z);
}

// Ends the launch; `message` says why.
[[noreturn]] static void give_up() { _longjmp(scheduler, 2); }

static unsigned take_ready() {
    unsigned first = ready[ready_start];
    if (order != 0) {
        order ^= order << 13, order ^= order >> 7, order ^= order << 17;  // xorshift64
        unsigned& other = ready[(ready_start + order % ready_count) % MOST_THREADS];
        const unsigned chosen = other;
        other = first;
        first = chosen;
    }
    ready_start = (ready_start + 1) % MOST_THREADS;
    ready_count--;
    return first;
}

static void make_ready(Fiber& fiber) {
    fiber.state = State::ready;
    ready[(ready_start + ready_count++) % MOST_THREADS] = unsigned(&fiber - fibers);
}

// Runs another fiber until this one is taken up again.
HOST_OPAQUE static void run_others() {
    if (_setjmp(current->context) != 0) return;
    if (ready_count == 0) _longjmp(scheduler, 1);
    current = &fibers[take_ready()];
    threadIdx = current->index;
    if (current->has_started) _longjmp(current->context, 1);
    current->has_started = true;
    setcontext(&current->start);
}

static void fiber_main() {
    for (;;) {
        run_kernel();
        current->state = State::ended;
        ended_count++;
        run_others();
    }
}

HOST_OPAQUE static void wait_for_block(const char* operation, int line, const void* place) {
    current->operation = operation;
    current->line = line;
    current->place = place;
    current->state = State::at_barrier;
    if (++at_barrier_count < fiber_count) {
        run_others();
        return;
    }
    at_barrier_count = 0;
    for (unsigned each = 0; each < fiber_count; each++) {
        if (fibers[each].line != line || fibers[each].operation != operation) {
            say_who();
            say(" is at another %s than the block's other threads: at <0x%zx>, others at <0x%zx>", operation,
                relative(place), relative(fibers[each].place));
            give_up();
        }
        if (&fibers[each] != current) make_ready(fibers[each]);
    }
    current->state = State::ready;
}

// `complete(first)` is called once all lanes of `mask` are here, with the fibers of the warp: it reads their
// `operands` and writes their `results`.
template <typename Complete>
HOST_OPAQUE static void wait_for_lanes(const char* operation, unsigned mask, const void* operands,
                                       void* results, const void* place, Complete complete) {
    const unsigned number = unsigned(current - fibers), lane = number % WARP;
    Fiber* const warp = current - lane;
    if (!(mask >> lane & 1u)) {
        say_who();
        say(": %s with a mask, 0x%08x, that leaves out its own lane, at <0x%zx>", operation, mask,
            relative(place));
        give_up();
    }
    current->operation = operation;
    current->place = place;
    current->mask = mask;
    current->operands = operands;
    current->results = results;
    current->state = State::in_collective;
    for (unsigned other = 0; other < WARP; other++) {
        if (!(mask >> other & 1u)) continue;
        const Fiber& fiber = warp[other];
        const bool is_here = number - lane + other < fiber_count && fiber.state == State::in_collective &&
                             fiber.mask == mask && strcmp(fiber.operation, operation) == 0;
        if (!is_here) {
            run_others();
            return;
        }
    }
    complete(warp);
    for (unsigned other = 0; other < WARP; other++) {
        if (mask >> other & 1u && other != lane) make_ready(warp[other]);
    }
    current->state = State::ready;
}

// Who waits where, in groups.
static void say_deadlock() {
    say("block (%u, %u, %u): its threads wait for each other for ever:", blockIdx.x, blockIdx.y, blockIdx.z);
    bool is_told[MOST_THREADS] = {};
    for (unsigned first = 0; first < fiber_count; first++) {
        if (is_told[first]) continue;
        const Fiber& fiber = fibers[first];
        unsigned count = 0;
        for (unsigned each = first; each < fiber_count; each++) {
            const Fiber& other = fibers[each];
            if (other.state != fiber.state) continue;
            if (fiber.state != State::ended && (other.place != fiber.place || other.mask != fiber.mask))
                continue;
            is_told[each] = true;
            count++;
        }
        say("\n  %u thread%s, the first (%u, %u, %u), ", count, count == 1 ? "" : "s", fiber.index.x,
            fiber.index.y, fiber.index.z);
        if (fiber.state == State::ended) {
            say("have ended");
        } else if (fiber.state == State::at_barrier) {
            say("wait in %s at <0x%zx>", fiber.operation, relative(fiber.place));
        } else {
            say("wait in %s, mask 0x%08x, at <0x%zx>", fiber.operation, fiber.mask, relative(fiber.place));
        }
    }
}

// The fibers' stacks and the shared memory, between pages that cannot be touched. As long as a launch: many
// libraries are loaded at once, and a process may have 65530 mappings.
class FiberMemory {
  public:
    FiberMemory() : page(size_t(sysconf(_SC_PAGESIZE))), step(STACK_BYTES + page) {
        stacks_end = fiber_count * step;
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* const memory = mmap(nullptr, nbytes(), PROT_NONE, flags, -1, 0);
        stacks = memory == MAP_FAILED ? nullptr : static_cast<unsigned char*>(memory);
        if (stacks == nullptr) return;
        for (unsigned each = 0; each < fiber_count; each++) {
            mprotect(stacks + each * step + page, STACK_BYTES, PROT_READ | PROT_WRITE);
            make_fiber(each, stacks + each * step + page);
        }
        mprotect(stacks + stacks_end, SHARED_BYTES, PROT_READ | PROT_WRITE);
        shared_end = stacks + stacks_end + SHARED_BYTES;
    }
    ~FiberMemory() {
        if (stacks != nullptr) munmap(stacks, nbytes());
    }

  private:
    const size_t page, step;

    size_t nbytes() const { return stacks_end + SHARED_BYTES + page; }

    static void make_fiber(unsigned number, unsigned char* stack) {
        Fiber& fiber = fibers[number];
        fiber.has_started = false;
        fiber.index = {number % blockDim.x, number / blockDim.x % blockDim.y,
                       number / (blockDim.x * blockDim.y)};
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = stack;
        fiber.start.uc_stack.ss_size = STACK_BYTES;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, fiber_main, 0);
    }
};

// Whether all threads of the block at blockIdx came to their end.
HOST_OPAQUE static bool run_block() {
    static Fiber none;
    ended_count = at_barrier_count = ready_start = ready_count = 0;
    for (unsigned each = 0; each < fiber_count; each++) make_ready(fibers[each]);
    current = &none;
    const int outcome = _setjmp(scheduler);
    if (outcome == 0) run_others();
    if (outcome == 1 && ended_count < fiber_count) say_deadlock();
    return message_used == 0;
}

// Turns a signal's fault into the launch's end.
static void on_fault(int number, siginfo_t* information, void* context) {
    const mcontext_t& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    const void* const place = reinterpret_cast<const void*>(machine.gregs[REG_RIP]);
#else
    const void* const place = reinterpret_cast<const void*>(machine.pc);
#endif
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const unsigned char* const address = static_cast<const unsigned char*>(information->si_addr);
    say_who();
    if (number == SIGFPE) {
        say(": a division by zero");
    } else if (address >= stacks && address < stacks + stacks_end) {
        say(": more than %zu bytes of stack", STACK_BYTES);
    } else if (address >= shared_end - SHARED_BYTES && address < shared_end + page) {
        say(": an access %td bytes beyond the dynamic shared memory", address - shared_end);
    } else {
        say(": an access [%p]", static_cast<const void*>(address));
    }
    say(", at <0x%zx>", relative(place));
    give_up();
}

// The signals of faults, ours while it lives.
class Faults {
  public:
    Faults() {
        stack_t own = {};
        own.ss_sp = own_stack;
        own.ss_size = sizeof own_stack;
        sigaltstack(&own, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        // NODEFER: the handler is left by a jump, which would leave the signal blocked.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int each = 0; each < 3; each++) sigaction(NUMBERS[each], &action, &before[each]);
    }
    ~Faults() {
        for (int each = 0; each < 3; each++) sigaction(NUMBERS[each], &before[each], nullptr);
        if (!(stack_before.ss_flags & SS_ONSTACK)) sigaltstack(&stack_before, nullptr);
    }

  private:
    static constexpr int NUMBERS[3] = {SIGSEGV, SIGBUS, SIGFPE};
    alignas(16) unsigned char own_stack[64 << 10];
    stack_t stack_before;
    struct sigaction before[3];
};

}  // namespace host
