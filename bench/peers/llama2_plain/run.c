// A small Llama in plain C, f32, one thread: the truth for greedy text, and a peer for speed.
//
//     run MODEL.bin TOKENS ROUNDS ID..
//
// Feeds the ids, then TOKENS times the likeliest next one, all of it ROUNDS times over; prints those tokens and the
// median speed at which they came. MODEL.bin is llama2.c's first format: seven 32-bit numbers (width, width of the
// feed-forward network, layers, heads, heads of keys and values, vocabulary, context), then f32 matrices with a row for
// each output. A negative vocabulary says that the output matrix stands at the end; otherwise it is the embedding.
//
// Sums run from first to last in f32, so build it without reassociation: cc -O3 run.c -lm

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void fail(const char *message) {
    fprintf(stderr, "run: %s\n", message);
    exit(1);
}

static float *numbers(size_t count) {
    float *memory = calloc(count, sizeof *memory);
    if (!memory) fail("out of memory");
    return memory;
}

typedef struct {
    int dim, ffn, layers, heads, kv_heads, vocab, context;
    int head_dim, kv_dim;  // kv_dim: width of all keys of a token
} Shape;

typedef struct {
    Shape shape;
    // Per layer, all layers of a kind side by side.
    float *embedding;                             // [vocab, dim]
    float *attention_norm, *ffn_norm;             // [dim]
    float *query, *key, *value, *output;          // [dim, dim], [kv_dim, dim] twice, [dim, dim]
    float *gate, *down, *up;                      // [ffn, dim], [dim, ffn], [ffn, dim]
    float *last_norm, *classifier;                // [dim], [vocab, dim]
    // Keys and values of the tokens so far: [layers, context, kv_dim].
    float *keys, *values;
    // One token's way through the network.
    float *x, *normed, *q, *mixed, *hidden, *gated, *scores, *logits;
} Model;

static Model open_model(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot open the model");
    int32_t head[7];
    if (fread(head, sizeof head, 1, file) != 1) fail("the model ends within its header");
    Shape s = {head[0], head[1], head[2], head[3], head[4], abs(head[5]), head[6], 0, 0};
    for (int i = 0; i < 7; i++) {
        if (head[i] == 0 || (i != 5 && head[i] < 0) || abs(head[i]) > 1 << 20) fail("the model's header makes no sense");
    }
    if (s.dim % s.heads || s.heads % s.kv_heads || s.dim / s.heads % 2) fail("the model's heads do not fit its width");
    s.head_dim = s.dim / s.heads;
    s.kv_dim = s.head_dim * s.kv_heads;

    Model m = {.shape = s};
    size_t dim = s.dim, layers = s.layers;
    // In the file's order.
    struct { float **where; size_t count; } parts[] = {
        {&m.embedding, s.vocab * dim},   {&m.attention_norm, layers * dim},      {&m.query, layers * dim * dim},
        {&m.key, layers * dim * s.kv_dim}, {&m.value, layers * dim * s.kv_dim},  {&m.output, layers * dim * dim},
        {&m.ffn_norm, layers * dim},     {&m.gate, layers * dim * s.ffn},        {&m.down, layers * dim * s.ffn},
        {&m.up, layers * dim * s.ffn},   {&m.last_norm, dim},
        // Cosines and sines of the rotation, which newer programs compute themselves.
        {NULL, (size_t)s.context * s.head_dim}, {&m.classifier, head[5] < 0 ? s.vocab * dim : 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        float *memory = numbers(parts[i].count + 1);
        if (fread(memory, sizeof *memory, parts[i].count, file) != parts[i].count) fail("the model is too short");
        if (parts[i].where) *parts[i].where = memory;
    }
    if (fgetc(file) != EOF) fail("the model is too long");
    fclose(file);
    if (head[5] > 0) m.classifier = m.embedding;

    m.keys = numbers(layers * s.context * s.kv_dim);
    m.values = numbers(layers * s.context * s.kv_dim);
    m.x = numbers(dim), m.normed = numbers(dim), m.q = numbers(dim), m.mixed = numbers(dim);
    m.hidden = numbers(s.ffn), m.gated = numbers(s.ffn);
    m.scores = numbers(s.context), m.logits = numbers(s.vocab);
    return m;
}

// out[rows] = matrix[rows, columns] in[columns]
static void multiply(float *out, const float *matrix, const float *in, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        const float *row = matrix + (size_t)r * columns;
        float sum = 0;
        for (int c = 0; c < columns; c++) sum += row[c] * in[c];
        out[r] = sum;
    }
}

static void rms_norm(float *out, const float *in, const float *weight, int n) {
    float squares = 0;
    for (int i = 0; i < n; i++) squares += in[i] * in[i];
    float scale = 1.0f / sqrtf(squares / n + 1e-5f);
    for (int i = 0; i < n; i++) out[i] = weight[i] * (scale * in[i]);
}

