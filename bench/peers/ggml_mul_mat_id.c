// Times ggml's MUL_MAT_ID, its ParallelLinear, on the layers of cmd/vkmoe-bench and prints JSON for vkmoe-bench --peer.
//
//     cc -O2 -o ggml_mul_mat_id bench/peers/ggml_mul_mat_id.c -lggml -lggml-base -lm    (Debian: libggml-dev)
//     ./ggml_mul_mat_id [--op forward] [--dtype f32|f16|bf16] [--device NAME] [--reps N] [--list] CASE EXPERTS K IN OUT TOKENS ACTIVATION [CASE …]
//
// The device is the first that is not the CPU backend's, or the one whose name or description contains NAME. Tokens are f32, as
// ggml has them; weights have the dtype. Every token's experts are random and distinct. Results are checked against a double
// precision sum of four of them. Times are the host's around a graph of several products divided by their number, after 0.3 s of
// warm-up: the least, the median and the 90th percentile in microseconds.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "ggml_mul_mat_id: %s\n", what);
    exit(1);
}

// random_float is uniform in [-1, 1) and repeats from run to run.
static float random_float(void) {
    static unsigned long long state = 1;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((state >> 40) & 0xffffff) / 8388608.0f - 1.0f;
}

static int random_below(int n) {
    int i = (int)((random_float() + 1.0f) * 0.5f * (float)n);
    return i < n ? i : n - 1;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    const char *name;
    int experts, k, in, out, tokens;
} layer;

// fill_weights rounds to the weights' dtype and back, so that the reference has what ggml has.
static void fill_weights(struct ggml_tensor *w, float *values, size_t n) {
    for (size_t i = 0; i < n; i++) values[i] = random_float() * 0.03f;
    if (w->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(w, values, 0, n * sizeof(float));
        return;
    }
    unsigned short *half = malloc(2 * n);
    if (w->type == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(values, (ggml_fp16_t *)half, (int64_t)n);
        ggml_fp16_to_fp32_row((ggml_fp16_t *)half, values, (int64_t)n);
    } else {
        ggml_fp32_to_bf16_row(values, (ggml_bf16_t *)half, (int64_t)n);
        ggml_bf16_to_fp32_row((ggml_bf16_t *)half, values, (int64_t)n);
    }
    ggml_backend_tensor_set(w, half, 0, 2 * n);
    free(half);
}

// check compares sampled rows of y [out, k, tokens] and returns their relative error.
static double check(layer l, struct ggml_tensor *y, const float *w, const float *x, const int *ids) {
    double diff = 0, norm = 0;
    float *row = malloc(sizeof(float) * (size_t)l.out);
    for (int sample = 0; sample < 4; sample++) {
        int slot = random_below(l.tokens * l.k);
        ggml_backend_tensor_get(y, row, (size_t)slot * (size_t)l.out * sizeof(float), (size_t)l.out * sizeof(float));
        for (int o = 0; o < l.out; o++) {
            double sum = 0;
            const float *weights = w + ((size_t)ids[slot] * (size_t)l.out + (size_t)o) * (size_t)l.in;
            for (int i = 0; i < l.in; i++) sum += (double)weights[i] * (double)x[(size_t)(slot / l.k) * (size_t)l.in + (size_t)i];
            diff += (row[o] - sum) * (row[o] - sum);
            norm += sum * sum;
        }
    }
    free(row);
    return sqrt(diff / norm);
}

