#define _POSIX_C_SOURCE 200809L
#include "device_options.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_VARIABLE "OFA_COMPILE_BOARD_TOKEN"

static void print_usage(const char *program) {
    printf("usage: %s --listen ADDRESS:PORT --key KEY [options] [--run-with WORDS ...]\n"
           "\n"
           "Let ofa-compile run programs on this board, through TVM RPC. Whoever can connect and\n"
           "knows the key (and the token) can run any program as the user of this daemon: start it\n"
           "as a user without rights, on a network you trust.\n"
           "\n"
           "  --listen ADDRESS:PORT  numeric address of one interface; port 0 takes any\n"
           "  --key KEY              what this board is called: clients ask for it\n"
           "  --tracker ADDRESS:PORT register with this RPC tracker\n"
           "  --own-address ADDRESS  what clients connect to, where the tracker sees another one\n"
           "  --all-interfaces       allow 0.0.0.0 and ::\n"
           "  --folder FOLDER        for uploaded files (default /tmp)\n"
           "  --run-with WORDS ...   put these before each program, such as: taskset -c 3\n"
           "  --help                 show this text\n"
           "\n"
           "Clients must know the token in the environment variable " TOKEN_VARIABLE ", if set.\n",
           program);
}

static int complain(const char *subject, const char *reason) {
    fprintf(stderr, "error: %s: %s\n", subject, reason);
    return 2;
}

static bool is_address(const char *text) {
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

static bool is_everywhere(const char *text) {
    struct in6_addr v6;
    struct in_addr v4;
    if (inet_pton(AF_INET, text, &v4) == 1) return v4.s_addr == 0;
    if (inet_pton(AF_INET6, text, &v6) != 1) return false;
    /* The IPv4 address 0.0.0.0 in the words of IPv6 is all interfaces as well. */
    static const unsigned char no_bytes[4];
    bool is_ipv4 = IN6_IS_ADDR_V4MAPPED(&v6) && memcmp(&v6.s6_addr[12], no_bytes, 4) == 0;
    return is_ipv4 || memcmp(&v6, &in6addr_any, sizeof v6) == 0;
}

/* Split "ADDRESS:PORT" or "[ADDRESS]:PORT" in place. */
static bool parse_endpoint(char *text, int lowest_port, device_endpoint *e) {
    char *colon = text != NULL ? strrchr(text, ':') : NULL, *end = NULL;
    if (colon == NULL || colon[1] < '0' || colon[1] > '9') return false;
    long port = strtol(colon + 1, &end, 10);
    if (*end != '\0' || port < lowest_port || port > 65535) return false;
    *colon = '\0';
    if (*text == '[' && colon > text && colon[-1] == ']') {
        colon[-1] = '\0';
        ++text;
    }
    e->address = text;
    e->port = (int)port;
    return is_address(text);
}

/* Letters, digits, '.', '_' and '-': what needs no quoting anywhere. */
static bool is_key(const char *text) {
    size_t length = strlen(text);
    return length > 0 && length < DEVICE_MAX_KEY &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               length;
}

static int set_option(device_options *o, const char *name, char *value) {
    if (value == NULL) return complain(name, "wants a value");
    if (strcmp(name, "--listen") == 0)
        return parse_endpoint(value, 0, &o->listen)
                   ? 0
                   : complain(name, "wants a numeric ADDRESS:PORT, such as 192.168.1.7:9090");
    if (strcmp(name, "--tracker") == 0) {
        o->has_tracker = true;
        return parse_endpoint(value, 1, &o->tracker)
                   ? 0
                   : complain(name, "wants a numeric ADDRESS:PORT, such as 192.168.1.2:9190");
    }
    if (strcmp(name, "--own-address") == 0) {
        o->own_address = value;
        return is_address(value) ? 0 : complain(name, "wants a numeric address");
    }
    if (strcmp(name, "--key") == 0) {
        o->key = value;
        return is_key(value) ? 0 : complain(name, "takes letters, digits, '.', '_' and '-'");
    }
    if (strcmp(name, "--folder") == 0) {
        o->folder = value;
        return 0;
    }
    return complain(name, "unknown option; see --help");
}

static int check(const device_options *o, bool may_be_everywhere) {
    if (o->listen.address == NULL)
        return complain("--listen", "is missing: name the address of one interface");
    if (is_everywhere(o->listen.address) && !may_be_everywhere)
        return complain(o->listen.address, "would listen on all interfaces; name one, or add "
                                           "--all-interfaces");
    if (o->key == NULL) return complain("--key", "is missing: clients ask for a board by its key");
    if (o->token != NULL && strpbrk(o->token, " \t\r\n") != NULL)
        return complain(TOKEN_VARIABLE, "must not hold white space");
    return 0;
}

int parse_device_options(device_options *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    o->folder = "/tmp";
    bool may_be_everywhere = false;
    const char *token = getenv(TOKEN_VARIABLE);
    if (token != NULL && *token != '\0') o->token = token;
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") == 0) {
            o->is_help = true;
            print_usage(argv[0]);
            return 0;
        }
        if (strcmp(argv[i], "--all-interfaces") == 0) {
            may_be_everywhere = true;
        } else if (strcmp(argv[i], "--run-with") == 0) {
            if (i + 1 == argc) return complain(argv[i], "wants the words of a command");
            o->launcher = argv + i + 1; /* argv ends with NULL */
            break;
        } else {
            int code = set_option(o, argv[i], argv[i + 1]);
            if (code != 0) return code;
            ++i;
        }
    }
    return check(o, may_be_everywhere);
}
