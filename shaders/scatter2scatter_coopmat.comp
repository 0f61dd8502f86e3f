#version 460
// scatter2scatter on cooperative matrices (VK_KHR_cooperative_matrix). The equation, the layouts and the push constants
// are those of scatter2scatter.comp, TRANSPOSED included; x, W, y and bias are bf16 or f16 and products are added up in f32.
// Quantized weights become 16-bit values, exactly, on their way to shared memory: those of int8 without the rows' scales,
// which the results are multiplied by, and those of q4 with them.
//
// Mapping: one work-group of THREADS invocations per BM × BN tile of y, tiles of out fastest. Its subgroups lie SM × SN
// over the tile; each owns MI × NI matrices of MM × MN results. BK inputs at a time pass through shared memory: while
// the matrices of one step multiply, the next step is on its way from memory to registers. Results leave through the same
// memory, in strips of a row of a subgroup's matrices: f32, one at a time, or, where PLAIN, rounded, as many as find room. The slots
// of the tile's rows, which stores need, lie behind it from the start.
// Requires: in and out multiples of 8, all four matrices 16-byte aligned; THREADS = SM·SN·SUBGROUP; BM = SM·MI·MM,
// BN = SN·NI·MN, BK a multiple of MK and of 8; BM·BK/8 and BN·BK/8 multiples of THREADS; THREADS one of BK/8, and of BN/8
// when TRANSPOSED. Where GATED: out and NI·MN multiples of 16, and THREADS of 2·BK/8. PLAIN: no bias, gates, ACCUMULATE, activation or
// int8 weights.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run. Stores round to nearest even.
// Oracle: internal/ref/scatter2scatter.go
#extension GL_GOOGLE_include_directive : require
#define EXP exp // see include/float.glsl; with the longer one GELU took 60 us of 540 in an up projection on an H100
#include "include/coopmat.glsl"
#include "include/bank.glsl"

layout(constant_id = 0) const uint THREADS = 32;
layout(constant_id = 1) const uint SUBGROUP = 32;
layout(constant_id = 2) const uint SM = 1;
layout(constant_id = 3) const uint SN = 1;
layout(constant_id = 4) const uint MI = 2;
layout(constant_id = 5) const uint NI = 2;
layout(constant_id = 6) const uint BK = 32;
layout(constant_id = 7) const uint MM = 16;
layout(constant_id = 8) const uint MN = 16;
layout(constant_id = 9) const uint MK = 16;
layout(constant_id = 10) const bool WHOLE = false; // in is a multiple of BK and out one of BN
layout(constant_id = 11) const bool TRANSPOSED = false;
layout(constant_id = 12) const bool SHORT = false; // tiles of few rows take less time; MI > 2
layout(constant_id = 13) const uint BAND_ROWS = 1; // BAND of include/scatter2scatter.glsl
layout(constant_id = 14) const uint ACTIVATION = 7; // LINEAR of include/epilogue.glsl
layout(constant_id = 15) const bool GATED = false;
layout(constant_id = 16) const bool INTERLEAVED = false; // only where GATED
layout(constant_id = 17) const bool PLAIN = false; // sums are results but for rounding
layout(local_size_x_id = 0) in;

const uint BM = SM * MI * MM;
const uint BN = SN * NI * MN;
#define BAND BAND_ROWS
#include "include/scatter2scatter.glsl"
#include "include/weights.glsl"
#include "include/epilogue.glsl"

const uint KQ = BK / 8u;          // 16-byte chunks along k
const uint ROW = KQ + 1u;         // chunks of a row in shared memory: padded against bank conflicts
const uint STEPS = BK / MK;
const uint X_LOADS = BM * KQ / THREADS;
const uint W_LOADS = BN * KQ / THREADS;
const uint STEP = THREADS / KQ;   // rows between an invocation's loads
const uint W_ACROSS = TRANSPOSED ? BN / 8u : KQ; // chunks of a row of W's tile: outputs of an input, or the other way round
const uint W_ROW = W_ACROSS + 1u;
const uint W_STEP = THREADS / W_ACROSS;
const uint W_FIRST = BM * ROW;    // chunks before W's tile

