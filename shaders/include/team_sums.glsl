// The sums of scatter2scatter_gemv's teams in shared memory. Needs THREADS, TEAM, SUMS and sums.
#ifndef TEAM_SUMS_GLSL
#define TEAM_SUMS_GLSL

const uint STRIDE = SUMS + 1u; // padded, against bank conflicts
const uint FOLD = TEAM > 32u ? 8u : 1u; // of a team's sums so many are added up first, in parallel
shared float partial[THREADS * STRIDE];

// share_sums gives the team every invocation's sums, those of FOLD invocations as one.
void share_sums(uint me, uint team, uint member) {
    [[unroll]] for (uint i = 0u; i < SUMS; i++) {
        partial[me * STRIDE + i] = sums[i];
    }
    barrier();
    if (FOLD > 1u) {
        for (uint i = member; i < SUMS * (TEAM / FOLD); i += TEAM) {
            uint at = (team * TEAM + i / SUMS * FOLD) * STRIDE + i % SUMS;
            float sum = partial[at];
            [[unroll]] for (uint m = 1u; m < FOLD; m++) {
                sum += partial[at + m * STRIDE];
            }
            partial[at] = sum;
        }
        barrier();
    }
}

#endif
