// Where the matrices of a bank of experts are. A bank is one array [E, rows, columns], or it lies in several
// allocations: then the kernel gets the address of a table of E addresses (u32 [E,2], low word first) instead.
#ifndef BANK_GLSL
#define BANK_GLSL

// The address of an expert's first row. expert · rows stays below 2^32. The bank must be readable even where it is no
// table: lavapipe 26.2 runs uniform loads of branches that are not taken.
uvec2 expert_base(uvec2 bank, bool table, uint expert, uint rows, uint row_bytes) {
    uint at = table ? 2u * expert : 0u;
    if (table) {
        return uvec2(load_u32(bank, at), load_u32(bank, at + 1u));
    }
    return address_at(bank, expert * rows, row_bytes);
}

#endif
