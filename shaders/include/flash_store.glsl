// How flash_attention stores its results, or parts of them. Needs what flash_attention.comp has before it.
#ifndef FLASH_STORE_GLSL
#define FLASH_STORE_GLSL

// store_row writes the columns of four of a row that this invocation owns, times factor.
void store_row(uvec2 base, uint i, float factor) {
    [[unroll]] for (uint c = 0u; c < CV; c++) {
        uint column = 4u * (first_n + c * GROUPS);
        vec4 v = sums[i * CV + c] * factor;
        if (QUADS && column < VALUE_WIDTH) {
            if (PARTIAL) {
                store_f32x4(base, column, v);
            } else {
                store_value4(base, column, v);
            }
        }
        [[unroll]] for (uint e = 0u; e < 4u; e++) {
            if (!QUADS && column + e < VALUE_WIDTH) {
                if (PARTIAL) {
                    store_f32(base, column + e, v[e]);
                } else {
                    store_value(base, column + e, v[e]);
                }
            }
        }
    }
}

// store_result stores row i of this invocation, whose weights add up to sum.
void store_result(uint i, float sum) {
    uint heads = kv_heads() * group_heads();
    uint head = head_of(row_of(i));
    uint token = rows.query + uint(query_of(row_of(i)));
    if (PARTIAL) {
        uint at = (rows.split * push.tokens + token) * heads + head;
        if (first_n == 0u) {
            store_f32(address_at(push.lse, at, 8u), 0u, top[i]);
            store_f32(address_at(push.lse, at, 8u), 1u, sum);
        }
        store_row(address_at(push.result, at, VALUE_WIDTH * 4u), i, 1.0);
        return;
    }
    bool absent = address_is_null(push.sinks);
    float sink = load_f32(readable(push.sinks, push.query_offsets), absent ? 0u : head);
    vec2 closed = close_row(top[i], sum, sink, absent);
    if (first_n == 0u && !address_is_null(push.lse)) {
        store_f32(push.lse, token * heads + head, closed.y);
    }
    uvec2 base = address_at(push.result, token, push.result_row);
    store_row(address_at(base, head, push.result_head), i, closed.x);
}

#endif
