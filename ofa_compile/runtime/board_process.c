/* Runs an uploaded program under a time limit and keeps what it prints. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "board.h"

#define CANNOT_START 127
/* How often to look whether a program has ended that left its output open to a child. */
#define LOOK_MS 20

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

/* In the child, which runs in its parent's memory until execv: system calls and nothing else. */
static void start(char *const argv[], int output, pid_t parent) {
    static char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
    setpgid(0, 0);
    /* The program must not outlive the session that asked for it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (getppid() != parent) _exit(CANNOT_START);
    signal(SIGPIPE, SIG_DFL);
    int input = open("/dev/null", O_RDONLY);
    if (input >= 0) dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    if (strchr(argv[0], '/') != NULL) execve(argv[0], argv, environment);
    else execvpe(argv[0], argv, environment);
    const char *reason = strerror(errno);
    if (write(STDERR_FILENO, reason, strlen(reason)) < 0) _exit(CANNOT_START);
    _exit(CANNOT_START);
}

/* Take what can be read now; false at the end of the output. */
static bool take(int fd, board_result *result) {
    char dropped[4096];
    bool is_full = result->size == BOARD_MAX_OUTPUT;
    char *place = is_full ? dropped : result->output + result->size;
    ssize_t got = read(fd, place, is_full ? sizeof dropped : BOARD_MAX_OUTPUT - result->size);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (!is_full) result->size += (size_t)got;
    return got > 0;
}

static bool is_gone(int watched) {
    struct pollfd end = {.fd = watched, .events = POLLRDHUP};
    return watched >= 0 && poll(&end, 1, 0) > 0 && (end.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void watch(pid_t pid, int fd, const board_job *job, board_result *result) {
    long deadline = now_ms() + job->limit_ms;
    bool is_open = true;
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        long left = deadline - now_ms();
        if (left <= 0 || is_gone(job->watched)) {
            result->is_timed_out = true;
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL); /* when it has not come to setpgid */
            waitpid(pid, &status, 0);
            break;
        }
        struct pollfd wait = {.fd = is_open ? fd : -1, .events = POLLIN};
        /* An end of output is nearly the end of the program. */
        int ms = is_open ? LOOK_MS : 1;
        if (poll(&wait, 1, left < ms ? (int)left : ms) > 0) is_open = take(fd, result);
    }
    kill(-pid, SIGKILL); /* children it left behind */
    while (is_open) {
        struct pollfd rest = {.fd = fd, .events = POLLIN};
        if (poll(&rest, 1, 0) <= 0) break;
        is_open = take(fd, result);
    }
    result->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Join launcher, path and arguments into one list, which ends with NULL. */
static char **full_command(const board_job *job, char *path) {
    static char *const none[] = {NULL};
    char *const *launcher = job->launcher != NULL ? job->launcher : none;
    size_t count = 0;
    while (launcher[count] != NULL) ++count;
    for (char *const *word = job->argv; *word != NULL; ++word) ++count;
    char **command = malloc((count + 1) * sizeof *command), **next = command;
    if (command == NULL) return NULL;
    while (*launcher != NULL) *next++ = *launcher++;
    *next++ = path;
    for (char *const *word = job->argv + 1; *word != NULL; ++word) *next++ = *word;
    *next = NULL;
    return command;
}

const char *board_run(const board_job *job, board_result *result) {
    memset(result, 0, offsetof(board_result, output));
    const char *name = job->argv[0];
    if (name == NULL || name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return "a program is named by the plain name it was uploaded under";
    char path[512];
    if (snprintf(path, sizeof path, "./%s", name) >= (int)sizeof path)
        return "the program's name is too long";
    if (chmod(path, 0700) != 0) return strerror(errno);
    int ends[2];
    if (pipe(ends) != 0) return strerror(errno);
    for (int i = 0; i < 2; ++i) fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    char **command = full_command(job, path);
    /* Not fork: copying the page tables of a server with TVM in it takes tens of milliseconds. */
    pid_t parent = getpid(), pid = command != NULL ? vfork() : -1;
    if (pid == 0) start(command, ends[1], parent);
    const char *reason = pid < 0 ? strerror(errno) : NULL;
    close(ends[1]);
    if (pid > 0) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        watch(pid, ends[0], job, result);
    }
    close(ends[0]);
    free(command);
    return reason;
}
