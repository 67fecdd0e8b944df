// llama.cpp measured through its own library: one mode a call, one line of JSON.
//
//     llama_peer prompt     MODEL [--tokens 512]               speed of one prompt
//     llama_peer generate   MODEL [--depth 512] [--tokens 128] speed of tokens after `depth` others
//     llama_peer load       MODEL                              ends with the first token; the caller has the clock
//     llama_peer greedy     MODEL --ids FILE [--tokens 128]    likeliest continuation of the ids in FILE
//     llama_peer logits     MODEL --ids FILE --out FILE        f32 [ids, vocabulary], row by row
//     llama_peer perplexity MODEL --ids FILE [--window 512]    mean negative log-likelihood, in nats
//     llama_peer quantize   MODEL OUT TYPE
//     llama_peer system
//
// Ids are numbers between blanks. For all: --threads N, --kv f16|q8_0, --flash on|off|auto,
// --weights amx|repack|plain, --verbose.
//
//   amx     what llama.cpp does by default where there are tiles: weights lie in its AMX buffer
//   repack  the same with the tiles refused: rows interleaved for vectors, in memory of its own
//   plain   weights stay as the mapped file has them (`--no-repack`)

#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "llama.h"

namespace {

bool refuse_tiles = false;
bool verbose = false;
// Where llama.cpp put the weights, from its log: `name MiB`.
std::vector<std::string> buffers;

[[noreturn]] void fail(const std::string & message) {
    fprintf(stderr, "llama_peer: %s\n", message.c_str());
    exit(1);
}

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The most memory that this process has held; getrusage would count what the parent had when it started us.
double peak_mib() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmHWM:", 0) == 0) return atof(line.c_str() + 6) / 1024;
    }
    return 0;
}

void log_line(ggml_log_level level, const char * text, void *) {
    if (verbose || level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
    char name[64];
    double mib;
    const char * line = strstr(text, "load_tensors:");
    if (line && sscanf(line, "load_tensors: %63s model buffer size = %lf", name, &mib) == 2) {
        buffers.push_back(std::string(name) + " " + std::to_string(std::lround(mib)));
    }
}

struct Options {
    std::string mode;
    std::vector<std::string> names;
    std::map<std::string, std::string> values{
        {"threads", std::to_string(std::thread::hardware_concurrency())},
        {"tokens", ""}, {"depth", "512"}, {"window", "512"}, {"kv", "f16"}, {"flash", "auto"},
        {"weights", "amx"}, {"ids", ""}, {"out", ""}};

    int number(const std::string & name, int otherwise = 0) const {
        const std::string & text = values.at(name);
        return text.empty() ? otherwise : atoi(text.c_str());
    }

    std::string one_of(const std::string & name, const std::vector<std::string> & allowed) const {
        for (const auto & value : allowed) {
            if (values.at(name) == value) return value;
        }
        fail("--" + name + " does not take `" + values.at(name) + "`");
    }
};

Options parse(int argc, char ** argv) {
    Options options;
    for (int i = 1; i < argc; i++) {
        std::string word = argv[i];
        if (word == "--verbose") {
            verbose = true;
        } else if (word.rfind("--", 0) == 0) {
            auto found = options.values.find(word.substr(2));
            if (found == options.values.end() || i + 1 == argc) fail("no option `" + word + "`, or its value is missing");
            found->second = argv[++i];
        } else if (options.mode.empty()) {
            options.mode = word;
        } else {
            options.names.push_back(word);
        }
    }
    return options;
}

// A loaded model with one context; everything a mode needs.
struct Model {
    llama_model * model;
    llama_context * context;
    int vocab;

    Model(const Options & options, int tokens, bool all_logits = false) {
        if (options.names.empty()) fail("the model's file is missing");
        llama_model_params model_params = llama_model_default_params();
        model_params.use_extra_bufts = options.values.at("weights") != "plain";
        model = llama_model_load_from_file(options.names[0].c_str(), model_params);
        if (!model) fail("cannot load " + options.names[0]);
        vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));

        const int threads = options.number("threads");
        std::string kv = options.one_of("kv", {"f16", "q8_0"}), flash = options.one_of("flash", {"auto", "on", "off"});
        llama_context_params params = llama_context_default_params();
        params.n_ctx = tokens;
        params.n_batch = params.n_ubatch = 512;
        params.n_threads = params.n_threads_batch = threads;
        params.flash_attn_type = flash == "auto" ? LLAMA_FLASH_ATTN_TYPE_AUTO
                               : flash == "on"   ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                                                 : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        params.type_k = params.type_v = kv == "f16" ? GGML_TYPE_F16 : GGML_TYPE_Q8_0;
        params.n_outputs_max = all_logits ? 0 : 1;
        params.no_perf = true;
        context = llama_init_from_model(model, params);
        if (!context) fail("cannot make a context");
        // As llama.cpp's own tools do; without it, a build without OpenMP starts threads for every token.
        ggml_threadpool_params pool = ggml_threadpool_params_default(threads);
        llama_attach_threadpool(context, ggml_threadpool_new(&pool), nullptr);
    }

    // Puts tokens behind those that are in the cache; logits of the last one.
    const float * add(const llama_token * tokens, int count) {
        for (int done = 0; done < count; done += 512) {
            int size = std::min(512, count - done);
            if (llama_decode(context, llama_batch_get_one(const_cast<llama_token *>(tokens) + done, size))) {
                fail("llama_decode failed");
            }
        }
        llama_synchronize(context);
        return llama_get_logits_ith(context, -1);
    }

    // The same for up to 512 tokens at places from `start` on, with logits of all: [count, vocabulary].
    const float * add_all(const llama_token * tokens, int count, int start) {
        llama_batch batch = llama_batch_init(count, 0, 1);
        batch.n_tokens = count;
        for (int i = 0; i < count; i++) {
            batch.token[i] = tokens[i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch)) fail("llama_decode failed");
        llama_batch_free(batch);
        llama_synchronize(context);
        return llama_get_logits(context);
    }

    void clear() { llama_memory_clear(llama_get_memory(context), false); }

    // Of equals the first.
    llama_token likeliest(const float * logits) const {
        return static_cast<llama_token>(std::max_element(logits, logits + vocab) - logits);
    }

    // Any ids will do for timing.
    std::vector<llama_token> some_ids(int count) const {
        std::vector<llama_token> ids(count);
        for (int i = 0; i < count; i++) ids[i] = static_cast<llama_token>((i * 7919LL + 13) % vocab);
        return ids;
    }
};

