/* Runs kernels over data from standard input; the table of kernels is generated beside this file.
 *
 * Every array ends at a page that cannot be touched. What is left before and behind it holds NaN,
 * for the output a known value, so that a kernel that reads or writes where it should not crashes,
 * spoils the result or is seen.
 */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_ARRAYS 6
#define ALIGNMENT 64
#define UNTOUCHED 12345.678f

typedef struct {
    const char *name;
    void (*run)(void);
    int num_arrays; /* the last is the output */
    size_t sizes[MAX_ARRAYS];
    int32_t num_tiles;
    int fetches; /* takes two more arguments: what to fetch on the way, and in which steps */
    int32_t split; /* tiles [0, split) and [split, num_tiles) are separate calls, the last first */
} kernel_case;

extern const kernel_case CASES[];
extern const int NUM_CASES;

typedef struct {
    float *memory; /* the whole mapping */
    size_t length; /* floats before the page that cannot be touched */
    float *data;
    size_t size;
} guarded;

static void fail(const char *name, const char *what) {
    fprintf(stderr, "%s: %s\n", name, what);
    exit(1);
}

static guarded allocate(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = size * sizeof(float);
    size_t span = (bytes + page - 1) / page * page;
    unsigned char *memory = mmap(NULL, span + page, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + span, page, PROT_NONE) != 0)
        fail("allocate", "out of memory");
    guarded array = {(float *)(void *)memory, span / sizeof(float), NULL, size};
    array.data = (float *)(void *)(memory + (span - bytes) / ALIGNMENT * ALIGNMENT);
    for (size_t i = 0; i < array.length; i++) array.memory[i] = NAN;
    return array;
}

static void release(guarded array) {
    munmap(array.memory, array.length * sizeof(float) + (size_t)sysconf(_SC_PAGESIZE));
}

static int is_inside(guarded array, size_t i) {
    const float *at = array.memory + i;
    return at >= array.data && at < array.data + array.size;
}

static void mark_outside(guarded array) {
    for (size_t i = 0; i < array.length; i++)
        if (!is_inside(array, i)) array.memory[i] = UNTOUCHED;
}

/* Nothing outside the array was written, and everything inside was. */
static void check_written(guarded array, const char *name) {
    for (size_t i = 0; i < array.length; i++) {
        float value = array.memory[i];
        if (is_inside(array, i)) {
            if (isnan(value)) fail(name, "left a value unwritten, or read outside its inputs");
        } else if (memcmp(&value, &(float){UNTOUCHED}, sizeof value) != 0) {
            fail(name, "wrote outside its output");
        }
    }
}

#define LIST(...) __VA_ARGS__
#define CALL(arrays, ...)                                                       \
    do {                                                                        \
        if (c->fetches)                                                         \
            ((void (*)(LIST arrays, I, I, F, I))c->run)(__VA_ARGS__, begin, end, a[0].data, 16); \
        else                                                                    \
            ((void (*)(LIST arrays, I, I))c->run)(__VA_ARGS__, begin, end);     \
    } while (0)

static void call(const kernel_case *c, guarded *a, int32_t begin, int32_t end) {
    typedef float *F;
    typedef int32_t I;
    switch (c->num_arrays) {
    case 2: CALL((F, F), a[0].data, a[1].data); break;
    case 3: CALL((F, F, F), a[0].data, a[1].data, a[2].data); break;
    case 4: CALL((F, F, F, F), a[0].data, a[1].data, a[2].data, a[3].data); break;
    case 5: CALL((F, F, F, F, F), a[0].data, a[1].data, a[2].data, a[3].data, a[4].data); break;
    default: fail(c->name, "unexpected number of arrays");
    }
}

int main(void) {
    for (int i = 0; i < NUM_CASES; i++) {
        const kernel_case *c = &CASES[i];
        guarded arrays[MAX_ARRAYS];
        int last = c->num_arrays - 1;
        for (int j = 0; j < c->num_arrays; j++) {
            arrays[j] = allocate(c->sizes[j]);
            if (j < last && fread(arrays[j].data, sizeof(float), c->sizes[j], stdin) != c->sizes[j])
                fail(c->name, "input too short");
        }
        mark_outside(arrays[last]);
        fprintf(stderr, "%s\n", c->name); /* names the culprit of a crash */
        if (c->split < c->num_tiles) call(c, arrays, c->split, c->num_tiles);
        if (c->split > 0) call(c, arrays, 0, c->split);
        check_written(arrays[last], c->name);
        fwrite(arrays[last].data, sizeof(float), c->sizes[last], stdout);
        for (int j = 0; j < c->num_arrays; j++) release(arrays[j]);
    }
    return 0;
}
