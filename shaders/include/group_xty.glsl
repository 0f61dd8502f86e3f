// What both paths of group_xty share: the push constants, an expert's rows, the tile of a work-group and where its rows
// of c are. Needs BM, BN and bank.glsl.
#ifndef GROUP_XTY_GLSL
#define GROUP_XTY_GLSL

layout(push_constant, std430) uniform Push {
    uvec2 a;
    uvec2 b;
    uvec2 c;
    uvec2 gates;
    uvec2 order;
    uvec2 offsets;
    uint a_width;
    uint b_width;
    uint a_fan_in;
    uint b_fan_in;
    uint experts;
    uint rows;
    uint skip;
    uint most;
    uint flags;
    uint c_width;
    uint c_first;
} push;

const uint A_GROUPED = 1u;
const uint B_GROUPED = 2u;
const uint DENSE = 4u;
const uint ACCUMULATE = 8u;
const uint C_TABLE = 16u;

bool has(uint flag) { return (push.flags & flag) != 0u; }

// c_matrix is where an expert's matrix in c begins: the first column that is computed, in its first row.
uvec2 c_matrix(uint expert) {
    uvec2 matrix = expert_base(push.c, has(C_TABLE), expert, push.a_width, push.c_width * OUTPUT_BYTES);
    return address_at(matrix, push.c_first, OUTPUT_BYTES);
}

// c_row is where row m of the matrix begins.
uvec2 c_row(uvec2 matrix, uint m) { return address_at(matrix, m, push.c_width * OUTPUT_BYTES); }

uint slot_of(uint position) {
    return has(DENSE) ? position : uint(load_i32(push.order, position));
}

uint row_of(uint position, bool grouped, uint fan_in) {
    if (grouped || has(DENSE)) {
        return position;
    }
    uint slot = slot_of(position);
    return fan_in == 1u ? slot : slot / fan_in;
}

// The work-group's tile of c: expert, its first row and their end, first row m and column n of c.
struct Tile {
    uint expert;
    uint first;
    uint end;
    uint m;
    uint n;
} tile;

// find_tile returns false when the work-group has nothing to do.
bool find_tile() {
    uint across = (push.b_width + BN - 1u) / BN;
    uint per_expert = across * ((push.a_width + BM - 1u) / BM);
    tile.expert = group_id() / per_expert;
    if (tile.expert >= push.experts) {
        return false;
    }
    uint id = group_id() - tile.expert * per_expert;
    tile.m = id / across * BM;
    tile.n = id % across * BN;
    tile.first = 0u;
    tile.end = push.rows;
    if (!has(DENSE)) {
        tile.first = uint(load_i32(push.offsets, tile.expert));
        tile.end = uint(load_i32(push.offsets, tile.expert + 1u));
    }
    tile.first += min(push.skip, tile.end - tile.first);
    tile.end = tile.first + min(push.most, tile.end - tile.first);
    return tile.first < tile.end || !has(ACCUMULATE);
}

#endif
