/* One client's session: the server's half of TVM's RPC protocol (src/runtime/rpc of TVM 0.27),
 * reduced to six functions. Everything a client can do is in FUNCTIONS. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "board.h"
#include "device.h"
#include "device_wire.h"

#define PROTOCOL "0.8.0"
#define MAX_PACKET ((uint64_t)1 << 30)
#define MAX_ARGUMENTS 8
#define MAX_WORDS 64

enum { SHUTDOWN = 1, INIT = 2, CALL = 3, RETURN = 4, EXCEPTION = 5, FIND = 9, FREE = 10 };
/* Types of values, as tvm_ffi numbers them. */
enum {
    NONE = 0, INT = 1, BOOL = 2, FLOAT = 3, OPAQUE = 4, RAW_STR = 8, BYTE_ARRAY = 9,
    SMALL_STR = 11, SMALL_BYTES = 12, STR = 65, BYTES = 66
};

typedef struct {
    int type;
    int64_t number;
    const char *data;
    size_t size;
} value;

typedef struct {
    value arguments[MAX_ARGUMENTS];
    int num_arguments;
    int client;
    char *const *launcher;
    message result; /* what the function returns, as bytes */
    bool has_result;
    const char *error;
} call;

static bool read_value(message *in, value *v) {
    v->type = message_i32(in);
    switch (v->type) {
    case NONE: break;
    case INT:
    case BOOL:
    case FLOAT:
    case OPAQUE: v->number = message_i64(in); break;
    case SMALL_STR:
    case SMALL_BYTES:
    case STR:
    case BYTES:
        message_i32(in); /* the type once more */
        v->data = message_bytes(in, &v->size);
        break;
    case RAW_STR:
    case BYTE_ARRAY: v->data = message_bytes(in, &v->size); break;
    default: return false;
    }
    return !in->is_failed;
}

static bool read_values(message *in, call *c) {
    c->num_arguments = message_i32(in);
    if (c->num_arguments < 0 || c->num_arguments > MAX_ARGUMENTS) return false;
    for (int i = 0; i < c->num_arguments; ++i)
        if (!read_value(in, &c->arguments[i])) return false;
    return !in->is_failed;
}

/* Copy a file's name out of an argument. Only plain names: nothing outside the session's folder
 * is ever opened. */
static bool plain_name(call *c, int index, char *name, size_t size) {
    const value *v = &c->arguments[index];
    bool is_plain = index < c->num_arguments && v->data != NULL && v->size > 0 && v->size < size &&
                    v->data[0] != '.' && memchr(v->data, '/', v->size) == NULL &&
                    memchr(v->data, '\0', v->size) == NULL;
    if (!is_plain) {
        c->error = "a file has a plain name here, without '/' or a leading '.'";
        return false;
    }
    memcpy(name, v->data, v->size);
    name[v->size] = '\0';
    return true;
}

