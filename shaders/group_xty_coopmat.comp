#version 460
// group_xty on cooperative matrices (VK_KHR_cooperative_matrix). The equation, the layouts and the push constants are those
// of group_xty.comp; a and b are bf16 or f16, c is that or f32, and products are added up in f32. With gates, gate·a is
// rounded to the storage type before it is multiplied.
//
// Mapping: one work-group of THREADS invocations per expert and BM × BN tile of c, tiles of N fastest. Its subgroups lie
// SM × SN over the tile; each owns MI × NI matrices of MM × MN results. BK rows at a time pass through shared memory: while
// the matrices of one step multiply, the rows of the next are on their way to registers. Where rows begin lies in shared memory
// too, for two parts of PART rows: a part is looked up while the rows of the one before pass.
// WHOLE: M is a multiple of BM and N one of BN. GATED: there are gates.
// Requires: M and N multiples of 8, a, b and c 16-byte aligned; THREADS = SM·SN·SUBGROUP; BM = SM·MI·MM, BN = SN·NI·MN, BK a
// multiple of MK; PIECE divides BM/8 and BN/8, THREADS is a multiple of PIECE and BK of THREADS/PIECE; PART
// is a multiple of BK.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run. Stores round to nearest even.
// Oracle: internal/ref/scatter2scatter_backward.go
#extension GL_GOOGLE_include_directive : require
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
layout(constant_id = 10) const bool WHOLE = false;
layout(constant_id = 11) const bool GATED = false;
layout(constant_id = 12) const uint PIECE = 4; // 16-byte chunks of a row that neighbouring invocations load
layout(constant_id = 13) const uint PART = 32;
layout(local_size_x_id = 0) in;

const uint BM = SM * MI * MM;
const uint BN = SN * NI * MN;
#include "include/group_xty.glsl"

const uint MQ = BM / 8u; // 16-byte chunks of a row of the tile of a
const uint NQ = BN / 8u;
const uint A_ROW = MQ + 1u; // chunks of a row in shared memory: padded against bank conflicts
const uint B_ROW = NQ + 1u;
const uint DOWN = THREADS / PIECE; // rows between an invocation's rows
const uint ROWS = BK / DOWN;       // of an invocation
const uint A_PARTS = MQ / PIECE;   // an invocation's chunks of each row
const uint B_PARTS = NQ / PIECE;
const uint STEPS = BK / MK;

// The epilogue's strip: MM rows of a subgroup's NI·MN results in f32, four to a chunk, padded.
const uint STRIP_STRIDE = NI * MN / 4u + 1u;
const uint STRIP = MM * STRIP_STRIDE;
const uint B_FIRST = BK * A_ROW; // chunks before b's tile
const uint TILE_CHUNKS = B_FIRST + BK * B_ROW;
const uint STRIP_CHUNKS = SM * SN * STRIP;
const uint ROWS_FIRST = TILE_CHUNKS > STRIP_CHUNKS ? TILE_CHUNKS : STRIP_CHUNKS; // two parts' rows, two to a chunk
const uint GATES_FIRST = ROWS_FIRST + PART; // and their gates, four to a chunk
const uint CHUNKS = GATES_FIRST + (GATED ? PART / 2u : 0u);

// One memory under five types: chunks to fill it, pairs for rows, elements for the matrices, floats and words for the strips at
// the end.
layout(std430) shared AsChunks { uvec4 chunks[CHUNKS]; };
layout(std430) shared AsPairs { uvec2 pairs[2u * CHUNKS]; };
layout(std430) shared AsElements { ELEMENT elements[8u * CHUNKS]; };
layout(std430) shared AsFloats { float floats[4u * CHUNKS]; };
layout(std430) shared AsWords { uint words[4u * CHUNKS]; };

uvec4 a_next[ROWS * A_PARTS];
uvec4 b_next[ROWS * B_PARTS];

uint row_of_slot(uint position, uint slot, bool grouped, uint fan_in) {
    if (grouped || has(DENSE)) {
        return position;
    }
    return fan_in == 1u ? slot : slot / fan_in;
}

// find_rows stores what fetch and put need of a part's rows: the first chunks of those of a and b, and their gates. It repeats
// the expert's last row after its end. What it loads it waits for, so it is called once for many steps.
void find_rows(uint part, uint me) {
    [[unroll]] for (uint i = 0u; i < PART; i += THREADS) {
        if (i + me < PART) {
            uint position = min(tile.first + part * PART + i + me, tile.end - 1u);
            uint slot = slot_of(position);
            uint to = part % 2u * PART + i + me;
            pairs[2u * ROWS_FIRST + to] = uvec2(row_of_slot(position, slot, has(A_GROUPED), push.a_fan_in) * (push.a_width / 8u),
                row_of_slot(position, slot, has(B_GROUPED), push.b_fan_in) * (push.b_width / 8u));
            if (GATED) {
                floats[4u * GATES_FIRST + to] = load_f32(push.gates, slot);
            }
        }
    }
}

