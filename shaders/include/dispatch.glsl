// The linear id of a work-group. The host folds a count of work-groups over x, y and z to stay within the device's
// limits, so the grid may be larger than the count: every kernel returns early for ids at or above its own count.
#ifndef DISPATCH_GLSL
#define DISPATCH_GLSL

uint group_id() {
    return gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
}

#endif
