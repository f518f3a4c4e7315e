// Attention cut into parts: some tokens of a sequence and one key/value head, or a span of such a part's keys.

#pragma once

#include "attention_tile.h"
#include "kernel.h"

namespace attention {

// Keys that are summed up on their own, from a multiple of their number on. With the block, all that the bits of a
// row depend on.
constexpr int SPAN = 512;
// Rows of a part. PERF: enough that keys and values, once widened, are used often.
constexpr int PART_ROWS = 64;

// A launch, read.
struct Call {
    const TensorView& query;
    const TensorView& keys;
    const TensorView& values;
    const TensorView& table;
    const int32_t* starts;
    const int32_t* contexts;
    const TensorView& out;
    int64_t sequences;
    int64_t kv_heads;
    int64_t group;     // query heads of a key/value head
    int64_t together;  // tokens of a part, at most
    int64_t window;
    Head head;

    Call(const Launch& launch, const Step& step)
        : query(launch.tensors[0]),
          keys(launch.tensors[1]),
          values(launch.tensors[2]),
          table(launch.tensors[3]),
          starts(static_cast<const int32_t*>(launch.tensors[4].data)),
          contexts(static_cast<const int32_t*>(launch.tensors[5].data)),
          out(launch.tensors[6]),
          sequences(step.sequences),
          kv_heads(keys.sizes[2]),
          group(query.sizes[1] / kv_heads),
          together(at_least(PART_ROWS / group, 1)),
          window(static_cast<int64_t>(launch.numbers[1])),
          head{query.sizes[2], (query.sizes[2] + 15) / 16 * 16, static_cast<float>(launch.numbers[0]),
               static_cast<float>(launch.numbers[2])} {}

    int64_t state() const { return state_size(head.width); }
    int64_t page_of(int64_t sequence, int64_t position) const {
        return row_of<const int32_t>(table, sequence)[position / keys.sizes[1] * table.strides[1]];
    }
    // The first key that the token at `position` sees.
    int64_t first_seen(int64_t position) const { return window ? at_least(position + 1 - window, 0) : 0; }
    // Which of the keys from `start` on, `count` of them, the token at `position` sees.
    Range seen(int64_t position, int64_t start, int64_t count) const {
        return {static_cast<int>(at_least(first_seen(position) - start, 0)),
                static_cast<int>(at_most(position + 1 - start, count))};
    }
};

// Tokens of a sequence that are computed together, for one key/value head after the other.
struct Part {
    int64_t sequence;
    int64_t token;     // the first one's row in `query`
    int64_t position;  // and its place in the sequence
    int64_t tokens;
    int64_t first_span;
    int64_t spans;

    int64_t rows(const Call& call) const { return tokens * call.group; }
    int64_t last_position() const { return position + tokens - 1; }
};

// Goes through all parts.
class Parts {
public:
    explicit Parts(const Call& call) : call_(call) {}

    void restart() { sequence_ = done_ = 0; }

    bool next(Part* part) {
        while (sequence_ < call_.sequences) {
            const int64_t start = call_.starts[sequence_], stop = call_.starts[sequence_ + 1];
            if (start + done_ >= stop) {
                sequence_++;
                done_ = 0;
                continue;
            }
            part->sequence = sequence_;
            part->token = start + done_;
            part->position = call_.contexts[sequence_] - (stop - part->token);
            part->tokens = at_most(call_.together, stop - part->token);
            part->first_span = call_.first_seen(part->position) / SPAN;
            part->spans = part->last_position() / SPAN + 1 - part->first_span;
            done_ += part->tokens;
            return true;
        }
        return false;
    }

private:
    const Call& call_;
    int64_t sequence_ = 0;
    int64_t done_ = 0;
};

// How the work is shared: whole parts, or, where those are too few or too unequal, the spans of all parts.
struct Sharing {
    bool by_span;
    int64_t parts;   // times key/value heads, as the following
    int64_t spans;
    int64_t states;  // one for each row and span

    Sharing(const Call& call, int threads) : by_span(false), parts(0), spans(0), states(0) {
        Parts all(call);
        Part part;
        int64_t work = 0, most = 0;
        while (all.next(&part)) {
            const int64_t own = part.tokens * (part.last_position() + 1 - call.first_seen(part.position));
            work += own * call.kv_heads;
            most = at_least(own, most);
            parts += call.kv_heads;
            spans += call.kv_heads * part.spans;
            states += call.kv_heads * part.spans * part.rows(call);
        }
        by_span = threads > 1 && spans > parts && most * 2 * threads > work;
    }
};

// Which part a chunk is of. Chunks are asked for in rising order, mostly.
class Finder {
public:
    Finder(const Call& call, bool by_span) : call_(call), parts_(call), by_span_(by_span) {}

    struct Found {
        Part part;
        int64_t kv_head;
        int64_t span;    // counted from the part's first
        int64_t states;  // of all spans and rows before this part and key/value head
    };

    Found find(int64_t chunk) {
        if (chunk < chunk_) {
            parts_.restart();
            chunk_ = states_ = chunks_ = 0;
        }
        while (chunk >= chunk_ + chunks_) {
            states_ += chunks_ ? call_.kv_heads * part_.spans * part_.rows(call_) : 0;
            chunk_ += chunks_;
            parts_.next(&part_);
            chunks_ = call_.kv_heads * (by_span_ ? part_.spans : 1);
        }
        const int64_t local = chunk - chunk_, spans = by_span_ ? part_.spans : 1, kv_head = local / spans;
        return {part_, kv_head, local % spans, states_ + kv_head * part_.spans * part_.rows(call_)};
    }

private:
    const Call& call_;
    Parts parts_;
    bool by_span_;
    Part part_{};
    int64_t chunk_ = 0;   // the first of part_
    int64_t chunks_ = 0;  // of part_
    int64_t states_ = 0;
};

}  // namespace attention
