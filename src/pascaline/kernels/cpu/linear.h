// linear: y[m, n] = sum over k of x[m, k] w[n, k] + bias[n] + residual[m, n], for dense and tiled weights.

#pragma once

#include "dense.h"
#include "kernel.h"
#include "tile_product.h"

// Up to so many rows of x each thread rounds them for itself, sooner than all have met.
constexpr int64_t ROUNDED_BY_ALL = 2;
// Bytes of rounded rows of x that stay in a core's own cache while all tiles pass by.
constexpr int64_t BYTES_AT_ONCE = 512 << 10;
constexpr int64_t TOKENS_A_CHUNK = 8;

// Memory handed out from a block.
struct Block {
    char* data;
    int64_t at = 0;
    template <class T>
    T* take(int64_t count) {
        T* taken = reinterpret_cast<T*>(data + at);
        at += aligned(count * static_cast<int64_t>(sizeof(T)));
        return taken;
    }
};

struct Job {
    const WeightView* w;
    const Launch* launch;
    int64_t tokens;
    Plan plan;
    Activations x;
    bool apart;  // each thread rounds x for itself

    bool is_dense() const { return w->codes.count == 0; }
    int64_t padded_tokens() const { return (x.panels() - 1) * PANEL + x.panel(x.panels() - 1).width; }
};

static Job job_of(const Launch& launch, const Step& step) {
    Job job{};
    job.w = launch.weight;
    job.launch = &launch;
    job.tokens = rows_of(launch, step);
    job.apart = job.tokens <= ROUNDED_BY_ALL;
    if (job.is_dense()) return job;
    job.plan = plan_of(*job.w);
    job.plan.make_numbers = numbers_of(*job.w, job.plan);
    job.x = activations_of(job.plan, job.tokens);
    return job;
}

// Room for the rounded rows of x.
static void take_activations(Job& job, Block& block) {
    if (job.is_dense()) return;
    job.x.bytes = block.take<int8_t>(job.padded_tokens() * job.x.row_bytes);
    job.x.fields = block.take<float>(job.padded_tokens() * job.x.row_fields);
}

// Where the numbers of the tiles that a thread is at are kept, for one panel after another.
struct TileScratch {
    float* numbers[TOGETHER];
    TileScratch(const Job& job, Block& block) {
        for (float*& each : numbers) each = block.take<float>(job.plan.pieces * 2 * ROWS);
    }
};

static Room linear_room(const Launch& launch, const Step& step, int) {
    Job job = job_of(launch, step);
    if (job.tokens == 0) return {0, 0};
    Block shared{nullptr}, own{nullptr};
    Block& of_x = job.apart ? own : shared;
    take_activations(job, of_x);
    if (job.is_dense()) {
        if (launch.before) of_x.take<float>(job.tokens * job.w->columns);
    } else {
        if (launch.before) own.take<float>(job.w->columns);
        TileScratch(job, own);
    }
    return {shared.at, own.at};
}

// Row `row` of x; computed to `buffer` where another launch comes before.
INLINE const float* row_of_x(const Launch& launch, int64_t row, float* buffer) {
    if (!launch.before) return row_of<float>(launch.tensors[0], row);
    launch.before->kernel->row(*launch.before, row, buffer);
    return buffer;
}

// What comes on top of rows first to stop of y, for one row of x: bias, then residual.
INLINE void finish(const Launch& launch, int64_t token, int64_t first, int64_t stop) {
    float* to = row_of<float>(output_of(launch), token);
    const TensorView& bias = launch.tensors[2];
    if (bias.data)
        for (int64_t n = first; n < stop; n++) to[n] += widen(bias.data, n, bias.form);
    if (!launch.residual.data) return;
    const float* residual = row_of<float>(launch.residual, token);
    for (int64_t n = first; n < stop; n++) to[n] += residual[n];
}

// `count` neighbouring tiles, at most TOGETHER, by some panels.
static void multiply_tiles(const Job& job, int64_t tile, int64_t count, int64_t first_panel, int64_t stop_panel,
                           const TileScratch& scratch) {
    const WeightView& w = *job.w;
    const bool one_panel = stop_panel - first_panel == 1;
    TileAt tiles[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) {
        const float* made = one_panel ? nullptr : scratch.numbers[i];
        tiles[i] = {{{nullptr, nullptr}, w.table, {0, 0}}, {&w, &job.plan, tile + i, made}};
        if (i == count) {
            tiles[i] = tiles[0];
            break;
        }
        TileCodes& codes = tiles[i].codes;
        for (int plane = 0; plane < w.codes.count; plane++) {
            codes.planes[plane] = w.codes.planes[plane].data + (tile + i) * w.codes.planes[plane].stride;
            codes.next[plane] = (tile + i + TOGETHER) * ROWS < w.rows ? TOGETHER * w.codes.planes[plane].stride : 0;
        }
        if (!one_panel) numbers_of_tile(w, job.plan, tile + i, scratch.numbers[i]);
    }
    const int64_t first = tile * ROWS, stop = at_most((tile + count) * ROWS, w.rows);
    alignas(64) float out[PANEL * TOGETHER * ROWS];
    for (int64_t index = first_panel; index < stop_panel; index++) {
        const Panel panel = job.x.panel(index);
        const TileProduct product = choose_product(job.plan, panel.width);
        const int together = tiles_together(panel.width);
        for (int i = 0; i < count; i += together) {
            product(tiles + i, panel, out);
            const int64_t start = first + i * ROWS, end = at_most(start + together * ROWS, stop);
            for (int64_t m = 0; m < panel.rows; m++) {
                const int64_t token = index * PANEL + m;
                float* to = row_of<float>(output_of(*job.launch), token) + start;
                memcpy(to, out + m * together * ROWS, static_cast<size_t>(end - start) * 4);
                finish(*job.launch, token, start, end);
            }
        }
    }
}