// The epilogue's strip: MM rows of a subgroup's NI·MN results in f32, four to a chunk, padded.
const uint STRIP_STRIDE = NI * MN / 4u + 1u;
const uint STRIP = MM * STRIP_STRIDE;
const int W_LAYOUT = TRANSPOSED ? gl_CooperativeMatrixLayoutRowMajor : gl_CooperativeMatrixLayoutColumnMajor;
const uint TILE_CHUNKS = W_FIRST + (TRANSPOSED ? BK : BN) * W_ROW;
const uint STRIP_CHUNKS = SM * SN * STRIP;
const uint LEAST_CHUNKS = TILE_CHUNKS > STRIP_CHUNKS ? TILE_CHUNKS : STRIP_CHUNKS;
// Where results are rounded first, all strips at once, if that takes little more.
const uint ROUNDED_CHUNKS = SM * SN * MI * MM * (NI * MN / 8u + 1u);
const uint MOST_CHUNKS = ROUNDED_CHUNKS > LEAST_CHUNKS ? ROUNDED_CHUNKS : LEAST_CHUNKS;
const uint SLOTS_FIRST = MOST_CHUNKS - LEAST_CHUNKS > LEAST_CHUNKS / 32u ? LEAST_CHUNKS : MOST_CHUNKS; // the slots of rows, four to a chunk
const uint CHUNKS = SLOTS_FIRST + (BM + 3u) / 4u;

// One memory under four types: chunks to fill it, elements for the matrices, floats and words for the strips at the end.
layout(std430) shared AsChunks { uvec4 chunks[CHUNKS]; };
layout(std430) shared AsElements { ELEMENT elements[8u * CHUNKS]; };
layout(std430) shared AsFloats { float floats[4u * CHUNKS]; };
layout(std430) shared AsWords { uint words[4u * CHUNKS]; };

const uint SLOT_LOADS = (BM + THREADS - 1u) / THREADS;

uint slots[SLOT_LOADS]; // on their way to shared memory
uint x_rows[X_LOADS]; // the invocation's rows of x, in chunks from push.x
uvec4 x_next[X_LOADS];
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> sums[MI * NI];
coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> x_now[MI];
coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> w_now[NI];
#include "include/coopmat_weights.glsl"
#include "include/coopmat_store.glsl"

// find_x_rows repeats the last row where a tile ends early: those results are never stored.
void find_x_rows(uint row, uint chunk) {
    uint stride = push.in_width / 8u;
    [[unroll]] for (uint i = 0u; i < X_LOADS; i++) {
        uint position = min(tile.first + row + i * STEP, tile.end - 1u);
        uint source = position;
        if (!has(X_GROUPED)) {
            source = slot_of(position);
            source = push.fan_in == 1u ? source : source / push.fan_in;
        }
        x_rows[i] = source * stride + chunk;
    }
}

// fetch_slots starts the loads of the slots of the tile's rows, which the stores at the end need; put_slots keeps them.
void fetch_slots(uint me) {
    [[unroll]] for (uint i = 0u; i < SLOT_LOADS; i++) {
        slots[i] = slot_of(min(tile.first + me + i * THREADS, tile.end - 1u));
    }
}

void put_slots(uint me) {
    [[unroll]] for (uint i = 0u; i < SLOT_LOADS; i++) {
        if (BM % THREADS == 0u || me + i * THREADS < BM) {
            words[4u * SLOTS_FIRST + me + i * THREADS] = slots[i];
        }
    }
}

// inside says whether the chunk-th eight inputs from k on are below in.
bool inside(uint k, uint chunk) { return WHOLE || k + 8u * chunk < push.in_width; }

// fetch_x starts the loads of inputs [k, k + BK) for a tile of strips·SM·MM rows.
void fetch_x(uint strips, uint k, uint chunk) {
    [[unroll]] for (uint i = 0u; i < X_LOADS; i++) {
        if (i * STEP < strips * SM * MM) {
            x_next[i] = inside(k, chunk) ? Chunks(push.x).at[x_rows[i] + k / 8u] : uvec4(0u);
        }
    }
}

