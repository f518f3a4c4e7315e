// paged_attention: see paged_attention.py.
//
// For each row, blocks of 64 keys are taken in order with a running maximum, and spans of 512 keys begin anew and are
// merged in order. Both lie at multiples of their size in the sequence, so that neither what else is in the step nor
// who computes it changes a bit. The heads that share keys and values read them together.

#pragma once

#include "attention_parts.h"

namespace attention {

// A thread's own memory.
struct Memory {
    float* query;   // rows of the part, tile by tile: each element's neighbours are those of the tile's rows
    float* keys;    // a block's, widened, page by page
    float* values;
    float* part;    // states: of the span, and of all spans so far
    float* sum;

    static int64_t bytes(const Call& call) {
        const int64_t rows = call.together * call.group, size = call.head.size, width = call.head.width;
        return 4 * (aligned(rows * size) + BLOCK * (size + width) + 2 * rows * call.state());
    }
    Memory(const Call& call, char* own) {
        const int64_t rows = call.together * call.group;
        query = reinterpret_cast<float*>(own);
        keys = query + aligned(rows * call.head.size);
        values = keys + BLOCK * call.head.size;
        part = values + BLOCK * call.head.width;
        sum = part + rows * call.state();
    }
};

// Rows of each tile but the last: as few tiles as can be, of whole tokens if possible, because rows of one token see
// the same keys.
INLINE int64_t tile_rows(int64_t group) {
    if (group <= MOST_ROWS) return MOST_ROWS / group * group;
    const int64_t tiles = (group + MOST_ROWS - 1) / MOST_ROWS;
    return (group + tiles - 1) / tiles;
}

INLINE void gather_query(const Call& call, const Part& part, int64_t kv_head, float* to) {
    const int64_t rows = part.rows(call), step = tile_rows(call.group);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t first = row / step * step, together = at_most(step, rows - first);
        const float* from = row_of<const float>(call.query, part.token + row / call.group) +
                            (kv_head * call.group + row % call.group) * call.query.strides[1];
        float* tile = to + first * call.head.size + row - first;
        for (int64_t i = 0; i < call.head.size; i++) tile[i * together] = from[i * call.query.strides[2]];
    }
}

// Keys and values from `first` to before `stop`, those of the block that begins at `start`, as floats in the order of
// a `Block`, from caches in any order.
template <class Element>
void widen_block(const Call& call, int64_t sequence, int64_t kv_head, int64_t start, Range seen, Memory& memory) {
    const int64_t size = call.head.size, width = call.head.width;
    const TensorView &keys = call.keys, &values = call.values;
    const bool by_page = keys.sizes[1] == PAGE && keys.strides[1] == 1;
    for (int64_t at = seen.first; at < seen.stop; at++) {
        const int64_t page = call.page_of(sequence, start + at), slot = (start + at) % keys.sizes[1];
        const Element* key = row_of<const Element>(keys, page) + kv_head * keys.strides[2];
        float* to = memory.keys + at / PAGE * PAGE * size;
        if (!by_page)
            for (int64_t i = 0; i < size; i++)
                to[i * PAGE + at % PAGE] = to_float(key[slot * keys.strides[1] + i * keys.strides[3]]);
        else if (at == seen.first || at % PAGE == 0)
            for (int64_t i = 0; i < size; i++) store_wide(to + i * PAGE, load_wide(key + i * keys.strides[3]));
        const Element* value =
            row_of<const Element>(values, page) + slot * values.strides[1] + kv_head * values.strides[2];
        to = memory.values + at * width;
        int64_t i = 0;
        if (values.strides[3] == 1)
            for (; i + 16 <= size; i += 16) store_wide(to + i, load_wide(value + i));
        for (; i < size; i++) to[i] = to_float(value[i * values.strides[3]]);
        for (; i < width; i++) to[i] = 0;
    }
}

// Whether blocks are read where they are: keys in sixteens, values in rows of a multiple of 16.
INLINE bool is_in_order(const Call& call) {
    const TensorView &keys = call.keys, &values = call.values;
    return keys.sizes[1] == PAGE && keys.strides[1] == 1 && keys.strides[3] == PAGE && values.strides[3] == 1 &&
           values.strides[1] == call.head.size && call.head.size == call.head.width;
}

// All rows of the part go on over a block, which begins at `start`.
template <class Keys>
INLINE void attend_tiles(const Call& call, const Part& part, int64_t start, const Keys& block, const float* query,
                         float* states) {
    const int64_t rows = part.rows(call), step = tile_rows(call.group);
    for (int64_t first = 0; first < rows; first += step) {
        const int64_t together = at_most(step, rows - first);
        Range ranges[MOST_ROWS];
        bool any = false;
        for (int64_t row = 0; row < together; row++) {
            ranges[row] = call.seen(part.position + (first + row) / call.group, start, BLOCK);
            any |= !ranges[row].empty();
        }
        if (any)
            attend_rows<Keys>(static_cast<int>(together))(query + first * call.head.size, block, call.head, ranges,
                                                          states + first * call.state());
    }
}

// Of the block that begins at `start`, what `seen` covers.
template <class Element>
INLINE Block<Element> block_in_place(const Call& call, int64_t sequence, int64_t kv_head, int64_t start, Range seen) {
    Block<Element> block;
    for (int page = 0; page < BLOCK_PAGES; page++) {
        const bool is_seen = page >= seen.first / PAGE && page * PAGE < seen.stop;
        const int64_t index = call.page_of(sequence, start + (is_seen ? page * PAGE : seen.first));
        block.keys[page] = row_of<const Element>(call.keys, index) + kv_head * call.keys.strides[2];
        block.values[page] = row_of<const Element>(call.values, index) + kv_head * call.values.strides[2];
    }
    return block;
}