static void measure(ggml_backend_t backend, layer l, enum ggml_type type, int reps, int first) {
    enum { NODES = 4 };
    struct ggml_init_params params = {ggml_tensor_overhead() * 64 + ggml_graph_overhead(), NULL, true};
    struct ggml_context *ctx = ggml_init(params);
    struct ggml_tensor *w = ggml_new_tensor_3d(ctx, type, l.in, l.out, l.experts);
    struct ggml_tensor *x = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, l.in, 1, l.tokens);
    struct ggml_tensor *ids = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, l.k, l.tokens);
    struct ggml_cgraph *graph = ggml_new_graph(ctx);
    struct ggml_tensor *y = NULL;
    for (int i = 0; i < NODES; i++) {
        y = ggml_mul_mat_id(ctx, w, x, ids);
        ggml_build_forward_expand(graph, y);
    }
    if (!ggml_backend_supports_op(backend, y)) {
        fprintf(stderr, "ggml_mul_mat_id: the backend refuses %s\n", l.name);
        ggml_free(ctx);
        return;
    }
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);
    if (!buffer) fail("out of memory");
    size_t n = (size_t)l.experts * (size_t)l.in * (size_t)l.out, m = (size_t)l.tokens * (size_t)l.in;
    float *weights = malloc(n * sizeof(float)), *tokens = malloc(m * sizeof(float));
    int *chosen = malloc(sizeof(int) * (size_t)(l.tokens * l.k));
    fill_weights(w, weights, n);
    for (size_t i = 0; i < m; i++) tokens[i] = random_float();
    ggml_backend_tensor_set(x, tokens, 0, m * sizeof(float));
    for (int slot = 0; slot < l.tokens * l.k; slot++) {
        int again;
        do {
            chosen[slot] = random_below(l.experts);
            again = 0;
            for (int other = slot - slot % l.k; other < slot; other++) again |= chosen[other] == chosen[slot];
        } while (again);
    }
    ggml_backend_tensor_set(ids, chosen, 0, sizeof(int) * (size_t)(l.tokens * l.k));
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) fail("the graph failed");
    double error = check(l, y, weights, tokens, chosen);
    if (!(error <= 2e-2)) fail("a result is wrong");
    for (double start = now(); now() - start < 0.3;) ggml_backend_graph_compute(backend, graph);
    double *times = malloc(sizeof(double) * (size_t)reps);
    for (int i = 0; i < reps; i++) {
        double start = now();
        ggml_backend_graph_compute(backend, graph);
        ggml_backend_synchronize(backend);
        times[i] = (now() - start) * 1e6 / NODES;
    }
    qsort(times, (size_t)reps, sizeof(double), ascending);
    printf("%s\n\t\t{\"operation\": \"forward\", \"case\": \"%s\", \"min_us\": %.2f, \"median_us\": %.2f, \"p90_us\": %.2f, "
           "\"relative_error\": %.2e}", first ? "" : ",", l.name, times[0], times[reps / 2], times[reps * 9 / 10], error);
    fflush(stdout);
    free(times), free(weights), free(tokens), free(chosen);
    ggml_backend_buffer_free(buffer);
    ggml_free(ctx);
}

// choose finds the device.
static ggml_backend_dev_t choose(const char *wanted) {
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        int cpu = strcmp(ggml_backend_dev_name(dev), "CPU") == 0;
        if (wanted ? strstr(ggml_backend_dev_name(dev), wanted) || strstr(ggml_backend_dev_description(dev), wanted) : !cpu) return dev;
    }
    return NULL;
}

int main(int argc, char **argv) {
    enum ggml_type type = GGML_TYPE_F16;
    const char *device = NULL, *dtype = "f16";
    int reps = 20, at = 1;
    ggml_backend_load_all();
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        if (strcmp(argv[at], "--list") == 0) {
            for (size_t i = 0; i < ggml_backend_dev_count(); i++)
                printf("%s: %s\n", ggml_backend_dev_name(ggml_backend_dev_get(i)), ggml_backend_dev_description(ggml_backend_dev_get(i)));
            return 0;
        }
        if (at + 1 == argc) fail("a flag lacks its value");
        if (strcmp(argv[at], "--dtype") == 0) dtype = argv[at + 1];
        else if (strcmp(argv[at], "--op") == 0 && strcmp(argv[at + 1], "forward") == 0) continue;
        else if (strcmp(argv[at], "--device") == 0) device = argv[at + 1];
        else if (strcmp(argv[at], "--reps") == 0) reps = atoi(argv[at + 1]);
        else fail("unknown flag");
    }
    if (strcmp(dtype, "f32") == 0) type = GGML_TYPE_F32;
    else if (strcmp(dtype, "bf16") == 0) type = GGML_TYPE_BF16;
    else if (strcmp(dtype, "f16") != 0) fail("no such dtype");
    if (reps < 1 || (argc - at) % 7 != 0) fail("want CASE EXPERTS K IN OUT TOKENS ACTIVATION, again and again");
    ggml_backend_dev_t dev = choose(device);
    if (!dev) fail("there is no such device");
    ggml_backend_t backend = ggml_backend_dev_init(dev, NULL);
    if (!backend) fail("the device does not start");
    char date[16];
    time_t today = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&today));
    printf("{\n\t\"peer\": \"ggml MUL_MAT_ID\", \"version\": \"%s\", \"device\": \"%s: %s\", \"date\": \"%s\", \"dtype\": \"%s\",\n"
           "\t\"results\": [", ggml_version(), ggml_backend_dev_name(dev), ggml_backend_dev_description(dev), date, dtype);
    for (int first = 1; at < argc; at += 7, first = 0) {
        layer l = {argv[at], atoi(argv[at + 1]), atoi(argv[at + 2]), atoi(argv[at + 3]), atoi(argv[at + 4]), atoi(argv[at + 5])};
        if (l.experts < 1 || l.k < 1 || l.k > l.experts || l.in < 1 || l.out < 1 || l.tokens < 1) fail("a shape makes no sense");
        measure(backend, l, type, reps, first);
    }
    printf("\n\t]\n}\n");
    ggml_backend_free(backend);
    return 0;
}