void put(uint strips, uint row, uint chunk, uint w_row, uint w_chunk) {
    [[unroll]] for (uint i = 0u; i < X_LOADS; i++) {
        if (i * STEP < strips * SM * MM) {
            chunks[(row + i * STEP) * ROW + chunk] = x_next[i];
        }
    }
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        chunks[W_FIRST + (w_row + i * W_STEP) * W_ROW + w_chunk] = chunk_of_w(w_next[i]);
    }
}

// take loads the subgroup's matrices of inputs [q·MK, (q + 1)·MK) of the step in shared memory.
void take(uint strips, uint q, uint first_m, uint first_n) {
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        if (i < strips) {
            uint at = 8u * (first_m + i * MM) * ROW + q * MK;
            coopMatLoad(x_now[i], elements, at, 8u * ROW, gl_CooperativeMatrixLayoutRowMajor);
        }
    }
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        uint n = first_n + j * MN;
        uint at = 8u * W_FIRST + (TRANSPOSED ? q * MK * (8u * W_ROW) + n : n * (8u * W_ROW) + q * MK);
        coopMatLoad(w_now[j], elements, at, 8u * W_ROW, W_LAYOUT);
    }
}

void multiply(uint strips) {
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        [[unroll]] for (uint j = 0u; j < NI; j++) {
            if (i < strips) {
                sums[i * NI + j] = coopMatMulAdd(x_now[i], w_now[j], sums[i * NI + j]);
            }
        }
    }
}

// add_step adds the products of the step in shared memory while inputs [k, k + BK) are on their way there.
void add_step(uint strips, uint k, uint row, uint chunk, uint w_row, uint w_chunk, uint first_m, uint first_n) {
    take(strips, 0u, first_m, first_n);
    fetch_x(strips, k, chunk);
    fetch_w(k, chunk, w_row, inside(k, chunk));
    [[unroll]] for (uint q = 1u; q < STEPS; q++) {
        multiply(strips);
        take(strips, q, first_m, first_n);
    }
    // The step's last matrices are in registers, so shared memory takes the next step while they multiply. On an H100
    // this order needs 246 registers; others were a tenth slower or spilled.
    barrier();
    put(strips, row, chunk, w_row, w_chunk);
    multiply(strips);
    barrier();
}

// compute fills a tile of strips·SM·MM rows. strips is a constant at each call, so every call has a loop of its own.
void compute(uint strips) {
    uint me = gl_LocalInvocationID.x;
    uint row = me / KQ;
    uint chunk = me % KQ;
    uint w_row = me / W_ACROSS;
    uint w_chunk = me % W_ACROSS;
    uint first_m = gl_SubgroupID / SN * (strips * MM);
    uint first_n = gl_SubgroupID % SN * (NI * MN);
    // W's first loads need not wait until the rows of x are known, which takes two loads one behind the other.
    find_w_rows(w_row, w_chunk);
    fetch_w(0u, chunk, w_row, inside(0u, chunk));
    find_x_rows(row, chunk);
    fetch_slots(me);
    [[unroll]] for (uint i = 0u; i < MI * NI; i++) {
        sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    fetch_x(strips, 0u, chunk);
    put(strips, row, chunk, w_row, w_chunk);
    put_slots(me);
    barrier();
    for (uint k = BK; k < push.in_width; k += BK) {
        add_step(strips, k, row, chunk, w_row, w_chunk, first_m, first_n);
    }
    [[unroll]] for (uint q = 0u; q < STEPS; q++) {
        take(strips, q, first_m, first_n);
        multiply(strips);
    }
}

void main() {
    if (!find_tile()) {
        return;
    }
    uint rows = tile.end - tile.first;
    uint strips = MI;
    if (SHORT && rows <= SM * MM) {
        strips = 1u;
        compute(1u);
    } else if (SHORT && rows <= 2u * SM * MM) {
        strips = 2u;
        compute(2u);
    } else {
        compute(MI);
    }
    store_tile(strips, gl_SubgroupID % SN * (NI * MN));
}
