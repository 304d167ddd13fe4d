/* Lets a TVM RPC server run programs: uploaded and loaded as a module, it exports two functions
 * in TVM's calling convention. Compiled against the headers of tvm_ffi; its library is in the
 * server already. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#include "board.h"

#define MAX_ARGUMENTS 64
#define MAX_HEADER 64
#define EXPORT __attribute__((visibility("default")))

/* The names that TVM looks for behind `ofa_board_facts` and `ofa_board_run`. */
EXPORT int __tvm_ffi_ofa_board_facts(void *self, const TVMFFIAny *args, int32_t num_args,
                                     TVMFFIAny *result);
EXPORT int __tvm_ffi_ofa_board_run(void *self, const TVMFFIAny *args, int32_t num_args,
                                   TVMFFIAny *result);

static int fail(const char *message) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", message);
    return -1;
}

static int return_bytes(const char *data, size_t size, TVMFFIAny *result) {
    TVMFFIByteArray bytes = {.data = data, .size = size};
    return TVMFFIBytesFromByteArray(&bytes, result);
}

/* View a text argument, however the caller passed it. */
static bool view(const TVMFFIAny *any, TVMFFIByteArray *bytes) {
    switch (any->type_index) {
    case kTVMFFIRawStr:
        *bytes = (TVMFFIByteArray){.data = any->v_c_str, .size = strlen(any->v_c_str)};
        return true;
    case kTVMFFIByteArrayPtr:
        *bytes = *(const TVMFFIByteArray *)any->v_ptr;
        return true;
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
        *bytes = (TVMFFIByteArray){.data = any->v_bytes, .size = any->small_str_len};
        return true;
    case kTVMFFIStr:
    case kTVMFFIBytes: /* the view lies behind the object's header */
        *bytes = *(const TVMFFIByteArray *)(const void *)(any->v_obj + 1);
        return true;
    default: return false;
    }
}

int __tvm_ffi_ofa_board_facts(void *self, const TVMFFIAny *args, int32_t num_args,
                              TVMFFIAny *result) {
    (void)self, (void)args, (void)num_args;
    char text[8192];
    return return_bytes(text, board_facts(text, sizeof text), result);
}

/* (limit_ms, words of the command with a NUL after each) -> "STATUS IS_TIMED_OUT\n" and output. */
int __tvm_ffi_ofa_board_run(void *self, const TVMFFIAny *args, int32_t num_args,
                            TVMFFIAny *result) {
    (void)self;
    TVMFFIByteArray words;
    if (num_args != 2 || args[0].type_index != kTVMFFIInt || !view(&args[1], &words))
        return fail("ofa_board_run takes a time limit and a command");
    if (words.size == 0 || words.data[words.size - 1] != '\0')
        return fail("each word of a command ends with NUL");
    char *command = malloc(words.size), *argv[MAX_ARGUMENTS + 1];
    board_result *run = malloc(sizeof *run + MAX_HEADER);
    if (command == NULL || run == NULL) return free(command), free(run), fail("out of memory");
    memcpy(command, words.data, words.size);
    size_t count = 0;
    for (size_t i = 0; i < words.size && count < MAX_ARGUMENTS; i += strlen(command + i) + 1)
        argv[count++] = command + i;
    argv[count] = NULL;
    board_job job = {.argv = argv, .limit_ms = (long)args[0].v_int64, .watched = -1};
    const char *reason = board_run(&job, run);
    int code = -1;
    if (reason != NULL) {
        fail(reason);
    } else {
        char header[MAX_HEADER];
        int length = snprintf(header, sizeof header, "%d %d\n", run->status, run->is_timed_out);
        memmove(run->output + length, run->output, run->size);
        memcpy(run->output, header, (size_t)length);
        code = return_bytes(run->output, run->size + (size_t)length, result);
    }
    free(command);
    free(run);
    return code;
}
