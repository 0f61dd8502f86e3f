// When rows fit a cache: for the kernel that copies them and the one that counts them.
#ifndef KV_CACHE_GLSL
#define KV_CACHE_GLSL

// fits reports whether a sequence may get count more keys. With a window, older ones may be overwritten that the first of the
// new queries does not see.
bool fits(uint length, uint count, uint capacity, uint window) {
    uint before = window > 0u ? min(length, window - 1u) : length;
    return before <= capacity && count <= capacity - before;
}

#endif
