// Bulk copies: made when they are asked for, where threads run in turn, so that what was still to be read is lost; else
// when they are waited for, so that what is read too early is not there.
#pragma once

#include "host_collectives.h"

namespace host {

struct BulkCopy {
    const void* barrier;
    unsigned char* target;
    const unsigned char* source;
    int nbytes;
};

static BulkCopy bulk_copies[4096];
static unsigned bulk_copy_count;

// Of one barrier, in order, made or dropped; the others stay.
static void end_bulk_copies(const void* barrier, bool is_made) {
    unsigned left = 0;
    for (unsigned each = 0; each < bulk_copy_count; each++) {
        const BulkCopy copy = bulk_copies[each];
        if (copy.barrier != barrier) {
            bulk_copies[left++] = copy;
        } else if (is_made) {
            memcpy(copy.target, copy.source, size_t(copy.nbytes));
        }
    }
    bulk_copy_count = left;
}

[[noreturn]] static void fail_bulk(const char* what) {
    say_who();
    say(": %s, at <0x%zx>", what, relative(__builtin_return_address(0)));
    give_up();
}

}  // namespace host

struct BytesBarrier {
    int32_t rounds, pending;  // bytes that are to come in this round

    PASCALINE_INLINE void start() {
        rounds = pending = 0;
        host::end_bulk_copies(this, false);  // of a block or a launch before that was given up
    }
    static PASCALINE_INLINE void publish() {}

    PASCALINE_INLINE void expect(int nbytes) {
        if (pending != 0) host::fail_bulk("bytes are expected in a round that has not ended");
        pending = nbytes;
    }

    PASCALINE_INLINE void copy(uint64_t target, const uint8_t* source, int nbytes) {
        if ((target | reinterpret_cast<uint64_t>(source) | uint64_t(nbytes)) % 16 != 0 || nbytes <= 0) {
            host::fail_bulk("a bulk copy that is not of multiples of 16 bytes");
        }
        if (nbytes > pending) host::fail_bulk("a bulk copy of more bytes than are expected");
        if (host::bulk_copy_count == 4096) host::fail_bulk("too many bulk copies under way");
        host::bulk_copies[host::bulk_copy_count++] = {this, reinterpret_cast<unsigned char*>(target), source, nbytes};
        if (host::order == 0) host::end_bulk_copies(this, true);
        pending -= nbytes;
        if (pending == 0) rounds++;
    }

    PASCALINE_INLINE void wait(int round) {
        sync_warp();
        if (pending != 0 || (rounds & 1) == round) host::fail_bulk("a wait for bytes that nobody has asked for");
        host::end_bulk_copies(this, true);
    }
};
