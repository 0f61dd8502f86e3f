// What all paths of scatter2scatter share: the push constants and the tile of a work-group. Needs BM and BN.
#ifndef SCATTER2SCATTER_GLSL
#define SCATTER2SCATTER_GLSL

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 w;
    uvec2 y;
    uvec2 bias;
    uvec2 gates;
    uvec2 order;
    uvec2 tiles;
    uvec2 tile_args;
    uvec2 h;
    uint in_width;
    uint out_width;
    uint fan_in;
    uint rows;
    uint flags;
    float alpha;
    float limit;
    // Of columns [first_out, end_out) of W·x alone: the tiles; first_out is a multiple of 8, or 16 where GATED. row_width is that of y,
    // or of h where there is an activation, whose address is where the whole matrix's first column is or would be.
    uint first_out;
    uint end_out;
    uint row_width;
} push;

const uint X_GROUPED = 1u;
const uint Y_GROUPED = 2u;
const uint DENSE = 4u;
const uint W_TABLE = 8u;
const uint BIAS_TABLE = 16u;
const uint ACCUMULATE = 32u;

// The work-group's tile: expert, first row, end of the expert's rows, first output column.
struct Tile {
    uint expert;
    uint first;
    uint end;
    uint column;
} tile;

bool has(uint flag) { return (push.flags & flag) != 0u; }

uint slot_of(uint position) {
    return has(DENSE) ? position : uint(load_i32(push.order, position));
}

// find_tile returns false when the work-group has nothing to do. Tiles of a row follow each other; with BAND, which a kernel
// may define, tiles of a column of BAND rows do, then those of the next column: those that run together share more of W.
bool find_tile() {
    uint columns = (push.end_out - push.first_out + BN - 1u) / BN;
    uint id = group_id() / columns;
    uint column = group_id() - id * columns;
#ifdef BAND
    uint rows = has(DENSE) ? (push.rows + BM - 1u) / BM : push.rows; // of tiles
    if (id >= rows) {
        return false;
    }
    uint first = id / BAND * BAND;
    uint height = min(BAND, rows - first);
    uint place = group_id() - first * columns;
    column = place / height;
    id = first + place - column * height;
#endif
    tile.column = push.first_out + column * BN;
    if (has(DENSE)) {
        tile.expert = 0u;
        tile.first = id * BM;
        tile.end = push.rows;
        return tile.first < push.rows;
    }
    // The tile is read before it is known to exist, so that no load waits for another.
    uint at = 3u * min(id, push.rows - 1u);
    uint tiles = load_u32(push.tile_args, 3u);
    tile.expert = uint(load_i32(push.tiles, at));
    tile.first = uint(load_i32(push.tiles, at + 1u));
    tile.end = uint(load_i32(push.tiles, at + 2u));
    return id < tiles;
}

#endif
