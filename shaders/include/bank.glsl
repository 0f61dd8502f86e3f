// Where the matrices of a bank of experts are. A bank is one array [E, rows, columns], or it lies in several
// allocations: then the kernel gets the address of a table of E addresses (u32 [E,2], low word first) instead.
#ifndef BANK_GLSL
#define BANK_GLSL

// The address of an expert's first row. expert · rows stays below 2^32.
uvec2 expert_base(uvec2 bank, bool table, uint expert, uint rows, uint row_bytes) {
    if (table) {
        return uvec2(load_u32(bank, 2u * expert), load_u32(bank, 2u * expert + 1u));
    }
    return address_at(bank, expert * rows, row_bytes);
}

#endif
