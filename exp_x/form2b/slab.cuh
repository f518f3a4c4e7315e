// What a weight in slabs is counted in (workload/slab_form.py has the same): a slab is 128 stored inputs, a quarter 32
// of them, a word 4; a tile is a slab of 8 outputs.
#pragma once

constexpr int SLAB = 128, QUARTER = 32, TILE_OUTPUTS = 8;
constexpr int WORDS = QUARTER / 4;  // of a quarter
