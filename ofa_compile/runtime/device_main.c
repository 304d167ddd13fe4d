/* The board's daemon: listens, registers with a tracker, and serves one client at a time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "device_options.h"
#include "device_wire.h"

#define PING_MS 2000
#define RETRY_S 5
#define HANDSHAKE_S 10
#define NO_SESSION 3 /* exit code of a child whose client did not know the key or the token */

static volatile sig_atomic_t is_stopped;
static volatile pid_t served_by; /* the process of the session, or 0 */

static void stop(int number) {
    (void)number;
    is_stopped = 1;
    if (served_by > 0) kill(served_by, SIGKILL);
}

static int complain(const char *what, const char *reason) {
    fprintf(stderr, "error: %s: %s\n", what, reason);
    return 1;
}

static int open_listener(const device_options *o, int *port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->listen.port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons((uint16_t)o->listen.port)};
    bool is_v6 = strchr(o->listen.address, ':') != NULL;
    inet_pton(is_v6 ? AF_INET6 : AF_INET, o->listen.address,
              is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    struct sockaddr *address = is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
    socklen_t size = is_v6 ? sizeof v6 : sizeof v4;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, address, size) != 0 || listen(fd, 4) != 0) return -1;
    getsockname(fd, address, &size);
    *port = ntohs(is_v6 ? v6.sin6_port : v4.sin_port);
    return fd;
}

/* Whether two texts are equal, in a time that says nothing about where they differ. */
static bool is_same(const char *a, const char *b) {
    size_t length = strlen(a);
    unsigned char difference = length != strlen(b);
    for (size_t i = 0; i < length; ++i)
        difference |= (unsigned char)(a[i] ^ b[difference == 0 ? i : 0]);
    return difference == 0;
}

/* Whether "client:KEY -token=TOKEN ..." knows what it must. */
static bool is_welcome(char *words, const char *match_key, const char *token) {
    static const char CLIENT[] = "client:", TOKEN[] = "-token=";
    char *rest = NULL, *word = strtok_r(words, " ", &rest);
    if (word == NULL || strncmp(word, CLIENT, strlen(CLIENT)) != 0) return false;
    bool has_key = is_same(word + strlen(CLIENT), match_key), has_token = token == NULL;
    while ((word = strtok_r(NULL, " ", &rest)) != NULL)
        if (token != NULL && strncmp(word, TOKEN, strlen(TOKEN)) == 0)
            has_token = is_same(word + strlen(TOKEN), token);
    return has_key && has_token;
}

static bool shake_hands(int client, const device_options *o, const char *match_key) {
    char words[1024], name[DEVICE_MAX_KEY + 8];
    message m = {0};
    bool is_good = message_resize(&m, 8) && wire_receive(client, m.data, 8) &&
                   message_i32(&m) == DEVICE_RPC_MAGIC;
    int32_t length = is_good ? message_i32(&m) : -1;
    is_good = length >= 0 && length < (int32_t)sizeof words &&
              wire_receive(client, words, (size_t)length);
    if (is_good) {
        words[length] = '\0';
        is_good = is_welcome(words, match_key, o->token);
        message_clear(&m);
        message_add_i32(&m, DEVICE_RPC_MAGIC + (is_good ? 0 : 2)); /* 2: the key is not ours */
        if (is_good) {
            int size = snprintf(name, sizeof name, "server:%s", o->key);
            message_add_i32(&m, size);
            message_add(&m, name, (size_t)size);
        }
        is_good = wire_send(client, m.data, m.size) && is_good;
    }
    message_free(&m);
    return is_good;
}

/* Notice clients that vanish without a word, so that the board is free for others again. */
static void keep_alive(int client) {
    int yes = 1, idle = 30, interval = 10, count = 3;
    setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(client, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(client, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(client, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *place) {
    (void)status, (void)type, (void)place;
    return remove(path);
}

static void session(int client, const device_options *o, const char *match_key,
                    const char *folder, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(NO_SESSION);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    keep_alive(client);
    alarm(HANDSHAKE_S);
    if (!shake_hands(client, o, match_key)) _exit(NO_SESSION);
    alarm(0);
    fputs("session begins\n", stderr);
    if (chdir(folder) != 0) _exit(1);
    device_serve(client, o->launcher);
    _exit(0);
}

/* Serve a client in a process of its own and wait for it. False when it was turned away. */
static bool attend(int client, const device_options *o, const char *match_key) {
    char folder[512];
    if (snprintf(folder, sizeof folder, "%s/ofa-board-XXXXXX", o->folder) >= (int)sizeof folder ||
        mkdtemp(folder) == NULL) {
        complain(o->folder, strerror(errno));
        return false;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) session(client, o, match_key, folder, parent);
    close(client);
    served_by = pid;
    if (is_stopped && pid > 0) kill(pid, SIGKILL); /* the signal came before we knew whom to end */
    int status = NO_SESSION << 8;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    served_by = 0;
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    bool is_served = !(WIFEXITED(status) && WEXITSTATUS(status) == NO_SESSION) &&
                     !(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM);
    fputs(is_served ? "session is over\n" : "a client was turned away\n", stderr);
    return is_served;
}

/* Wait for a client for a while; -1 if none came. */
static int next_client(int listener) {
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    if (poll(&wait, 1, PING_MS) <= 0) return -1;
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static void serve(const device_options *o, int listener, device_registration *r) {
    bool is_offered = false;
    while (!is_stopped) {
        if (o->has_tracker && !is_offered) {
            is_offered = device_offer(r);
            if (!is_offered) {
                complain("the tracker does not take us", strerror(errno));
                sleep(RETRY_S);
                continue;
            }
            fputs("offered to the tracker\n", stderr);
        }
        int client = next_client(listener);
        if (client >= 0) {
            /* A key that was used is used up. */
            if (attend(client, o, o->has_tracker ? r->match_key : o->key)) is_offered = false;
        } else if (o->has_tracker && !is_stopped) {
            is_offered = device_renew(r);
        }
    }
}

int main(int argc, char **argv) {
    device_options o;
    int code = parse_device_options(&o, argc, argv);
    if (code != 0 || o.is_help) return code;
    struct sigaction action = {.sa_handler = stop}; /* no SA_RESTART: poll and waitpid shall end */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    int port = 0, listener = open_listener(&o, &port);
    if (listener < 0) return complain("cannot listen", strerror(errno));
    printf("listening on port %d\n", port);
    fflush(stdout);
    device_registration r = {.tracker = o.tracker, .key = o.key, .own_address = o.own_address,
                             .own_port = port, .fd = -1};
    serve(&o, listener, &r);
    device_withdraw(&r);
    close(listener);
    fputs("stopped\n", stderr);
    return 0;
}
