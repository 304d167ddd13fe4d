/* Registers the board with TVM's RPC tracker: JSON documents behind 32-bit lengths. */
#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "device.h"
#include "device_wire.h"

#define TRACKER_MAGIC 0x2F271
#define PUT 3
#define UPDATE_INFO 5
#define PENDING_KEYS 7
#define MAX_ANSWER (1 << 20)
#define TIMEOUT_S 10
/* Rounds of two seconds in which a client may come that the tracker has given our key to. */
#define PATIENCE 4

int device_connect(const device_endpoint *to, int seconds) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)to->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)to->port)};
    bool is_v6 = strchr(to->address, ':') != NULL;
    if (inet_pton(is_v6 ? AF_INET6 : AF_INET, to->address,
                  is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = seconds};
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int code = is_v6 ? connect(fd, (struct sockaddr *)&v6, sizeof v6)
                     : connect(fd, (struct sockaddr *)&v4, sizeof v4);
    if (code != 0) {
        int reason = errno;
        close(fd);
        errno = reason;
        return -1;
    }
    return fd;
}

/* Send a document and return the answer as text; NULL when the tracker fails. */
static const char *ask(int fd, const char *document, message *answer) {
    message size = {0};
    message_add_i32(&size, (int32_t)strlen(document));
    bool is_good = wire_send(fd, size.data, size.size) &&
                   wire_send(fd, document, strlen(document)) && wire_receive(fd, size.data, 4);
    size.position = 0;
    int32_t bytes = is_good ? message_i32(&size) : 0;
    message_free(&size);
    message_clear(answer);
    if (bytes <= 0 || bytes > MAX_ANSWER || !message_resize(answer, (size_t)bytes + 1)) return NULL;
    answer->data[bytes] = '\0';
    return wire_receive(fd, answer->data, (size_t)bytes) ? (const char *)answer->data : NULL;
}

/* A key that no other client can guess. */
static bool draw_match_key(device_registration *r) {
    unsigned char random[16];
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    bool is_drawn = fd >= 0 && read(fd, random, sizeof random) == (ssize_t)sizeof random;
    if (fd >= 0) close(fd);
    if (!is_drawn) return false;
    int end = snprintf(r->match_key, sizeof r->match_key, "%s:", r->key);
    for (size_t i = 0; i < sizeof random; ++i)
        end += snprintf(r->match_key + end, sizeof r->match_key - (size_t)end, "%02x", random[i]);
    return true;
}

static bool put(device_registration *r) {
    char document[512], address[80] = "null";
    if (r->own_address != NULL) snprintf(address, sizeof address, "\"%s\"", r->own_address);
    r->num_unseen = 0;
    if (!draw_match_key(r)) return false;
    snprintf(document, sizeof document, "[%d, \"%s\", [%d, \"%s\"], %s]", PUT, r->key, r->own_port,
             r->match_key, address);
    message answer = {0};
    const char *text = ask(r->fd, document, &answer);
    bool is_taken = text != NULL && strcmp(text, "0") == 0;
    message_free(&answer);
    return is_taken;
}

static bool introduce(device_registration *r) {
    char document[512], address[80] = "null";
    if (r->own_address != NULL) snprintf(address, sizeof address, "\"%s\"", r->own_address);
    snprintf(document, sizeof document, "[%d, {\"key\": \"server:%s\", \"addr\": [%s, %d]}]",
             UPDATE_INFO, r->key, address, r->own_port);
    message magic = {0}, answer = {0};
    message_add_i32(&magic, TRACKER_MAGIC);
    bool is_good = wire_send(r->fd, magic.data, 4) && wire_receive(r->fd, magic.data, 4) &&
                   message_i32(&magic) == TRACKER_MAGIC;
    const char *text = is_good ? ask(r->fd, document, &answer) : NULL;
    is_good = text != NULL && strcmp(text, "0") == 0;
    message_free(&magic);
    message_free(&answer);
    return is_good;
}

bool device_offer(device_registration *r) {
    if (r->fd < 0) {
        r->fd = device_connect(&r->tracker, TIMEOUT_S);
        if (r->fd < 0) return false;
        errno = EPROTO;
        if (!introduce(r)) {
            device_withdraw(r);
            return false;
        }
    }
    errno = EPROTO;
    if (put(r)) return true;
    device_withdraw(r);
    return false;
}

bool device_renew(device_registration *r) {
    char document[16];
    snprintf(document, sizeof document, "[%d]", PENDING_KEYS);
    message answer = {0};
    const char *text = ask(r->fd, document, &answer);
    bool is_alive = text != NULL, is_seen = is_alive && strstr(text, r->match_key) != NULL;
    message_free(&answer);
    if (!is_alive) {
        device_withdraw(r);
        return false;
    }
    /* A key that is gone was given to a client; one that does not come has died. */
    r->num_unseen = is_seen ? 0 : r->num_unseen + 1;
    return r->num_unseen < PATIENCE || device_offer(r);
}

void device_withdraw(device_registration *r) {
    int reason = errno;
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    errno = reason;
}
