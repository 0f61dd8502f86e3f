// Where an activation's operands are in a row of z [H], or [2H] where GATED: gate columns first, then up columns, or in
// turn where INTERLEAVED. Needs QUADS, GATED and INTERLEAVED; without QUADS only the x of a vec4 counts.
#ifndef GATED_GLSL
#define GATED_GLSL

// load_operands reads the gates v and ups u of columns of h; u is 1 without GATED.
void load_operands(uvec2 z, uint width, uint column, out vec4 v, out vec4 u) {
    u = vec4(1.0);
    uvec2 up = address_add(z, width * VALUE_BYTES);
    if (QUADS) {
        if (GATED && INTERLEAVED) {
            vec4 left = load_value4(z, 2u * column);
            vec4 right = load_value4(z, 2u * column + 4u);
            v = vec4(left.xz, right.xz);
            u = vec4(left.yw, right.yw);
            return;
        }
        v = load_value4(z, column);
        if (GATED) {
            u = load_value4(up, column);
        }
        return;
    }
    v = vec4(load_value(z, GATED && INTERLEAVED ? 2u * column : column));
    if (GATED) {
        u.x = INTERLEAVED ? load_value(z, 2u * column + 1u) : load_value(up, column);
    }
}

// store_operands writes what belongs in the places of load_operands.
void store_operands(uvec2 z, uint width, uint column, vec4 v, vec4 u) {
    uvec2 up = address_add(z, width * VALUE_BYTES);
    if (QUADS) {
        if (GATED && INTERLEAVED) {
            store_value4(z, 2u * column, vec4(v.x, u.x, v.y, u.y));
            store_value4(z, 2u * column + 4u, vec4(v.z, u.z, v.w, u.w));
            return;
        }
        store_value4(z, column, v);
        if (GATED) {
            store_value4(up, column, u);
        }
        return;
    }
    if (GATED && INTERLEAVED) {
        store_value2(z, 2u * column, vec2(v.x, u.x));
        return;
    }
    store_value(z, column, v.x);
    if (GATED) {
        store_value(up, column, u.x);
    }
}

#endif
