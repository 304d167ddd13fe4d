/* Reads what a board says about itself. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "board.h"

typedef struct {
    char *text;
    size_t size, used;
} writer;

/* Append a line, or nothing when it does not fit. */
static void add(writer *w, const char *name, const char *value) {
    size_t left = w->size - w->used;
    int length = snprintf(w->text + w->used, left, "%s=%s\n", name, value);
    if (length > 0 && (size_t)length < left) w->used += (size_t)length;
}

/* Read the first line of a file without its end; false when there is none. */
static bool first_line(const char *path, char *line, int size) {
    FILE *file = fopen(path, "r");
    if (file == NULL) return false;
    bool is_read = fgets(line, size, file) != NULL;
    fclose(file);
    if (is_read) line[strcspn(line, "\r\n")] = '\0';
    return is_read && line[0] != '\0';
}

static void add_file(writer *w, const char *name, const char *path) {
    char line[256];
    if (first_line(path, line, sizeof line)) add(w, name, line);
}

/* Add fields of the first processor in /proc/cpuinfo, under their names there. */
static void add_cpuinfo(writer *w) {
    static const char *const FIELDS[] = {"model name", "CPU implementer", "CPU part",
                                         "Features", "flags", "isa"};
    char line[4096];
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL) return;
    while (fgets(line, sizeof line, file) != NULL && line[0] != '\n') {
        char *colon = strchr(line, ':');
        if (colon == NULL) continue;
        colon[1 + strcspn(colon + 1, "\r\n")] = '\0';
        size_t length = (size_t)(colon - line);
        while (length > 0 && (line[length - 1] == '\t' || line[length - 1] == ' ')) --length;
        line[length] = '\0';
        for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; ++i)
            if (strcmp(line, FIELDS[i]) == 0) add(w, FIELDS[i], colon + 1 + (colon[1] == ' '));
    }
    fclose(file);
}

/* Add the sizes of the first core's caches that hold data, as "l1_bytes" and so on. */
static void add_caches(writer *w) {
    static const char FOLDER[] = "/sys/devices/system/cpu/cpu0/cache/index";
    for (int index = 0; index < 8; ++index) {
        char path[96], level[16], type[32], bytes[32], name[32];
        snprintf(path, sizeof path, "%s%d/level", FOLDER, index);
        if (!first_line(path, level, sizeof level)) return;
        snprintf(path, sizeof path, "%s%d/type", FOLDER, index);
        if (!first_line(path, type, sizeof type) || strcmp(type, "Instruction") == 0) continue;
        snprintf(path, sizeof path, "%s%d/size", FOLDER, index);
        if (!first_line(path, bytes, sizeof bytes)) continue;
        char *unit;
        long size = strtol(bytes, &unit, 10);
        if (*unit == 'K') size *= 1L << 10;
        if (*unit == 'M') size *= 1L << 20;
        snprintf(name, sizeof name, "l%.8s_bytes", level);
        snprintf(bytes, sizeof bytes, "%ld", size);
        add(w, name, bytes);
    }
}

size_t board_facts(char *text, size_t size) {
    writer w = {.text = text, .size = size};
    struct utsname name;
    if (uname(&name) == 0) {
        add(&w, "host", name.nodename);
        add(&w, "machine", name.machine);
        add(&w, "kernel", name.release);
    }
    char cores[32];
    snprintf(cores, sizeof cores, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    add(&w, "cores", cores);
    add_file(&w, "board", "/proc/device-tree/model");
    add_file(&w, "load_average", "/proc/loadavg");
    add_file(&w, "frequency_khz", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
    add_file(&w, "governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    add_file(&w, "temperature_millicelsius", "/sys/class/thermal/thermal_zone0/temp");
    add_caches(&w);
    add_cpuinfo(&w);
    return w.used;
}
