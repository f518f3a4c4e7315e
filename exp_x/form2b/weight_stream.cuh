// A warp's stream of tiles of a packed weight: batches of TILES_IN_FLIGHT tiles of one slab, from memory to registers.
//
// With RING_BATCHES = 0 a batch waits in registers, and makes room for the next as soon as it was multiplied.
// Otherwise copies run RING_BATCHES - 1 batches ahead into a ring in shared memory that is the warp's own (sm_80 and
// up: those copies need no registers).
//
// Units are what is counted: tiles, or gate tiles with their up tiles, which begin at half of the outputs. A batch has
// UNITS of them, gates first.
//
// Without a ring, a block's units may begin at half a tile: its lanes then read halves of two tiles each.
//
// Definitions: those of packed_weight.cuh; GATE; TILES_IN_FLIGHT, 2, 4 or 8; RING_BATCHES; ONE_SLAB, 1 if
// a warp has no more than one; GRAIN, of which a block's outputs are multiples: a tile's 8, or 4.
#pragma once
#include "async_copy.cuh"
#include "packed_weight.cuh"

constexpr bool HAS_HALF_TILES = GRAIN < TILE_OUTPUTS;

static_assert(!HAS_HALF_TILES || RING_BATCHES == 0, "a ring takes whole tiles");

constexpr int KINDS = 1 + GATE;
constexpr int UNITS = TILES_IN_FLIGHT / KINDS;

// One number for all quarters: it is left until they are summed up, and then only for the sums that a lane is left
// with: those of HELD tiles. If there are fewer tiles than lanes, SHARING lanes are left with the same.
constexpr bool HAS_SLAB_NUMBERS = SCALES_PER_SLAB == 1 && INTEGERS == NO_INTEGERS;
constexpr int HELD = TILES_IN_FLIGHT >= 4 ? TILES_IN_FLIGHT / 4 : 1;
constexpr int SHARING = TILES_IN_FLIGHT >= 4 ? 1 : 4 / TILES_IN_FLIGHT;
constexpr int NUMBERS_IN_FLIGHT = HAS_SLAB_NUMBERS ? HELD : TILES_IN_FLIGHT;

static_assert(TILES_IN_FLIGHT == 2 || TILES_IN_FLIGHT == 4 || TILES_IN_FLIGHT == 8, "butterflies over four lanes");

struct Lane {
    int lane, output, quarter;  // output within the tile
    int held_tile;              // of a batch, the first whose sums it gets: of gates and then of ups
    int held_unit;
};

PASCALINE_INLINE Lane make_lane(int lane) {
    const int held_tile = (lane & 3) * TILES_IN_FLIGHT / 4;
    return {lane, lane >> 2, lane & 3, held_tile, held_tile % UNITS};
}

// What a warp has to go through: for every chunk of its block's units, for every slab of its own, batches of units.
struct Route {
    int first_output, outputs;  // of the block, of gates if there are ups: multiples of GRAIN
    int end, chunk_units;       // units of the block: of the last there may be a half
    int first_slab, slab_step, slabs;
    int first_unit, unit_step;  // of a chunk

    PASCALINE_INLINE int chunk_end(int chunk) const { return min(chunk + chunk_units, end); }
};

// A batch on the route. There are fewer than 2^32 entries of numbers: 32 bits count them, 64 address them.
struct Cursor {
    int chunk, slab, unit;
    const uint8_t* codes;  // of the first tile
    uint32_t entry;   // of scales and zeros, SCALES_PER_SLAB an output: outputs before
    uint32_t output;  // of integers: outputs before
    uint32_t high;    // of their upper bits: outputs of pairs of slabs before

    PASCALINE_INLINE void go_to(const PackedWeight& weight, const Route& route, int slab_, int unit_) {
        constexpr int slabs_per_row = SUPER_SIZE > SLAB ? SUPER_SIZE / SLAB : 1;
        slab = slab_;
        unit = unit_;
        const uint32_t outputs = weight.padded_outputs, first = route.first_output + unit * TILE_OUTPUTS;
        codes = weight.codes + (size_t(slab) * (outputs / TILE_OUTPUTS) + first / TILE_OUTPUTS) * TILE_BYTES;
        entry = (SUPER_SIZE == 0 ? 0 : slab / slabs_per_row) * outputs + first;
        output = slab * outputs + first;
        high = (slab >> 1) * outputs + first;
    }

