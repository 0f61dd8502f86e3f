// The pairs of a tile of flash attention's backward pass: from rows of q, k, v and dOut to the probabilities p and the gradients
// ds of the logits, which it leaves in shared memory. Needs flash_backward.glsl, which says how invocations share the work.
#ifndef FLASH_BACKWARD_PAIRS_GLSL
#define FLASH_BACKWARD_PAIRS_GLSL

#include "float.glsl"

const uint OWN_APART = OWN / TO;    // distance between an invocation's groups of own rows, in groups
const uint OTHER_APART = OTHER / TX; // distance between its rows of the other side
const uint GROUPS = TO / 4u;
const uint CHUNK_QUADS = CHUNK / 4u;
const uint STRIDE = CHUNK_QUADS + 1u; // padded, against bank conflicts
const uint OWN_LOADS = (OWN * CHUNK_QUADS + THREADS - 1u) / THREADS;
const uint OTHER_LOADS = (OTHER * CHUNK_QUADS + THREADS - 1u) / THREADS;
const uint PAIR_QUADS = OTHER * OWN_QUADS;
const uint CHUNK_TILE = (OWN + OTHER) * STRIDE;

// The chunks of both sides, then in the same place ds [other][own / 4], and after it p.
shared vec4 tile[CHUNK_TILE > 2u * PAIR_QUADS ? CHUNK_TILE : 2u * PAIR_QUADS];
shared float row_lse[OWN_QUERIES == 1 ? OWN : OTHER];
shared float row_delta[OWN_QUERIES == 1 ? OWN : OTHER];

// load_chunks brings columns [first, first + CHUNK) of both sides to shared memory, 0 where there are none. Own row r lies at
// r / 4 + OWN_QUADS·(r mod 4).
void load_chunks(uint me, Span own, bool own_quads, Span other, bool other_quads, uint first, uint width) {
    for (uint i = 0u; i < OWN_LOADS; i++) {
        uint at = me + i * THREADS;
        uint row = at / CHUNK_QUADS;
        if (row < OWN) {
            vec4 v = vec4(0.0);
            if (row < own.count) {
                v = load_quad(row_of(own, row), first + 4u * (at % CHUNK_QUADS), width, own_quads);
            }
            tile[((row & 3u) * OWN_QUADS + (row >> 2u)) * STRIDE + at % CHUNK_QUADS] = v;
        }
    }
    for (uint i = 0u; i < OTHER_LOADS; i++) {
        uint at = me + i * THREADS;
        uint row = at / CHUNK_QUADS;
        if (row < OTHER) {
            vec4 v = vec4(0.0);
            if (row < other.count) {
                v = load_quad(row_of(other, row), first + 4u * (at % CHUNK_QUADS), width, other_quads);
            }
            tile[(OWN + row) * STRIDE + at % CHUNK_QUADS] = v;
        }
    }
}

float dot_onto(vec4 a, vec4 b, float sum) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }

vec4 products[TX * GROUPS]; // [other][own / 4] of this invocation

// multiply sets products to the dot products of the rows of both sides.
void multiply(uint me, Span own, bool own_quads, Span other, bool other_quads, uint width) {
    uint my_own = me % OWN_APART;
    uint my_other = me / OWN_APART;
    [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
        products[i] = vec4(0.0);
    }
    for (uint first = 0u; first < width; first += CHUNK) {
        barrier(); // others may still read what is overwritten
        load_chunks(me, own, own_quads, other, other_quads, first, width);
        barrier();
        for (uint quad = 0u; quad < CHUNK_QUADS; quad++) {
            vec4 a[TO];
            [[unroll]] for (uint o = 0u; o < TO; o++) {
                a[o] = tile[((o & 3u) * OWN_QUADS + my_own + (o >> 2u) * OWN_APART) * STRIDE + quad];
            }
            [[unroll]] for (uint x = 0u; x < TX; x++) {
                vec4 b = tile[(OWN + my_other + x * OTHER_APART) * STRIDE + quad];
                [[unroll]] for (uint o = 0u; o < TO; o++) {
                    products[x * GROUPS + o / 4u][o % 4u] = dot_onto(a[o], b, products[x * GROUPS + o / 4u][o % 4u]);
                }
            }
        }
    }
}

