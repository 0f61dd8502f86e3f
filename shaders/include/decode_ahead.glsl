// Weights on their way to an invocation of scatter2scatter_gemv. Needs RN, DEPTH, w_rows, scale_rows and weight_chunks.glsl.
#ifndef DECODE_AHEAD_GLSL
#define DECODE_AHEAD_GLSL

const uint AHEAD = DEPTH > 0u ? DEPTH : 1u; // chunks of each output

uvec4 now[RN]; // a chunk of each output's weights
uvec4 next[AHEAD * RN];
#ifdef WEIGHTS_Q4
uint scale_now[RN]; // the chunks' scales
uint scale_next[AHEAD * RN];
#endif

// load_next starts the loads of a chunk of each output's weights, the d-th on its way. Beyond the last it repeats that one, which
// is not added.
void load_next(uint d, uint chunk) {
    uint at = min(chunk, push.in_width / (PARTS * VALUES) - 1u);
    [[unroll]] for (uint r = 0u; r < RN; r++) {
        next[d * RN + r] = Chunks(w_rows[r]).at[at];
#ifdef WEIGHTS_Q4
        scale_next[d * RN + r] = load_scale_bits(scale_rows[r], at);
#endif
    }
}

void load_ahead(uint chunk) {
    [[unroll]] for (uint d = 0u; d < AHEAD; d++) {
        load_next(d, chunk + d * TEAM);
    }
}

// take makes the d-th chunk the one that is worked on.
void take(uint d) {
    [[unroll]] for (uint r = 0u; r < RN; r++) {
        now[r] = next[d * RN + r];
#ifdef WEIGHTS_Q4
        scale_now[r] = scale_next[d * RN + r];
#endif
    }
}

#endif