void print_speed(int tokens, double elapsed) {
    printf("{\"tokens_per_sec\": %.3f, \"peak_mib\": %.0f, \"buffers_mib\": [", tokens / elapsed, peak_mib());
    for (size_t i = 0; i < buffers.size(); i++) printf("%s\"%s\"", i ? ", " : "", buffers[i].c_str());
    printf("]}\n");
}

void print_ids(const std::vector<llama_token> & ids) {
    printf("{\"ids\": [");
    for (size_t i = 0; i < ids.size(); i++) printf("%s%d", i ? ", " : "", ids[i]);
    printf("]}\n");
}

std::vector<llama_token> read_ids(const Options & options) {
    std::ifstream file(options.values.at("ids"));
    std::vector<llama_token> ids;
    for (llama_token id; file >> id;) ids.push_back(id);
    if (ids.empty()) fail("--ids names no file with numbers");
    return ids;
}

void prompt(const Options & options) {
    const int count = options.number("tokens", 512);
    Model model(options, count);
    auto ids = model.some_ids(count);
    model.add(ids.data(), count);  // Warms up.
    model.clear();
    double start = seconds();
    model.add(ids.data(), count);
    print_speed(count, seconds() - start);
}

// Each token is the likeliest after the last one.
std::vector<llama_token> continuation(Model & model, llama_token token, int count) {
    std::vector<llama_token> ids;
    for (int i = 0; i < count; i++) {
        ids.push_back(token);
        token = model.likeliest(model.add(&token, 1));
    }
    return ids;
}

void generate(const Options & options) {
    const int count = options.number("tokens", 128), depth = options.number("depth");
    if (depth < 1) fail("--depth is at least 1");
    // One token is generated before the clock starts.
    Model model(options, depth + count + 1);
    auto ids = model.some_ids(depth);
    llama_token first = model.likeliest(model.add(ids.data(), depth));
    llama_token second = model.likeliest(model.add(&first, 1));
    double start = seconds();
    continuation(model, second, count);
    print_speed(count, seconds() - start);
}

void load(const Options & options) {
    Model model(options, 512);
    llama_token begin = 1;
    llama_token first = model.likeliest(model.add(&begin, 1));
    printf("{\"first_token\": %d, \"peak_mib\": %.0f}\n", first, peak_mib());
}

void greedy(const Options & options) {
    auto ids = read_ids(options);
    const int count = options.number("tokens", 128);
    Model model(options, static_cast<int>(ids.size()) + count);
    llama_token first = model.likeliest(model.add(ids.data(), static_cast<int>(ids.size())));
    print_ids(continuation(model, first, count));
}

