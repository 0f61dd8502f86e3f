// What the three kernels of the counting sort share. Slots are cut into blocks of consecutive slots; counts has one row
// of experts + 2 words per block: a count per expert, the count of slots whose id names no expert, and the lowest such
// slot (NO_SLOT without one). Slots without an expert are sorted as one more bucket behind the last expert.
#ifndef ROUTING_GLSL
#define ROUTING_GLSL

const uint MAX_BUCKETS = 1025u; // 1,024 experts and the bucket of slots without one
const uint NO_SLOT = 0xffffffffu;

// bucket_of is the expert of an id, or experts when the id names none.
uint bucket_of(int id, uint experts) {
    return min(uint(id), experts); // a negative id is a large unsigned number
}

uvec2 count_row(uvec2 counts, uint block, uint experts) {
    return address_at(counts, block, (experts + 2u) * 4u);
}

#endif
