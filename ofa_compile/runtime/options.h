/* Command line of the executable. */
#ifndef OFA_OPTIONS_H
#define OFA_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

/* Exit codes; 1, 2 and 4 as the ofa-compile command uses them. */
enum { EXIT_RUN = 1, EXIT_INPUT = 2, EXIT_NOT_FINITE = 3, EXIT_DEVICE = 4 };

typedef struct {
    const char **images;
    int num_images;
    const char *raw, *logits, *times;
    int top, threads, warmup; /* threads: 0 means as compiled */
    int repeats; /* 0: no benchmark */
    bool json, info, help;
} options;

/* Return 0, or an exit code after saying on stderr what is wrong. */
int parse_options(options *o, int argc, char **argv);

void print_usage(FILE *file, const char *program);

#endif