    PASCALINE_INLINE void start(const PackedWeight& weight, const Route& route) {
        chunk = 0;
        go_to(weight, route, route.first_slab, route.first_unit);
    }

    // How many units of the batch there are; none or less at the end.
    PASCALINE_INLINE int count(const Route& route) const {
        return (ONE_SLAB ? route.end : route.chunk_end(chunk)) - unit;
    }

    PASCALINE_INLINE void advance(const PackedWeight& weight, const Route& route) {
        // Of a slab the next batch follows; so it does from chunk to chunk, since all but the last are of whole steps.
        if (ONE_SLAB || count(route) > route.unit_step) {
            unit += route.unit_step;
            codes += size_t(route.unit_step) * TILE_BYTES;
            entry += route.unit_step * TILE_OUTPUTS;
            output += route.unit_step * TILE_OUTPUTS;
            high += route.unit_step * TILE_OUTPUTS;
        } else {
            const bool is_last = slab + route.slab_step >= route.slabs;
            if (is_last) chunk = route.chunk_end(chunk);
            go_to(weight, route, is_last ? route.first_slab : slab + route.slab_step, chunk + route.first_unit);
        }
    }
};

#if RING_BATCHES == 0

class WeightStream {
  public:
    static constexpr int SHARED_BYTES = 0;  // a warp

    PASCALINE_INLINE WeightStream(const PackedWeight& weight, const Route& route, const Lane& own, uint8_t*)
        : weight_(weight),
          route_(route),
          own_(own),
          // From half a tile on, the lanes of the second half read the first half of the next.
          tile_lane_(own.lane ^ (HAS_HALF_TILES && route.first_output % TILE_OUTPUTS != 0 ? 16 : 0)),
          end_((route.outputs + TILE_OUTPUTS - 1 - own.output) / TILE_OUTPUTS) {
        weight_.codes += tile_lane_ * LANE_BYTES + (tile_lane_ < own.lane ? TILE_BYTES : 0);
        cursor_.start(weight_, route_);
        load_codes_of_batch();
        load_numbers_of_batch();
    }

    PASCALINE_INLINE void begin_batch() { cursor_.advance(weight_, route_); }

    // The codes were multiplied: their places are free for those of the next batch.
    PASCALINE_INLINE void free_codes() { load_codes_of_batch(); }
    PASCALINE_INLINE void free_numbers() { load_numbers_of_batch(); }

    PASCALINE_INLINE const QuarterCodes& codes(int u) const { return codes_[u]; }
    // Of tile i, or of the i-th of those that are held.
    PASCALINE_INLINE const QuarterNumbers& numbers(int i, int) const { return numbers_[i]; }

  private:
    // How many units of the batch have this lane's output.
    PASCALINE_INLINE int own_count() const {
        if (!HAS_HALF_TILES) return cursor_.count(route_);
        return ONE_SLAB ? end_ - cursor_.unit : min(cursor_.count(route_), end_ - cursor_.unit);
    }

    PASCALINE_INLINE void load_codes_of_batch() {
        const int count = own_count();
        // Most batches are whole, and need not ask for each tile.
        if (count >= UNITS) {
            load_tiles(UNITS);
        } else {
            load_tiles(count);
        }
    }

    PASCALINE_INLINE void load_tiles(int count) {
#pragma unroll
        for (int u = 0; u < TILES_IN_FLIGHT; u++) {
            if (u % UNITS >= count) continue;
            const size_t gap = u < UNITS ? 0 : size_t(weight_.padded_outputs / TILE_OUTPUTS / 2) * TILE_BYTES;
            codes_[u] = load_codes(cursor_.codes + gap + u % UNITS * TILE_BYTES, tile_lane_);
        }
    }

    PASCALINE_INLINE void load_numbers_of_batch() {
        const int count = own_count();
        if constexpr (HAS_SLAB_NUMBERS) {
            const int further = own_.held_unit * TILE_OUTPUTS + own_.output;
            const NumberPlace place = places(own_.held_tile / UNITS, further);
#pragma unroll
            for (int i = 0; i < NUMBERS_IN_FLIGHT; i++) {
                if (own_.held_unit + i < count) numbers_[i] = load_numbers(place, i);
            }
        } else if (count >= UNITS) {
            load_tile_numbers(UNITS);
        } else {
            load_tile_numbers(count);
        }
    }

