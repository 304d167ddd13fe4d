#include "gpu_error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nothing we launch runs for minutes: a device that takes longer hangs. */
#define PATIENCE_S 120.0

static _Thread_local char last_failure[160];

bool gpu_is_lost(int code) {
    switch (code) {
    case GPU_DEVICE_LOST:
    case GPU_KERNEL_FAULT:
    case GPU_CUT_OFF:
    case GPU_FAULTY:
    case GPU_NO_SERVER: return true;
    default: return false;
    }
}

double gpu_patience_ms(void) {
    const char *wanted = getenv("OFA_GPU_TIMEOUT_S");
    double seconds = wanted == NULL ? 0 : strtod(wanted, NULL);
    return 1e3 * (seconds > 0 ? seconds : PATIENCE_S);
}

int gpu_failed(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_failure, sizeof last_failure, format, arguments);
    va_end(arguments);
    return code;
}

void gpu_forget_failure(void) { last_failure[0] = '\0'; }

const char *gpu_explain(int code, const char *text) {
    static _Thread_local char both[768];
    if (code < GPU_UNSUITABLE || code == GPU_NO_TIMESTAMPS || last_failure[0] == '\0')
        return text;
    int length = (int)(code == GPU_FAILED ? strcspn(text, ";") : strlen(text));
    snprintf(both, sizeof both, "%.*s (%s)%s", length, text, last_failure, text + length);
    return both;
}

static bool contains(const char *text, const char *part) {
    for (; *text != '\0'; ++text) {
        size_t i = 0;
        while (part[i] != '\0' &&
               tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            ++i;
        if (part[i] == '\0') return true;
    }
    return false;
}

bool gpu_is_wanted(const char *wanted, uint32_t number, const char *name) {
    if (wanted == NULL || *wanted == '\0') return true;
    if (strspn(wanted, "0123456789") == strlen(wanted))
        return strtoul(wanted, NULL, 10) == number;
    return contains(name, wanted);
}
