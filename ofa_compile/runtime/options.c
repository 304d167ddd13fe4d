#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ofa_session.h"

#define DEFAULT_REPEATS 100

void print_usage(FILE *file, const char *program) {
    fprintf(file,
            "usage: %s [options] IMAGE.ppm ...\n"
            "       %s [options] --raw TENSORS.f32\n"
            "       %s --benchmark [REPEATS]\n"
            "\n"
            "Classify binary PPM images of any size (P6; - reads standard input), or run the\n"
            "network on raw float32 tensors (C x H x W each, normalised, one after another).\n"
            "\n"
            "  --top K              classes to print per image (default 5)\n"
            "  --json               print one JSON document\n"
            "  --logits FILE        write the logits as float32\n"
            "  --threads N          use N threads (default: as compiled)\n"
            "  --benchmark [REPEATS]  time the network (default %d repeats)\n"
            "  --warmup N           untimed runs before the benchmark (default 10)\n"
            "  --times FILE         write the benchmark's times as float64 milliseconds\n"
            "  --info               describe the network\n"
            "  --help               show this text\n",
            program, program, program, DEFAULT_REPEATS);
}

static int complain(const char *program, const char *subject, const char *reason) {
    fprintf(stderr, "error: %s: %s\nhint: see %s --help\n", subject, reason, program);
    return EXIT_INPUT;
}

static bool is_number(const char *text) {
    if (text == NULL || *text == '\0') return false;
    for (; *text != '\0'; ++text)
        if (!isdigit((unsigned char)*text)) return false;
    return true;
}

/* Parse a whole number between 1 (or `minimum`) and `maximum`. */
static bool parse_number(const char *text, int minimum, int maximum, int *number) {
    if (!is_number(text)) return false;
    errno = 0;
    long value = strtol(text, NULL, 10);
    if (errno != 0 || value < minimum || value > maximum) return false;
    *number = (int)value;
    return true;
}

static const struct {
    const char *name, *range;
    int minimum, maximum;
} NUMBERS[] = {
    {"--top", "wants a number from 1 to 1000000", 1, 1000000},
    {"--threads", "wants a number from 1 to 1024", 1, OFA_MAX_THREADS},
    {"--warmup", "wants a number from 0 to 1000000", 0, 1000000},
};

/* Handle an option that takes a value. Return -1 when `name` is none. */
static int set_value(options *o, const char *program, const char *name, const char *value) {
    int *numbers[] = {&o->top, &o->threads, &o->warmup};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i)
        if (strcmp(name, NUMBERS[i].name) == 0)
            return parse_number(value, NUMBERS[i].minimum, NUMBERS[i].maximum, numbers[i])
                       ? 0
                       : complain(program, name, NUMBERS[i].range);
    const char **text = NULL;
    if (strcmp(name, "--raw") == 0) text = &o->raw;
    if (strcmp(name, "--logits") == 0) text = &o->logits;
    if (strcmp(name, "--times") == 0) text = &o->times;
    if (text == NULL) return -1;
    if (value == NULL || *value == '\0') return complain(program, name, "wants a file name");
    *text = value;
    return 0;
}

static bool set_flag(options *o, const char *name) {
    bool *flag = NULL;
    if (strcmp(name, "--json") == 0) flag = &o->json;
    if (strcmp(name, "--info") == 0) flag = &o->info;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) flag = &o->help;
    if (flag != NULL) *flag = true;
    return flag != NULL;
}

/* Parse argv[*index], and the value behind it where it has one. */
static int parse_one(options *o, int argc, char **argv, int *index) {
    const char *program = argv[0];
    char *name = argv[*index];
    char *equals = strchr(name, '=');
    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    if (strcmp(name, "--benchmark") == 0) {
        o->repeats = DEFAULT_REPEATS;
        if (!is_number(next)) return 0;
        ++*index;
        if (parse_number(next, 1, 10000000, &o->repeats)) return 0;
        return complain(program, name, "wants a number from 1 to 10000000");
    }
    if (set_flag(o, name)) return 0;
    if (equals != NULL) *equals = '\0';
    int code = set_value(o, program, name, equals != NULL ? equals + 1 : next);
    if (code < 0) return complain(program, name, "unknown option");
    if (equals == NULL) ++*index;
    return code;
}

int parse_options(options *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    o->top = 5;
    o->warmup = 10;
    o->images = calloc((size_t)argc + 1, sizeof *o->images);
    if (o->images == NULL || argc < 1) return EXIT_RUN;
    bool only_images = false;
    for (int i = 1; i < argc; ++i) {
        bool is_option = !only_images && argv[i][0] == '-' && argv[i][1] != '\0';
        if (is_option && strcmp(argv[i], "--") == 0) {
            only_images = true;
        } else if (!is_option) {
            o->images[o->num_images++] = argv[i];
        } else {
            int code = parse_one(o, argc, argv, &i);
            if (code != 0) return code;
        }
    }
    if (o->help) return 0;
    if (o->raw != NULL && o->num_images > 0)
        return complain(argv[0], o->images[0], "images and --raw exclude each other");
    if (o->raw == NULL && o->num_images == 0 && !o->info && o->repeats == 0)
        return complain(argv[0], argv[0], "no image given");
    if (o->logits != NULL && o->raw == NULL && o->num_images == 0)
        return complain(argv[0], "--logits", "no image or tensor given");
    if (o->times != NULL && o->repeats == 0)
        return complain(argv[0], "--times", "only --benchmark has times");
    return 0;
}
