// 64-bit device addresses held in uvec2 (low word, high word), so that no kernel needs 64-bit integers: SwiftShader
// and many phones have none.
#ifndef ADDRESS_GLSL
#define ADDRESS_GLSL

// base + bytes
uvec2 address_add(uvec2 base, uint bytes) {
    uint carry;
    uint low = uaddCarry(base.x, bytes, carry);
    return uvec2(low, base.y + carry);
}

// base + count * stride, the product in 64 bits
uvec2 address_at(uvec2 base, uint count, uint stride) {
    uint high, low, carry;
    umulExtended(count, stride, high, low);
    low = uaddCarry(base.x, low, carry);
    return uvec2(low, base.y + high + carry);
}

bool address_is_null(uvec2 address) {
    return (address.x | address.y) == 0u;
}

// readable is an optional address of words, or in its absence another that may be read in its place: lavapipe 26.2 executes a
// load from an address that is the same for all invocations even where none of them takes the branch it is in. The other may
// be that of a 16-bit value in the middle of a word: it is the word that is read, as a load from between two words never
// returns on NVIDIA.
uvec2 readable(uvec2 address, uvec2 other) {
    return address_is_null(address) ? uvec2(other.x & ~3u, other.y) : address;
}

#endif