static void upload(call *c) {
    char name[256];
    if (!plain_name(c, 0, name, sizeof name)) return;
    const value *content = &c->arguments[1];
    if (c->num_arguments < 2 || content->data == NULL) {
        c->error = "upload takes a name and bytes";
        return;
    }
    unlink(name); /* a program that runs cannot be written to */
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t done = 0;
    while (fd >= 0 && done < content->size) {
        ssize_t written = write(fd, content->data + done, content->size - done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        done += (size_t)written;
    }
    if (fd < 0 || done < content->size) c->error = strerror(errno);
    if (fd >= 0 && close(fd) != 0 && c->error == NULL) c->error = strerror(errno);
    if (c->error != NULL) unlink(name);
}

static void download(call *c) {
    char name[256];
    if (!plain_name(c, 0, name, sizeof name)) return;
    struct stat status;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool is_good = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                   (uint64_t)status.st_size < MAX_PACKET &&
                   message_resize(&c->result, (size_t)status.st_size);
    size_t done = 0;
    while (is_good && done < c->result.size) {
        ssize_t got = read(fd, c->result.data + done, c->result.size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) is_good = false;
        else done += (size_t)got;
    }
    if (!is_good) c->error = errno != 0 ? strerror(errno) : "the file cannot be read";
    if (fd >= 0) close(fd);
    c->has_result = is_good;
}

static void delete_file(call *c) {
    char name[256];
    if (plain_name(c, 0, name, sizeof name) && unlink(name) != 0) c->error = strerror(errno);
}

static void facts(call *c) {
    char text[8192];
    message_add(&c->result, text, board_facts(text, sizeof text));
    c->has_result = true;
}

static void run(call *c) {
    const value *words = &c->arguments[1];
    if (c->num_arguments != 2 || c->arguments[0].type != INT || words->data == NULL ||
        words->size == 0 || words->data[words->size - 1] != '\0') {
        c->error = "ofa_board_run takes a time limit and words that end with NUL";
        return;
    }
    char *argv[MAX_WORDS + 1];
    size_t count = 0;
    char *command = malloc(words->size);
    board_result *result = malloc(sizeof *result);
    if (command == NULL || result == NULL) {
        c->error = "out of memory";
    } else {
        memcpy(command, words->data, words->size);
        for (size_t i = 0; i < words->size && count < MAX_WORDS; i += strlen(command + i) + 1)
            argv[count++] = command + i;
        argv[count] = NULL;
        board_job job = {.argv = argv, .launcher = c->launcher, .watched = c->client,
                         .limit_ms = (long)c->arguments[0].number};
        c->error = board_run(&job, result);
    }
    if (c->error == NULL) {
        char header[64];
        int length = snprintf(header, sizeof header, "%d %d\n", result->status,
                              result->is_timed_out);
        message_add(&c->result, header, (size_t)length);
        message_add(&c->result, result->output, result->size);
        c->has_result = true;
    }
    free(command);
    free(result);
}

static const struct {
    const char *name;
    void (*function)(call *);
} FUNCTIONS[] = {
    {"tvm.rpc.server.upload", upload},     {"tvm.rpc.server.download", download},
    {"tvm.rpc.server.remove", delete_file}, {"ofa_board_run", run},
    {"ofa_board_facts", facts},
};
#define NUM_FUNCTIONS ((int64_t)(sizeof FUNCTIONS / sizeof *FUNCTIONS))

/* Handles are places in FUNCTIONS, counted from one: 0 says that there is none. */
static int64_t find(const value *name) {
    for (int64_t i = 0; i < NUM_FUNCTIONS; ++i)
        if (name->data != NULL && name->size == strlen(FUNCTIONS[i].name) &&
            memcmp(name->data, FUNCTIONS[i].name, name->size) == 0)
            return i + 1;
    return 0;
}

static void add_error(message *out, const char *text) {
    message_clear(out);
    message_add_i32(out, EXCEPTION);
    message_add_i32(out, 1);
    message_add_i32(out, RAW_STR);
    message_add_i64(out, (int64_t)strlen(text));
    message_add(out, text, strlen(text));
}

static void answer_call(int64_t handle, call *c, message *out) {
    errno = 0;
    if (handle < 1 || handle > NUM_FUNCTIONS) c->error = "there is no such function";
    else FUNCTIONS[handle - 1].function(c);
    if (c->result.is_failed && c->error == NULL) c->error = "out of memory";
    if (c->error != NULL) {
        add_error(out, c->error);
        return;
    }
    message_add_i32(out, RETURN);
    message_add_i32(out, 2);
    message_add_i32(out, INT);
    message_add_i64(out, c->has_result ? BYTES : NONE);
    message_add_i32(out, c->has_result ? BYTE_ARRAY : NONE);
    if (!c->has_result) return;
    message_add_i64(out, (int64_t)c->result.size);
    message_add(out, c->result.data, c->result.size);
}

/* Answer one packet. False ends the session. */
static bool answer(message *in, message *out, int client, char *const launcher[]) {
    call c = {.client = client, .launcher = launcher};
    int code = message_i32(in);
    int64_t handle = code == CALL ? message_i64(in) : 0;
    size_t length = 0;
    const char *version = code == INIT ? message_bytes(in, &length) : "";
    if (code == SHUTDOWN || !read_values(in, &c)) return false;
    message_clear(out);
    if (code == INIT && (length != strlen(PROTOCOL) || memcmp(version, PROTOCOL, length) != 0)) {
        add_error(out, "this board speaks protocol " PROTOCOL " of TVM RPC and the client does not");
    } else if (code == INIT && c.num_arguments > 0) {
        add_error(out, "this board has no session constructors");
    } else if (code == CALL) {
        answer_call(handle, &c, out);
    } else if (code == INIT || code == FREE) {
        message_add_i32(out, RETURN);
        message_add_i32(out, 1);
        message_add_i32(out, NONE);
    } else if (code == FIND) {
        message_add_i32(out, RETURN);
        message_add_i32(out, 1);
        message_add_i32(out, OPAQUE);
        message_add_i64(out, c.num_arguments == 1 ? find(&c.arguments[0]) : 0);
    } else {
        add_error(out, "this board only runs programs");
    }
    message_free(&c.result);
    return !out->is_failed;
}

void device_serve(int client, char *const launcher[]) {
    message in = {0}, out = {0}, size = {0};
    for (;;) {
        message_clear(&size);
        if (!message_resize(&size, 8) || !wire_receive(client, size.data, 8)) break;
        uint64_t bytes = (uint64_t)message_i64(&size);
        message_clear(&in);
        if (bytes == 0) continue;
        if (bytes > MAX_PACKET || !message_resize(&in, (size_t)bytes)) break;
        if (!wire_receive(client, in.data, (size_t)bytes)) break;
        if (!answer(&in, &out, client, launcher)) break;
        message_clear(&size);
        message_add_i64(&size, (int64_t)out.size);
        if (!wire_send(client, size.data, 8) || !wire_send(client, out.data, out.size)) break;
    }
    message_free(&in);
    message_free(&out);
    message_free(&size);
}