void logits(const Options & options) {
    auto ids = read_ids(options);
    const int count = static_cast<int>(ids.size());
    std::ofstream out(options.values.at("out"), std::ios::binary);
    Model model(options, count, true);
    for (int done = 0; done < count; done += 512) {
        int size = std::min(512, count - done);
        const float * rows = model.add_all(ids.data() + done, size, done);
        out.write(reinterpret_cast<const char *>(rows), sizeof(float) * size * model.vocab);
    }
    if (!out.flush()) fail("cannot write --out");
    printf("{\"rows\": %d, \"vocab\": %d}\n", count, model.vocab);
}

// Windows do not overlap, and every token of one but its first is predicted from those before it.
void perplexity(const Options & options) {
    auto ids = read_ids(options);
    const int window = options.number("window"), windows = static_cast<int>(ids.size()) / window;
    if (window < 2 || window > 512 || windows == 0) fail("--window is 2 to 512, and no longer than the ids");
    Model model(options, window, true);
    double sum = 0;
    for (int w = 0; w < windows; w++) {
        const llama_token * tokens = ids.data() + w * window;
        model.clear();
        const float * rows = model.add_all(tokens, window, 0);
        for (int i = 0; i + 1 < window; i++, rows += model.vocab) {
            float top = *std::max_element(rows, rows + model.vocab);
            double total = 0;
            for (int v = 0; v < model.vocab; v++) total += std::exp(static_cast<double>(rows[v] - top));
            sum += std::log(total) + top - rows[tokens[i + 1]];
        }
    }
    const long predicted = static_cast<long>(windows) * (window - 1);
    printf("{\"nll\": %.6f, \"predicted\": %ld, \"windows\": %d}\n", sum / predicted, predicted, windows);
}

void quantize(const Options & options) {
    static const std::map<std::string, llama_ftype> types{
        {"F32", LLAMA_FTYPE_ALL_F32},          {"F16", LLAMA_FTYPE_MOSTLY_F16},       {"BF16", LLAMA_FTYPE_MOSTLY_BF16},
        {"Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     {"Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},
        {"Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},     {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K},
        {"Q3_K_S", LLAMA_FTYPE_MOSTLY_Q3_K_S}, {"Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M}, {"Q3_K_L", LLAMA_FTYPE_MOSTLY_Q3_K_L},
        {"Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S}, {"Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S},
        {"Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M}, {"Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K},     {"IQ4_NL", LLAMA_FTYPE_MOSTLY_IQ4_NL},
        {"IQ4_XS", LLAMA_FTYPE_MOSTLY_IQ4_XS}};
    if (options.names.size() != 3) fail("usage: llama_peer quantize MODEL OUT TYPE");
    auto type = types.find(options.names[2]);
    if (type == types.end()) fail("no type `" + options.names[2] + "`");
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = type->second;
    params.nthread = options.number("threads");
    params.allow_requantize = true;
    double start = seconds();
    if (llama_model_quantize(options.names[0].c_str(), options.names[1].c_str(), &params)) fail("quantising failed");
    printf("{\"seconds\": %.3f, \"peak_mib\": %.0f}\n", seconds() - start, peak_mib());
}

void system_info(const Options &) {
    printf("{\"name\": \"llama.cpp\", \"version\": \"%s\", \"system\": \"%s\"}\n", llama_version(), llama_print_system_info());
}

}  // namespace

// Calls of `syscall` in llama.cpp come here (the linker's --wrap). It asks the kernel for the tiles in this way, and
// turns to its other layouts where they are refused.
extern "C" long __real_syscall(long number, ...);
extern "C" long __wrap_syscall(long number, ...) {
    constexpr long request_tiles = 0x1023;  // ARCH_REQ_XCOMP_PERM
    va_list rest;
    va_start(rest, number);
    long a[6];
    for (long & argument : a) argument = va_arg(rest, long);
    va_end(rest);
    if (refuse_tiles && number == SYS_arch_prctl && a[0] == request_tiles) return -1;
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int main(int argc, char ** argv) {
    static const std::map<std::string, void (*)(const Options &)> modes{
        {"prompt", prompt}, {"generate", generate},     {"load", load},         {"greedy", greedy},
        {"logits", logits}, {"perplexity", perplexity}, {"quantize", quantize}, {"system", system_info}};
    Options options = parse(argc, argv);
    auto mode = modes.find(options.mode);
    if (mode == modes.end()) fail("the first argument is a mode; the head of main.cpp lists them");
    refuse_tiles = options.one_of("weights", {"amx", "repack", "plain"}) != "amx";
    llama_log_set(log_line, nullptr);
    llama_backend_init();
    mode->second(options);
    fflush(stdout);
    // Freeing gigabytes would only delay the next measurement.
    _Exit(0);
}