// fetch starts the loads of the BK rows from the expert's row p on. What lies beside c is computed too, from any column, and
// never stored.
void fetch(uint p, uint me) {
    uint from = 2u * ROWS_FIRST + p % (2u * PART) + me / PIECE;
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uvec2 row = pairs[from + r * DOWN];
        [[unroll]] for (uint i = 0u; i < A_PARTS; i++) {
            uint chunk = tile.m / 8u + me % PIECE + i * PIECE;
            a_next[r * A_PARTS + i] = Chunks(push.a).at[row.x + (WHOLE ? chunk : min(chunk, push.a_width / 8u - 1u))];
        }
        [[unroll]] for (uint i = 0u; i < B_PARTS; i++) {
            uint chunk = tile.n / 8u + me % PIECE + i * PIECE;
            b_next[r * B_PARTS + i] = Chunks(push.b).at[row.y + (WHOLE ? chunk : min(chunk, push.b_width / 8u - 1u))];
        }
    }
}

// put moves the fetched rows, those from the expert's row p on, to shared memory, a's times their gates, and zeros for those
// after the last of its count rows.
void put(uint p, uint count, uint me) {
    if (count - p < BK) { // at the expert's end only
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            bool valid = p + me / PIECE + r * DOWN < count;
            [[unroll]] for (uint i = 0u; i < A_PARTS; i++) {
                a_next[r * A_PARTS + i] = valid ? a_next[r * A_PARTS + i] : uvec4(0u);
            }
            [[unroll]] for (uint i = 0u; i < B_PARTS; i++) {
                b_next[r * B_PARTS + i] = valid ? b_next[r * B_PARTS + i] : uvec4(0u);
            }
        }
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint row = me / PIECE + r * DOWN;
        [[unroll]] for (uint i = 0u; i < A_PARTS; i++) {
            uvec4 chunk = a_next[r * A_PARTS + i];
            if (GATED) {
                float gate = floats[4u * GATES_FIRST + p % (2u * PART) + row];
                chunk = p + row < count ? chunk_of(low_of(chunk) * gate, high_of(chunk) * gate) : uvec4(0u);
            }
            chunks[row * A_ROW + me % PIECE + i * PIECE] = chunk;
        }
        [[unroll]] for (uint i = 0u; i < B_PARTS; i++) {
            chunks[B_FIRST + row * B_ROW + me % PIECE + i * PIECE] = b_next[r * B_PARTS + i];
        }
    }
}

coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> sums[MI * NI];
coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> a_now[MI];
coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> b_now[NI];

// take loads the subgroup's matrices of rows [q·MK, (q + 1)·MK) of the step in shared memory.
void take(uint q, uint my_m, uint my_n) {
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        uint at = q * MK * (8u * A_ROW) + my_m + i * MM;
        coopMatLoad(a_now[i], elements, at, 8u * A_ROW, gl_CooperativeMatrixLayoutColumnMajor);
    }
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        uint at = 8u * B_FIRST + q * MK * (8u * B_ROW) + my_n + j * MN;
        coopMatLoad(b_now[j], elements, at, 8u * B_ROW, gl_CooperativeMatrixLayoutRowMajor);
    }
}

void multiply() {
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        [[unroll]] for (uint j = 0u; j < NI; j++) {
            sums[i * NI + j] = coopMatMulAdd(a_now[i], b_now[j], sums[i * NI + j]);
        }
    }
}

// add_rows adds the products of all of the expert's rows; the order of its steps is that of scatter2scatter_coopmat.
void add_rows(uint me, uint my_m, uint my_n) {
    uint count = tile.end - tile.first;
    find_rows(0u, me);
    barrier();
    fetch(0u, me);
    if (count > PART) {
        find_rows(1u, me);
    }
    put(0u, count, me);
    barrier();
    for (uint p = BK; p < count; p += BK) {
        take(0u, my_m, my_n);
        fetch(p, me);
        if (p % PART == 0u && count - p > PART) { // nobody needs the part before any more
            find_rows(p / PART + 1u, me);
        }
        [[unroll]] for (uint q = 1u; q < STEPS; q++) {
            multiply();
            take(q, my_m, my_n);
        }
        barrier();
        put(p, count, me);
        multiply();
        barrier();
    }
    [[unroll]] for (uint q = 0u; q < STEPS; q++) {
        take(q, my_m, my_n);
        multiply();
    }
}

#include "include/group_xty_store.glsl"

void main() {
    if (!find_tile()) {
        return;
    }
    uint my_m = gl_SubgroupID / SN * (MI * MM);
    uint my_n = gl_SubgroupID % SN * (NI * MN);
    [[unroll]] for (uint i = 0u; i < MI * NI; i++) {
        sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    if (tile.first < tile.end) {
        add_rows(gl_LocalInvocationID.x, my_m, my_n);
    }
    uvec2 matrix = c_matrix(tile.expert);
#ifndef OUTPUT_F32
    if (!has(ACCUMULATE) && rounds_in_registers()) {
        store_rounded(matrix, my_m, my_n);
        return;
    }
#endif
    store_sums(matrix, my_m, my_n);
}
