// The next token of lines with filters (top-k, top-p, min-p), drawn by inversion of the sums of what they leave in the
// order of likelihood; and the most likely tokens of others, for their log-probabilities.
//
// A block sorts a chunk of a line into bins; the last of a line selects. Weights are integers: what is chosen depends
// on nothing but the line.
#include "arrivals.cuh"
#include "token_selection.cuh"

constexpr int ITEMS = 8, CHUNK = ITEMS * THREADS;

struct alignas(16) Job {
    int32_t line;
    int32_t report;    // where the most likely tokens are written; -1: a token is chosen
    int32_t reported;  // so many of them
    int32_t unused;
};

struct Report {
    uint64_t mass;  // of all tokens; the largest logit's is 2^WEIGHT_BITS
    int32_t ids[MOST_REPORTED];
    float logits[MOST_REPORTED];
};

struct Gathered {
    BlockBins bins;
    float values[CHUNK];  // of threads that have them; so that the loop over them need not be unrolled
};

struct Shared {
    union {
        Gathered gathered;
        SelectionMemory selection;
    };
    uint64_t longs[WARPS];
    uint64_t kept_mass;  // of all tokens that min-p leaves
    Line line;
    Job job;
    uint32_t arrived;
};

// The token that a line with filters is given, `kept_mass` being that of all that min-p leaves; or the last of those to
// report.
PASCALINE_INLINE Found select(const Line& line, Selection& selection, const uint64_t& kept_mass, const Job& job) {
    constexpr int RANK = 0, TOP_P = 1, DRAW = 2;
    const bool is_report = job.report >= 0;
    Found found = {0, selection.mass()};
#pragma unroll 1  // one copy of the machine code that finds
    for (int step = RANK; step <= (is_report ? RANK : DRAW); step++) {
        uint64_t target = 0;
        bool is_cut;
        if (step == RANK) {
            const uint32_t wanted = is_report ? job.reported : line.top_k;
            if (wanted == 0 || (!is_report && wanted >= selection.count())) continue;
            target = wanted - 1;
        } else if (step == TOP_P) {
            if (line.top_p == 0) continue;
            // Tokens stay while those before them are less than top-p: no more than its integer, rounded up, less 1.
            target = multiply_high(line.top_p, found.mass, is_cut);
            if (!is_cut && target > 0) target--;
        } else {
            target = multiply_high(line.draw, LeastValue::of(found.mass, kept_mass), is_cut);
        }
        found = selection.find(step == RANK, target);
    }
    return found;
}

// jobs: of the launch; ranges (lines,) are those of choose_tokens. Writes ids and choices of rows with filters, and the
// reports of jobs that have one. Scratch, zero before and after: all_bins (jobs,), arrivals (jobs,).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
filter_tokens(const float* __restrict__ logits, const float* __restrict__ shaped, const Line* __restrict__ lines,
              const Job* __restrict__ jobs, const Range* __restrict__ ranges, int64_t* __restrict__ ids,
              Choice* __restrict__ choices, Report* __restrict__ reports, Bins* __restrict__ all_bins,
              uint32_t* __restrict__ arrivals, int vocabulary, int stride) {
    __shared__ Shared shared;
    let_next_launch_begin();
    if (threadIdx.x == 0) {
        const uint4 words = load_once(reinterpret_cast<const uint4*>(jobs + blockIdx.y));
        shared.job = {int32_t(words.x), int32_t(words.y), int32_t(words.z), 0};
        shared.line = load_line(lines, shared.job.line);
    }
    wait_for_launches_before();
    __syncthreads();
    const Job& job = shared.job;
    const Line& line = shared.line;
    const bool is_report = job.report >= 0;
    const float2 edges = load_fresh(reinterpret_cast<const float2*>(ranges + job.line));
    const Tokens tokens(logits_of(line, logits, shaped, vocabulary, stride), vocabulary, {edges.x, edges.y},
                        is_report ? LOG2_E : line.exponent, is_report);

    const int first = blockIdx.x * CHUNK + threadIdx.x;
    {
        float values[ITEMS];
#pragma unroll
        for (int item = 0; item < ITEMS; item++) {
            const int id = first + item * THREADS;
            values[item] = id < vocabulary ? load_fresh(tokens.logits + id) : 0.0f;
        }
#pragma unroll
        for (int item = 0; item < ITEMS; item++) {
            shared.gathered.values[item * THREADS + threadIdx.x] = bounded(values[item]);
        }
    }
    shared.gathered.bins.clear();
    uint64_t kept_mass = 0;
    uint32_t weightless = 0;  // mostly many in one bin: added to it at once
#pragma unroll 1
    for (int item = 0; item < ITEMS; item++) {
        const float logit = shared.gathered.values[item * THREADS + threadIdx.x];
        if (first + item * THREADS >= vocabulary || !tokens.has(logit)) continue;
        const uint64_t weight = tokens.weight(logit);
        const int bin = tokens.bin(logit);
        if (tokens.is_within(logit, line.reach)) kept_mass += weight;
        if (weight == 0 && bin == BINS - 1) {
            weightless++;
        } else {
            shared.gathered.bins.add(bin, weight);
        }
    }
    if (weightless > 0) atomicAdd(&shared.gathered.bins.counts[BINS - 1], weightless);
    kept_mass = over_block<SumOfValues>(kept_mass, shared.longs);
    Bins& bins = all_bins[blockIdx.y];
    const int bin = threadIdx.x;
    if (shared.gathered.bins.counts[bin] > 0) {
        atomicAdd(&bins.counts[bin], shared.gathered.bins.counts[bin]);
        const uint64_t mass = shared.gathered.bins.mass(bin);
        if (mass > 0) atomicAdd(&bins.masses[bin], mass);
    }
    if (bin == 0 && kept_mass > 0) atomicAdd(&bins.kept_mass, kept_mass);
    if (!comes_last(arrivals + blockIdx.y, gridDim.x, shared.arrived)) return;

    const uint64_t bin_mass = load_fresh(&bins.masses[bin]);
    const uint32_t bin_count = load_fresh(&bins.counts[bin]);
    if (bin == 0) shared.kept_mass = load_fresh(&bins.kept_mass);
    __syncthreads();
    bins.masses[bin] = 0;
    bins.counts[bin] = 0;
    if (bin == 0) bins.kept_mass = 0;
    Selection selection(tokens, bin_mass, bin_count, shared.selection);
    if (!is_report && selection.mass() == 0) return;  // nothing but minus infinity: choose_tokens has chosen
    if (bin == 0) shared.job.reported = LeastValue::of(job.reported, int32_t(selection.count()));
    __syncthreads();
    const Found found = select(line, selection, shared.kept_mass, job);
    if (is_report) {
        Report& report = reports[job.report];
        const int number = threadIdx.x;
        if (number == 0) report.mass = selection.mass();
        if (number >= MOST_REPORTED) return;
        const uint64_t place = number < job.reported ? selection.place(number) : ~uint64_t(0);
        report.ids[number] = int32_t(uint32_t(place));
        report.logits[number] = logit_at(place);
    } else if (threadIdx.x == 0) {
        const int token = int(uint32_t(found.place));
        ids[line.row] = token;
        choices[line.row].token = token;
        choices[line.row].logit = load_fresh(logits + size_t(line.row) * stride + token);
    }
}