    PASCALINE_INLINE void load_tile_numbers(int count) {
#pragma unroll
        for (int kind = 0; kind < KINDS; kind++) {
            const NumberPlace place = places(kind, own_.output);
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) {
                if (unit < count) numbers_[kind * UNITS + unit] = load_numbers(place, unit);
            }
        }
    }

    // Numbers of an output so many after the first of a kind.
    PASCALINE_INLINE NumberPlace places(int kind, int further) const {
        const int part = SCALES_PER_SLAB == 1 ? 0 : own_.quarter * SCALES_PER_SLAB / 4;
        if (GATE) further += kind * (weight_.padded_outputs / 2);
        const size_t index = size_t(cursor_.entry + further) * SCALES_PER_SLAB + part;
        const size_t pair = size_t((cursor_.entry + further) >> 1) * SCALES_PER_SLAB + part;
        NumberPlace place;
        place.scale = weight_.scales + index * SCALE_BYTES;
        place.integers =
            weight_.integers + (size_t(cursor_.output + further) * 4 + own_.quarter) * NumberPlace::INTEGERS_BYTES;
        place.integers_high = weight_.integers_high + size_t(cursor_.high + further) * 4 + own_.quarter;
        place.integers_shift = 4 * (cursor_.slab & 1);
        place.zero = weight_.zeros + (ZERO_BITS == 4 ? pair : index);
        place.zero_shift = ZERO_BITS == 4 ? 4 * (own_.output & 1) : 0;
        return place;
    }

    PackedWeight weight_;  // its codes at this lane's
    const Route& route_;
    const Lane own_;
    const int tile_lane_;  // whose codes it reads of a tile
    const int end_;        // of the units that have its output
    Cursor cursor_;
    QuarterCodes codes_[TILES_IN_FLIGHT] = {};  // what is left out counts for nothing, but is multiplied
    QuarterNumbers numbers_[NUMBERS_IN_FLIGHT] = {};
};

#else

// Of an array's `stride` bytes a tile, what a lane copies at a time. Outside of the class: NVRTC 12.6 does not evaluate
// members of a class in it.
PASCALINE_INLINE constexpr int piece_bytes(int stride) { return stride % 16 == 0 ? 16 : stride % 8 == 0 ? 8 : 4; }

PASCALINE_INLINE constexpr int rounded(int nbytes) { return (nbytes + 15) / 16 * 16; }

class WeightStream {
    static constexpr int SCALES = TILES_IN_FLIGHT * TILE_BYTES;
    static constexpr int INTEGERS_AT = SCALES + rounded(TILES_IN_FLIGHT * NumberPlace::SCALE_STRIDE);
    static constexpr int HIGH_AT =
        INTEGERS_AT + (INTEGERS == NO_INTEGERS ? 0 : TILES_IN_FLIGHT * NumberPlace::INTEGERS_STRIDE);
    static constexpr bool HAS_HIGH = INTEGERS == SCALES_6_6 || INTEGERS == SCALE_OFFSET_6;
    static constexpr int ZEROS_AT = HIGH_AT + (HAS_HIGH ? TILES_IN_FLIGHT * 4 * TILE_OUTPUTS : 0);
    static constexpr int BATCH_BYTES =
        ZEROS_AT + (ZERO_BITS == 0 ? 0 : rounded(TILES_IN_FLIGHT * NumberPlace::ZERO_STRIDE));

    static constexpr int PIECE_BYTES = 16;

  public:
    static constexpr int SHARED_BYTES = RING_BATCHES * BATCH_BYTES;  // a warp

    // `ring` is the warp's own, at a multiple of 16 bytes.
    PASCALINE_INLINE WeightStream(const PackedWeight& weight, const Route& route, const Lane& own, uint8_t* ring)
        : weight_(weight), route_(route), own_(own), ring_(ring), address_(shared_address(ring)) {
        weight_.codes += own.lane * PIECE_BYTES;
        cursor_.start(weight_, route_);
#pragma unroll 1
        for (int i = 0; i < RING_BATCHES - 1; i++) copy_next();
    }

    PASCALINE_INLINE void begin_batch() {
        wait_for_copies<RING_BATCHES - 2>();
        sync_warp();  // other lanes' copies are there too, and they are done with the batch before
        batch_ = ring_ + next_ * BATCH_BYTES;
        next_ = next_ + 1 == RING_BATCHES ? 0 : next_ + 1;
        copy_next();
    }

    PASCALINE_INLINE QuarterCodes codes(int u) const {
        return load_codes<FromShared>(batch_ + u * TILE_BYTES + own_.lane * LANE_BYTES, own_.lane);
    }