// load_statistics brings LSE and D of the tile's queries, count from row first on, to shared memory.
void load_statistics(uint me, uint first, uint count, uint head) {
    for (uint i = me; i < count; i += THREADS) {
        uvec2 lse = address_at(push.lse, first + i, kv_heads() * group_heads() * 4u);
        uvec2 delta = address_at(push.delta, first + i, kv_heads() * group_heads() * 4u);
        row_lse[i] = load_f32(lse, head);
        row_delta[i] = load_f32(delta, head);
    }
}

// pair is p and ds/SCALE of one query and key from their products; statistic is the query's place in row_lse.
vec2 pair(float qk, float dout_v, int query, int key, uint statistic) {
    float logit = SCALE * qk;
    float slope = 1.0;
    if (SOFT_CAP > 0.0) {
        float t = tanh_f32(logit / SOFT_CAP);
        logit = SOFT_CAP * t;
        slope = (1.0 - t) * (1.0 + t);
    }
    float p = exp_f32(logit - row_lse[statistic]);
    return sees(query, key) ? vec2(p, p * (dout_v - row_delta[statistic]) * slope) : vec2(0.0);
}

// result_of is where an invocation's pairs i go.
uint result_of(uint me, uint i) {
    return (me / OWN_APART + i / GROUPS * OTHER_APART) * OWN_QUADS + me % OWN_APART + i % GROUPS * OWN_APART;
}

// weigh_pairs computes p and ds/SCALE of the tile's pairs and leaves them in shared memory, readable after its last barrier.
// q and dout are rows of the tile's queries, first_query on; k and v of its keys.
void weigh_pairs(uint me, Span q, Span dout, int first_query, Span k, Span v, int first_key) {
    vec4 logits[TX * GROUPS];
    [[dont_unroll]] for (uint values = 0u; values < 2u; values++) { // q·k, then dOut·v; the code once
        Span query_rows = q, key_rows = k;
        if (values > 0u) {
            query_rows = dout;
            key_rows = v;
        }
        bool query_quads = (QUADS & (values > 0u ? DOUT : Q)) != 0u;
        bool key_quads = (QUADS & (values > 0u ? V : K)) != 0u;
        uint width = values > 0u ? VALUE_WIDTH : WIDTH;
        if (OWN_QUERIES == 1) {
            multiply(me, query_rows, query_quads, key_rows, key_quads, width);
        } else {
            multiply(me, key_rows, key_quads, query_rows, query_quads, width);
        }
        [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
            logits[i] = values > 0u ? logits[i] : products[i];
        }
    }
    barrier(); // the chunks make room for the results
    [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
        uint at = result_of(me, i);
        tile[at] = products[i];
        tile[PAIR_QUADS + at] = logits[i];
    }
    [[dont_unroll]] for (uint i = 0u; i < TX * GROUPS; i++) { // what this invocation has just stored
        uint at = result_of(me, i);
        vec4 ds = tile[at];
        vec4 p = tile[PAIR_QUADS + at];
        [[unroll]] for (uint c = 0u; c < 4u; c++) {
            uint own = 4u * (at % OWN_QUADS) + c;
            uint query = OWN_QUERIES == 1 ? own : at / OWN_QUADS;
            uint key = OWN_QUERIES == 1 ? at / OWN_QUADS : own;
            vec2 both = pair(p[c], ds[c], first_query + int(query), first_key + int(key), query);
            p[c] = both.x;
            ds[c] = both.y;
        }
        tile[at] = ds;
        tile[PAIR_QUADS + at] = p;
    }
    barrier();
}

#endif
