// How flash_attention brings queries, keys and values to shared memory. An invocation that loads little keeps the rows' bases
// in registers; one that loads much, as where a tile has few rows, loops and finds them again. Needs what flash_attention.comp
// has before it.
#ifndef FLASH_LOAD_GLSL
#define FLASH_LOAD_GLSL

const uint FEW = 4u;
const uint Q_LOADS = (BM * BK + THREADS - 1u) / THREADS; // columns of four that an invocation loads per step
const uint K_LOADS = (BN * BK + THREADS - 1u) / THREADS;
const uint V_LOADS = (BV * VQ + THREADS - 1u) / THREADS;
const uint Q_KEPT = Q_LOADS > FEW ? 1u : Q_LOADS;
const uint K_KEPT = K_LOADS > FEW ? 1u : K_LOADS;

uvec2 q_rows[Q_KEPT];
uvec2 k_rows[K_KEPT];

uvec2 q_base(uint at) {
    uint row = rows.first + min(at / BK, BM - 1u);
    return address_at(address_at(push.q, rows.query + uint(query_of(row)), push.q_row), head_of(row), push.q_head);
}

uvec2 k_base(uint at, int first, int end) {
    uint row = key_row(min(first + int(at / BK), end - 1));
    return address_at(address_at(push.k, row, push.k_row), rows.kv_head, push.k_head);
}

void find_q_rows(uint me) {
    [[unroll]] for (uint i = 0u; i < Q_KEPT; i++) {
        q_rows[i] = q_base(me + i * THREADS);
    }
}

void find_k_rows(uint me, int first, int end) {
    [[unroll]] for (uint i = 0u; i < K_KEPT; i++) {
        k_rows[i] = k_base(me + i * THREADS, first, end);
    }
}

void load_query(uvec2 base, uint at, uint step) {
    if (at < BM * BK) {
        q_tile[at / BK * K_STRIDE + at % BK] = load_quad(base, 4u * (step + at % BK), WIDTH, QUADS);
    }
}

void load_key(uvec2 base, uint at, uint step) {
    if (at < BN * BK) {
        kv_tile[at / BK * K_STRIDE + at % BK] = load_quad(base, 4u * (step + at % BK), WIDTH, QUADS);
    }
}

void load_value_of(uint at, int first, int end) {
    if (at < BV * VQ) {
        uvec2 row = address_at(push.v, key_row(min(first + int(at / VQ), end - 1)), push.v_row);
        kv_tile[at] = load_quad(address_at(row, rows.kv_head, push.v_head), 4u * (at % VQ), VALUE_WIDTH, QUADS);
    }
}

// load_queries brings columns of four [step, step + BK) of the tile's queries.
void load_queries(uint me, uint step) {
    if (Q_LOADS > FEW) {
        [[dont_unroll]] for (uint at = me; at < BM * BK; at += THREADS) {
            load_query(q_base(at), at, step);
        }
    } else {
        [[unroll]] for (uint i = 0u; i < Q_KEPT; i++) {
            load_query(q_rows[i], me + i * THREADS, step);
        }
    }
}

// load_keys brings those of the keys from first on, of which those from end on repeat the last.
void load_keys(uint me, uint step, int first, int end) {
    if (K_LOADS > FEW) {
        [[dont_unroll]] for (uint at = me; at < BN * BK; at += THREADS) {
            load_key(k_base(at, first, end), at, step);
        }
    } else {
        [[unroll]] for (uint i = 0u; i < K_KEPT; i++) {
            load_key(k_rows[i], me + i * THREADS, step);
        }
    }
}

// load_values brings the values of BV keys from first on.
void load_values(uint me, int first, int end) {
    if (V_LOADS > FEW) {
        [[dont_unroll]] for (uint at = me; at < BV * VQ; at += THREADS) {
            load_value_of(at, first, end);
        }
    } else {
        [[unroll]] for (uint i = 0u; i < V_LOADS; i++) {
            load_value_of(me + i * THREADS, first, end);
        }
    }
}

#endif
