// The library: kernels, and the loop that goes through a step's launches.
//
// Built once an instruction set, see `native.py`. Linked to the C library alone.

#include "add.h"
#include "choose_tokens.h"
#include "embedding.h"
#include "exercise.h"
#include "gates.h"
#include "linear.h"
#include "paged_attention.h"
#include "retile.h"
#include "rms_norm.h"
#include "rotary.h"
#include "scale.h"
#include "select_rows.h"
#include "soft_cap.h"
#include "store_rows.h"

namespace {

struct Program {
    const Launch* launches;
    int64_t count;
    const Step* step;
};

void go(const void* job, Team& team) {
    const Program& program = *static_cast<const Program*>(job);
    for (int64_t i = 0; i < program.count; i++) {
        const Launch& launch = program.launches[i];
        if (launch.barrier) team.barrier();
        if (rows_of(launch, *program.step) > 0) launch.kernel->run(launch, *program.step, team);
    }
}

pthread_mutex_t one_step = PTHREAD_MUTEX_INITIALIZER;
char* scratch = nullptr;
int64_t scratch_bytes = 0;

// Whether there is as much scratch memory now.
bool make_room(int64_t bytes) {
    if (bytes > scratch_bytes) {
        free(scratch);
        scratch = static_cast<char*>(aligned_alloc(64, static_cast<size_t>(bytes)));
        scratch_bytes = scratch ? bytes : 0;
    }
    return bytes <= scratch_bytes;
}

void in_child() {
    pthread_mutex_init(&one_step, nullptr);
    pool::forget_others();
}

__attribute__((constructor)) void watch_forks() { pthread_atfork(nullptr, nullptr, in_child); }

// All threads at `work` on `job`. False where there is no memory for it.
bool on_all_threads(pool::Work work, const void* job, const Room& room) {
    if (pool::before_fork) {
        pool::use(pool::before_fork);
        pool::before_fork = 0;
    }
    if (!make_room(room.shared + pool::active.load() * room.own)) return false;
    pool::run(work, job, scratch, room.shared, room.own);
    return true;
}

}  // namespace

// 0, or 1 where memory ran out: nothing was computed then. One step at a time runs; others wait.
EXPORT int pascaline_run(const Launch* launches, int64_t count, const Step* step) {
    pthread_mutex_lock(&one_step);
    const int threads = pool::active.load();
    Room most{0, 0};
    for (int64_t i = 0; i < count; i++) {
        const Room room = launches[i].kernel->room(launches[i], *step, threads);
        most.shared = at_least(most.shared, aligned(room.shared));
        most.own = at_least(most.own, aligned(room.own));
    }
    const Program program{launches, count, step};
    const bool done = on_all_threads(go, &program, most);
    pthread_mutex_unlock(&one_step);
    return done ? 0 : 1;
}

// Fill `to`, whose arrays are there, with `from`; 0, or 1 where memory ran out.
EXPORT int pascaline_retile(const PackedView* from, const WeightView* to) {
    const RetileJob job = retile_job(*from, *to);
    pthread_mutex_lock(&one_step);
    const bool done = on_all_threads(retile, &job, retile_room(job));
    pthread_mutex_unlock(&one_step);
    return done ? 0 : 1;
}

// Choose tokens; returns as `pascaline_run` does.
EXPORT int pascaline_choose(Choice* choices, int64_t count, int64_t vocabulary) {
    pthread_mutex_lock(&one_step);
    const bool shared = sampling::is_long(choices, count);
    const int64_t own = sampling::Scratch::bytes(vocabulary);
    const sampling::Choices all{choices, count, vocabulary};
    bool done;
    if (shared) {
        done = on_all_threads(sampling::choose_all, &all, {0, own});
    } else if ((done = make_room(own))) {
        Team alone;
        alone.own = scratch;
        sampling::choose_all(&all, alone);
    }
    pthread_mutex_unlock(&one_step);
    return done ? 0 : 1;
}

// Do one thing and nothing else; returns what it amounts to (exercise.h), or -1 where memory ran out. `seconds` has
// room for pool::MOST threads.
EXPORT int64_t pascaline_exercise(int32_t what, int64_t rounds, const void* data, int64_t bytes, double* seconds) {
    const exercise::Exercise work{what, rounds, static_cast<const char*>(data), bytes, seconds};
    pthread_mutex_lock(&one_step);
    const bool done = on_all_threads(exercise::run, &work, {0, exercise::ROOM});
    pthread_mutex_unlock(&one_step);
    return done ? exercise::amount(work) : -1;
}

// Threads that share a step from now on, the caller's included.
EXPORT void pascaline_use_threads(int count) {
    pthread_mutex_lock(&one_step);
    pool::use(count);
    pthread_mutex_unlock(&one_step);
}

// Bytes of the structures: whether the caller means the same ones.
EXPORT int64_t pascaline_abi(void) {
    return static_cast<int64_t>(sizeof(Choice) << 48 | sizeof(WeightView) << 24 | sizeof(Launch));
}
