// How flash_attention_coopmat adds up weighted values, and stores the results. Needs what that has before it.
#ifndef FLASH_COOPMAT_VALUES_GLSL
#define FLASH_COOPMAT_VALUES_GLSL

// add_values adds the weighted values of the tile's keys.
void add_values() {
    [[unroll]] for (uint t = 0u; t < BN / MK; t++) {
        coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> p_now[MI];
        [[unroll]] for (uint i = 0u; i < MI; i++) {
            coopMatLoad(p_now[i], elements, 8u * (P_FIRST + (first_m + i * MM) * P_ROW) + t * MK, 8u * P_ROW,
                gl_CooperativeMatrixLayoutRowMajor);
        }
        [[unroll]] for (uint n = 0u; n < NV; n++) {
            coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> v_now;
            coopMatLoad(v_now, elements, 8u * (V_FIRST + t * MK * V_ROW) + n * MN, 8u * V_ROW, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint i = 0u; i < MI; i++) {
                sums[i * NV + n] = coopMatMulAdd(p_now[i], v_now, sums[i * NV + n]);
            }
        }
    }
}

// add_values_seen does the same for rows that must not meet what they do not see: 0·NaN is NaN. An invocation adds up one
// element at a time, in shared memory where keys were, since loops over a matrix's elements would take it out of the registers.
void add_values_seen(int first, int end) {
    uint scratch = gl_SubgroupID * MM * MN;
    [[unroll]] for (uint i = 0u; i < MI * NV; i++) {
        uint first_row = first_m + i / NV * MM;
        for (uint at = gl_SubgroupInvocationID; at < MM * MN; at += SUBGROUP) {
            uint row = first_row + at / MN;
            ivec2 seen = visible(query_of(rows.first + row)) - first;
            int last = min(min(seen.y, end - first), int(BN));
            float sum = 0.0;
            for (int key = max(seen.x, 0); key < last; key++) {
                float p = float(elements[8u * (P_FIRST + row * P_ROW) + uint(key)]);
                sum = fma(p, float(elements[8u * (V_FIRST + uint(key) * V_ROW) + i % NV * MN + at % MN]), sum);
            }
            floats[scratch + at] = sum;
        }
        subgroup_sync();
        coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> more;
        coopMatLoad(more, floats, scratch, MN, gl_CooperativeMatrixLayoutRowMajor);
        sums[i] += more;
        subgroup_sync();
    }
    barrier(); // before keys come back
}

// close_rows ends the rows' sums, stores their LSE and returns what the results are to be multiplied with in top.
void close_rows() {
    bool absent = address_is_null(push.sinks);
    [[unroll]] for (uint i = 0u; i < MI * SLOTS; i++) {
        uint row = row_of(i / SLOTS, i % SLOTS);
        uint head = head_of(row);
        float sum = row_sum(total[i]);
        sum = top[i] == LOWEST && !is_nan(sum) ? 0.0 : sum; // exp2(−Inf) need not be 0
        float sink = load_f32(readable(push.sinks, push.query_offsets), absent ? 0u : head);
        vec2 closed = close_row(top[i] * LN_2, sum, sink, absent);
        if (row < rows.count && (gl_SubgroupInvocationID & MATES) == 0u && !address_is_null(push.lse)) {
            uint heads = kv_heads() * group_heads();
            store_f32(push.lse, (rows.query + uint(query_of(row))) * heads + head, closed.y);
        }
        top[i] = sum == 0.0 ? 0.0 : closed.x;
        total[i] = sum;
    }
}

// store_results divides the sums and stores them, by way of shared memory.
void store_results() {
    close_rows();
    [[unroll]] for (uint i = 0u; i < MI * NV; i++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e += EACH) {
            uint row = i / NV * SLOTS + slot_of(e);
            float factor = top[row];
            bool none = total[row] == 0.0;
            uint at = 8u * (first_m + i / NV * MM + my_rows[slot_of(e)]) * V_ROW + i % NV * MN;
            float v = none ? 0.0 : sums[i][e] * factor;
            if (PAIRS) {
                float w = none ? 0.0 : sums[i][e + 1u] * factor;
                words[at / 2u + my_columns[class_of(e)] / 2u] = pack(vec2(v, w));
            } else {
                elements[at + my_columns[class_of(e)]] = element_of(pack(vec2(v, 0.0)));
            }
        }
    }
    subgroup_sync();
    for (uint at = gl_SubgroupInvocationID; at < MI * MM * VQ; at += SUBGROUP) {
        uint row = rows.first + first_m + at / VQ;
        if (row < rows.count) {
            uvec2 base = address_at(push.result, rows.query + uint(query_of(row)), push.result_row);
            ChunksInOut(address_at(base, head_of(row), push.result_head)).at[at % VQ] =
                chunks[(first_m + at / VQ) * V_ROW + at % VQ];
        }
    }
}

#endif
