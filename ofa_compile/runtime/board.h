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

typedef struct {
    char *const *argv;     /* argv[0]: plain name of a file in the current folder; NULL at the end */
    char *const *launcher; /* words to put before it, as argv; NULL for none */
    long limit_ms;         /* after this it and whatever it started are killed */
    int watched;           /* a socket whose other end, if it goes, takes the program along; or -1 */
} board_job;

/* Run a program and wait for it. Return NULL, or why it cannot be started. */
const char *board_run(const board_job *job, board_result *result);

/* Write facts of the machine as lines of "name=value"; return how many bytes. */
size_t board_facts(char *text, size_t size);

#endif
