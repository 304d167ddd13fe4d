/* What a board does for a client: run uploaded programs, and say what it is. */
#ifndef OFA_BOARD_H
#define OFA_BOARD_H

#include <stdbool.h>
#include <stddef.h>

/* Enough for every message of ours; what a program prints beyond it is dropped. */
#define BOARD_MAX_OUTPUT 65536

typedef struct {
    int status; /* exit code, or minus the signal that ended the program */
    bool is_timed_out;
    size_t size;
    char output[BOARD_MAX_OUTPUT]; /* standard output and error, in the order of writing */
} board_result;

/* Run a program of the current folder and wait for it, at most `limit_ms`; then it and whatever
 * it started are killed. argv[0] is its plain file name, argv ends with NULL.
 * Return NULL, or why it cannot be started. */
const char *board_run(char *const argv[], long limit_ms, board_result *result);

/* Write facts of the machine as lines of "name=value"; return how many bytes. */
size_t board_facts(char *text, size_t size);

#endif
