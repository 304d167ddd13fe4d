/* Stands before a driver, NVIDIA's or the software one: `drivers.py` writes a function for each of the
 * driver's, which asks this and then passes the call on. The environment says what happens:
 *   OFA_WATCHED_DRIVER=/path/libcuda.so.1   who does the work
 *   OFA_WATCH_LOG=FILE                      names of calls, one a line
 *   OFA_WATCH_FAIL=cuMemAlloc_v2:2          every such call returns 2; name@3:2 the third alone */
#ifndef OFA_WATCHING_DRIVER_H
#define OFA_WATCHING_DRIVER_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"

static void write_down(const char *name) {
    const char *log = getenv("OFA_WATCH_LOG");
    FILE *file = log != NULL ? fopen(log, "a") : NULL;
    if (file == NULL) return;
    fprintf(file, "%s\n", name);
    fclose(file);
}

/* The result that the environment wants of the call with this number, or success. */
static CUresult wanted_result(const char *name, int number) {
    const char *fail = getenv("OFA_WATCH_FAIL");
    size_t length = strlen(name);
    if (fail == NULL || strncmp(fail, name, length) != 0) return CUDA_SUCCESS;
    const char *colon = strchr(fail, ':');
    if (fail[length] == '@' && atoi(fail + length + 1) != number) return CUDA_SUCCESS;
    return fail[length] == '@' || fail[length] == ':' ? atoi(colon + 1) : CUDA_SUCCESS;
}

static CUresult watch(const char *name, int *calls, void **real) {
    static void *driver;
    if (driver == NULL) driver = dlopen(getenv("OFA_WATCHED_DRIVER"), RTLD_NOW | RTLD_LOCAL);
    if (*real == NULL) *real = dlsym(driver, name);
    write_down(name);
    return wanted_result(name, ++*calls);
}

#endif