    PASCALINE_INLINE QuarterNumbers numbers(int i, int slab) const {
        const int output = (HAS_SLAB_NUMBERS ? own_.held_tile * TILE_OUTPUTS : 0) + own_.output;
        const int part = SCALES_PER_SLAB == 1 ? 0 : own_.quarter * SCALES_PER_SLAB / 4;
        NumberPlace place;
        place.scale = batch_ + SCALES + (output * SCALES_PER_SLAB + part) * SCALE_BYTES;
        place.integers = batch_ + INTEGERS_AT + (output * 4 + own_.quarter) * NumberPlace::INTEGERS_BYTES;
        place.integers_high = batch_ + HIGH_AT + output * 4 + own_.quarter;
        place.integers_shift = 4 * (slab & 1);
        place.zero = batch_ + ZEROS_AT + (ZERO_BITS == 4 ? output >> 1 : output) * SCALES_PER_SLAB + part;
        place.zero_shift = ZERO_BITS == 4 ? 4 * (own_.output & 1) : 0;
        return load_numbers<FromShared>(place, i);
    }

    PASCALINE_INLINE void free_codes() {}
    PASCALINE_INLINE void free_numbers() {}

  private:
    PASCALINE_INLINE void copy_next() {
        const int count = cursor_.count(route_);
        // Most batches are whole, and need not ask for each tile.
        if (count >= UNITS) {
            copy_batch(UNITS);
        } else {
            copy_batch(count);
        }
        close_copies();
        cursor_.advance(weight_, route_);
        filled_ = filled_ + BATCH_BYTES == SHARED_BYTES ? 0 : filled_ + BATCH_BYTES;
    }

    PASCALINE_INLINE void copy_batch(int count) const {
        const uint32_t half = weight_.padded_outputs / TILE_OUTPUTS / 2;
        copy<TILE_BYTES>(0, cursor_.codes, half, count);
        const uint32_t entry = cursor_.entry / TILE_OUTPUTS;
        copy_numbers<NumberPlace::SCALE_STRIDE>(SCALES, weight_.scales, entry, half, count);
        if constexpr (INTEGERS != NO_INTEGERS) {
            const uint32_t tile = cursor_.output / TILE_OUTPUTS;
            copy_numbers<NumberPlace::INTEGERS_STRIDE>(INTEGERS_AT, weight_.integers, tile, half, count);
        }
        if constexpr (HAS_HIGH) {
            copy_numbers<4 * TILE_OUTPUTS>(HIGH_AT, weight_.integers_high, cursor_.high / TILE_OUTPUTS, half, count);
        }
        if constexpr (ZERO_BITS != 0) {
            copy_numbers<NumberPlace::ZERO_STRIDE>(ZEROS_AT, weight_.zeros, entry, half, count);
        }
    }

    template <int STRIDE>
    PASCALINE_INLINE void copy_numbers(int place, const uint8_t* array, uint32_t tile, uint32_t half, int count) const {
        copy<STRIDE>(place, array + size_t(tile) * STRIDE + own_.lane * piece_bytes(STRIDE), half, count);
    }

    // STRIDE bytes a tile, of the batch's tiles and of its ups `half` tiles further on; `source` is this lane's piece
    // of the first.
    template <int STRIDE>
    PASCALINE_INLINE void copy(int place, const uint8_t* source, uint32_t half, int count) const {
        constexpr int PIECE = piece_bytes(STRIDE), PIECES = TILES_IN_FLIGHT * STRIDE / PIECE;
        const SharedAddress target = address_ + filled_ + place + own_.lane * PIECE;
#pragma unroll
        for (int first = 0; first < PIECES; first += 32) {
            const int piece = first + own_.lane;
            const int copied = STRIDE % (32 * PIECE) == 0 ? first * PIECE / STRIDE : piece * PIECE / STRIDE;
            if ((PIECES % 32 == 0 || piece < PIECES) && copied % UNITS < count) {
                const size_t gap = GATE ? size_t(copied / UNITS) * (half - UNITS) * STRIDE : 0;
                copy_bytes<PIECE>(target + first * PIECE, source + first * PIECE + gap);
            }
        }
    }

    PackedWeight weight_;  // its codes at this lane's pieces
    const Route& route_;
    const Lane own_;
    uint8_t* ring_;
    const SharedAddress address_;
    const uint8_t* batch_ = nullptr;
    Cursor cursor_;
    int next_ = 0;    // the batch to multiply
    int filled_ = 0;  // where the next is copied to
};

#endif