// States of the part's rows after one span.
template <class Element>
void attend_span(const Call& call, const Part& part, int64_t kv_head, int64_t span, Memory& memory, float* states) {
    const int64_t rows = part.rows(call), first = call.first_seen(part.position), stop = part.last_position() + 1;
    for (int64_t row = 0; row < rows; row++) clear(states + row * call.state(), call.head.width);
    const bool in_place = is_in_order(call), is_decode = rows <= 2 * tile_rows(call.group);
    const auto seen_from = [&](int64_t start) {
        return Range{static_cast<int>(at_least(first - start, 0)), static_cast<int>(at_most(stop - start, BLOCK))};
    };
    const auto block_from = [&](int64_t start) {
        return block_in_place<Element>(call, part.sequence, kv_head, start, seen_from(start));
    };
    for (int64_t start = span * SPAN; start < at_most((span + 1) * SPAN, stop); start += BLOCK) {
        if (seen_from(start).empty()) continue;
        if (in_place && is_decode) {
            const int64_t next = start + BLOCK < stop ? start + BLOCK : start;
            const PassingBlock<Element> block{block_from(start), block_from(next)};
            attend_tiles(call, part, start, block, memory.query, states);
        } else if (in_place && sizeof(Element) == 4) {
            attend_tiles(call, part, start, block_from(start), memory.query, states);
        } else {
            // PERF: fp16 is widened once for all tiles.
            widen_block<Element>(call, part.sequence, kv_head, start, seen_from(start), memory);
            Block<float> block;
            for (int page = 0; page < BLOCK_PAGES; page++) {
                block.keys[page] = memory.keys + page * PAGE * call.head.size;
                block.values[page] = memory.values + page * PAGE * call.head.width;
            }
            attend_tiles(call, part, start, block, memory.query, states);
        }
    }
}

// The spans of each row in order: span `i` of the part is at parts[i * distance]; the result is in `sum`.
INLINE void merge_rows(const Call& call, const Part& part, int64_t span, float* states, float* sum) {
    for (int64_t row = 0; row < part.rows(call); row++) {
        const int64_t position = part.position + row / call.group, at = row * call.state();
        if (call.seen(position, span * SPAN, SPAN).empty()) continue;
        if (call.first_seen(position) / SPAN == span)
            memcpy(sum + at, states + at, static_cast<size_t>(call.state()) * sizeof(float));
        else
            merge(sum + at, states + at, call.head.width);
    }
}

INLINE void write_rows(const Call& call, const Part& part, int64_t kv_head, const float* sum) {
    const int64_t width = call.head.width, size = call.head.size;
    for (int64_t row = 0; row < part.rows(call); row++) {
        const float* state = sum + row * call.state();
        float* out = row_of<float>(call.out, part.token + row / call.group) +
                     (kv_head * call.group + row % call.group) * call.out.strides[1];
        const Floats weights = every_float(add_all(load_wide(state + width)));
        for (int64_t i = 0; i < size; i += LANES)
            store_some(out + i, divide(load_floats(state + i), weights), at_most(size - i, LANES));
    }
}

template <class Element>
void run_as(const Launch& launch, const Step& step, Team& team) {
    const Call call(launch, step);
    const Sharing sharing(call, team.count);
    Memory memory(call, team.own);
    float* states = reinterpret_cast<float*>(team.shared);
    Finder finder(call, sharing.by_span);
    team.share(sharing.by_span ? sharing.spans : sharing.parts, [&](int64_t chunk) {
        const auto found = finder.find(chunk);
        const Part& part = found.part;
        gather_query(call, part, found.kv_head, memory.query);
        if (sharing.by_span) {
            attend_span<Element>(call, part, found.kv_head, part.first_span + found.span, memory,
                                 states + (found.states + found.span * part.rows(call)) * call.state());
            return;
        }
        for (int64_t span = part.first_span; span < part.first_span + part.spans; span++) {
            attend_span<Element>(call, part, found.kv_head, span, memory, memory.part);
            merge_rows(call, part, span, memory.part, memory.sum);
        }
        write_rows(call, part, found.kv_head, memory.sum);
    });
    if (!sharing.by_span) return;
    team.barrier();
    Finder parts(call, false);
    team.share(sharing.parts, [&](int64_t chunk) {
        const auto found = parts.find(chunk);
        const Part& part = found.part;
        for (int64_t i = 0; i < part.spans; i++)
            merge_rows(call, part, part.first_span + i,
                       states + (found.states + i * part.rows(call)) * call.state(), memory.sum);
        write_rows(call, part, found.kv_head, memory.sum);
    });
}

static void run(const Launch& launch, const Step& step, Team& team) {
    if (launch.tensors[1].form == FP16)
        run_as<uint16_t>(launch, step, team);
    else
        run_as<float>(launch, step, team);
}

static Room room(const Launch& launch, const Step& step, int threads) {
    const Call call(launch, step);
    const Sharing sharing(call, threads);
    return {sharing.by_span ? sharing.states * call.state() * 4 : 0, Memory::bytes(call)};
}

}  // namespace attention

EXPORT const Kernel pascaline_paged_attention{attention::run, attention::room, nullptr};