static void softmax(float *x, int n) {
    float top = x[0], sum = 0;
    for (int i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; i++) sum += x[i] = expf(x[i] - top);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

// Turns each pair of neighbours in each head by its own multiple of the place.
static void rotate(float *x, int n, int head_dim, int place) {
    for (int i = 0; i < n; i += 2) {
        float angle = place / powf(10000.0f, i % head_dim / (float)head_dim);
        float cosine = cosf(angle), sine = sinf(angle), a = x[i], b = x[i + 1];
        x[i] = a * cosine - b * sine;
        x[i + 1] = a * sine + b * cosine;
    }
}

static void add(float *x, const float *more, int n) {
    for (int i = 0; i < n; i++) x[i] += more[i];
}

static void attend(Model *m, int layer, int place) {
    const Shape s = m->shape;
    size_t cache = (size_t)layer * s.context * s.kv_dim, square = (size_t)layer * s.dim * s.dim;
    size_t narrow = (size_t)layer * s.dim * s.kv_dim;
    float *key = m->keys + cache + (size_t)place * s.kv_dim, *value = m->values + cache + (size_t)place * s.kv_dim;
    multiply(m->q, m->query + square, m->normed, s.dim, s.dim);
    multiply(key, m->key + narrow, m->normed, s.kv_dim, s.dim);
    multiply(value, m->value + narrow, m->normed, s.kv_dim, s.dim);
    rotate(m->q, s.dim, s.head_dim, place);
    rotate(key, s.kv_dim, s.head_dim, place);
    for (int h = 0; h < s.heads; h++) {
        // Neighbouring heads share keys and values.
        size_t shared = cache + (size_t)(h / (s.heads / s.kv_heads)) * s.head_dim;
        const float *q = m->q + h * s.head_dim;
        for (int t = 0; t <= place; t++) {
            float score = 0;
            for (int i = 0; i < s.head_dim; i++) score += q[i] * m->keys[shared + (size_t)t * s.kv_dim + i];
            m->scores[t] = score / sqrtf((float)s.head_dim);
        }
        softmax(m->scores, place + 1);
        float *out = m->mixed + h * s.head_dim;
        memset(out, 0, s.head_dim * sizeof *out);
        for (int t = 0; t <= place; t++) {
            for (int i = 0; i < s.head_dim; i++) out[i] += m->scores[t] * m->values[shared + (size_t)t * s.kv_dim + i];
        }
    }
    multiply(m->normed, m->output + square, m->mixed, s.dim, s.dim);
}

static void feed_forward(Model *m, int layer) {
    const Shape s = m->shape;
    size_t at = (size_t)layer * s.dim * s.ffn;
    multiply(m->hidden, m->gate + at, m->normed, s.ffn, s.dim);
    multiply(m->gated, m->up + at, m->normed, s.ffn, s.dim);
    for (int i = 0; i < s.ffn; i++) m->hidden[i] = m->hidden[i] / (1.0f + expf(-m->hidden[i])) * m->gated[i];
    multiply(m->normed, m->down + at, m->hidden, s.dim, s.ffn);
}

// The likeliest token after `token` at `place`; of equals the first.
static int next(Model *m, int token, int place) {
    const Shape s = m->shape;
    memcpy(m->x, m->embedding + (size_t)token * s.dim, s.dim * sizeof *m->x);
    for (int layer = 0; layer < s.layers; layer++) {
        rms_norm(m->normed, m->x, m->attention_norm + (size_t)layer * s.dim, s.dim);
        attend(m, layer, place);
        add(m->x, m->normed, s.dim);
        rms_norm(m->normed, m->x, m->ffn_norm + (size_t)layer * s.dim, s.dim);
        feed_forward(m, layer);
        add(m->x, m->normed, s.dim);
    }
    rms_norm(m->x, m->x, m->last_norm, s.dim);
    multiply(m->logits, m->classifier, m->x, s.vocab, s.dim);
    int best = 0;
    for (int i = 1; i < s.vocab; i++) best = m->logits[i] > m->logits[best] ? i : best;
    return best;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

// The most memory that this process has held; getrusage would count what the parent had when it started us.
static double peak_mib(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (status && fgets(line, sizeof line, status)) {
        if (sscanf(line, "VmHWM: %lf", &kib) == 1) break;
    }
    if (status) fclose(status);
    return kib / 1024;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 5) fail("usage: run MODEL.bin TOKENS ROUNDS ID..");
    Model m = open_model(argv[1]);
    int tokens = atoi(argv[2]), rounds = atoi(argv[3]), given = argc - 4;
    if (tokens < 1 || rounds < 1 || given + tokens > m.shape.context) fail("more tokens than the model's context, or none");
    int *ids = malloc(tokens * sizeof *ids);
    double *speeds = malloc(rounds * sizeof *speeds);
    if (!ids || !speeds) fail("out of memory");
    for (int r = 0; r < rounds; r++) {
        int token = 0;
        for (int i = 0; i < given; i++) {
            int id = atoi(argv[4 + i]);
            if (id < 0 || id >= m.shape.vocab) fail("an id is outside the vocabulary");
            token = next(&m, id, i);
        }
        double start = seconds();
        for (int i = 0; i < tokens; i++) {
            ids[i] = token;
            token = next(&m, token, given + i);
        }
        speeds[r] = tokens / (seconds() - start);
    }
    qsort(speeds, rounds, sizeof *speeds, ascending);
    printf("{\"tokens_per_sec\": %.1f, \"peak_mib\": %.1f, \"ids\": [", speeds[rounds / 2], peak_mib());
    for (int i = 0; i < tokens; i++) printf("%s%d", i ? ", " : "", ids[i]);
    printf("]}\n");
}