static void run_tiles(Job& job, Team& team) {
    const Launch& launch = *job.launch;
    const WeightView& w = *job.w;
    Block shared{team.shared}, own{team.own};
    take_activations(job, job.apart ? own : shared);
    float* buffer = launch.before ? own.take<float>(w.columns) : nullptr;
    const TileScratch scratch(job, own);
    const auto round_rows = [&](int64_t first, int64_t stop) {
        for (int64_t token = first; token < stop; token++)
            quantise_row(w, job.plan, job.x, row_of_x(launch, token, buffer), token);
        if (stop == job.tokens) quantise_rest(w, job.plan, job.x);
    };
    if (job.apart) {
        round_rows(0, job.tokens);
    } else {
        team.share((job.tokens + TOKENS_A_CHUNK - 1) / TOKENS_A_CHUNK, [&](int64_t chunk) {
            round_rows(chunk * TOKENS_A_CHUNK, at_most((chunk + 1) * TOKENS_A_CHUNK, job.tokens));
        });
        team.barrier();
    }
    const int64_t tiles = (w.rows + ROWS - 1) / ROWS, panels = job.x.panels();
    const int64_t panel_bytes = (job.x.row_bytes + job.x.row_fields * 4) * PANEL;
    const int64_t panels_at_once = at_least(BYTES_AT_ONCE / panel_bytes, 1);
    // Eight chunks a thread: whoever is held up leaves some to the others.
    const int64_t tiles_at_once = (tiles / (8 * team.count) / TOGETHER + 1) * TOGETHER;
    const int64_t chunks = (tiles + tiles_at_once - 1) / tiles_at_once;
    team.share(chunks * ((panels + panels_at_once - 1) / panels_at_once), [&](int64_t index) {
        const int64_t first_panel = index / chunks * panels_at_once, first = index % chunks * tiles_at_once;
        const int64_t stop_panel = at_most(first_panel + panels_at_once, panels);
        const int64_t stop = at_most(first + tiles_at_once, tiles);
        for (int64_t tile = first; tile < stop; tile += TOGETHER)
            multiply_tiles(job, tile, at_most(TOGETHER, stop - tile), first_panel, stop_panel, scratch);
    });
}

static void run_dense(const Job& job, Team& team) {
    const Launch& launch = *job.launch;
    const WeightView& w = *job.w;
    const TensorView &x = launch.tensors[0], &y = output_of(launch);
    DenseCall call{row_of<float>(x, 0), x.strides[0], job.tokens, row_of<float>(y, 0), y.strides[0]};
    if (launch.before) {
        float* rows = reinterpret_cast<float*>(job.apart ? team.own : team.shared);
        call.x = rows;
        call.x_stride = w.columns;
        const auto compute = [&](int64_t token) { row_of_x(launch, token, rows + token * w.columns); };
        if (job.apart) {
            for (int64_t token = 0; token < job.tokens; token++) compute(token);
        } else {
            team.share(job.tokens, compute);
            team.barrier();
        }
    }
    const int64_t rows_a_chunk = (w.rows / (8 * team.count) / 16 + 1) * 16;
    team.share((w.rows + rows_a_chunk - 1) / rows_a_chunk, [&](int64_t chunk) {
        const int64_t first = chunk * rows_a_chunk, stop = at_most(first + rows_a_chunk, w.rows);
        if (w.scales.form == FP32)
            dense_rows<FP32>(w, first, stop, call);
        else if (w.scales.form == FP16)
            dense_rows<FP16>(w, first, stop, call);
        else
            dense_rows<BF16>(w, first, stop, call);
        for (int64_t token = 0; token < job.tokens; token++) finish(launch, token, first, stop);
    });
}

static void linear_run(const Launch& launch, const Step& step, Team& team) {
    Job job = job_of(launch, step);
    if (job.is_dense())
        run_dense(job, team);
    else
        run_tiles(job, team);
}

EXPORT const Kernel pascaline_linear{linear_run, linear_room, nullptr};
